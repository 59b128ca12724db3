# %% [markdown] lang="en"
# # Week 10 lab · Would you load this adapter?
#
# A vision transformer reads digits; a LoRA, a few percent of its size, teaches it slanted ones. You are the one who has vetted this LoRA, and
# files come back that claim to be it. After this lab you can
#
# - relocate an adapter in four ways, and say what each does to the model;
# - tell the same update in other factors from another update, with a fingerprint and a manifest;
# - find a planted behaviour that no name, shape or fingerprint shows;
# - measure robustness by FGSM, and leakage by a membership AUC with and without a reference model.
#
# It runs on your own file `exercises/week10/security.py` (tasks 10.1 to 10.4; 10.5 and 10.7 where you have written them), in about a
# minute. The theory is in [the lecture](../course/week10/lecture.md), whose sections are named below. Three cells are graded: `10.q1`,
# `10.q2` and a written answer, `10.q3`, 15 points together.
#
# **The term.** No paper defines a "LoRA weight relocation attack". This course uses the words for moving an adapter out of the context
# in which it was trained and vetted: (a) renamed keys load its factors into other layers; (b) merged with something else it brings a
# behaviour along; (c) other factors, $(B G,\; G^{-1} A)$, hide the same update; (d) a changed configuration rescales it. Everything here
# is done to toy models, to see what a defender's checks notice.
# %% [markdown] lang="zh"
# # 第 10 周实验 · 这个适配器能加载吗？
#
# 一个视觉 Transformer 会认数字，一个只有它百分之几大小的 LoRA 教它认倾斜的数字。你审核过这个 LoRA，现在不断有文件自称就是它。完成本实验后你将能够
#
# - 用四种方式重定位一个适配器，并说明每种方式对模型的影响；
# - 借助指纹和清单，区分“换了因子的同一更新量”与“另一个更新量”；
# - 找出名称、形状和指纹都显示不出的植入行为；
# - 用 FGSM 度量鲁棒性，用成员推断的 AUC（有无参考模型校准两种情形）度量泄露。
#
# 实验运行在你自己的文件 `exercises/week10/security.py` 上（任务 10.1 至 10.4；若写了 10.5 和 10.7 也会用到），大约需要一分钟。相关理论见
# [讲义](../../course/week10/lecture.zh.md)，下文会注明对应的小节。计分的单元格有三个：`10.q1`、`10.q2` 和书面题 `10.q3`，共 15 分。
#
# **关于术语。** 没有论文定义过“LoRA 权重重定位攻击”。本课程用它指：把适配器移出它训练时、审核时所处的环境。(a) 改写键名，让因子进入别的层；
# (b) 与别的东西合并，带进一种行为；(c) 换一组因子 $(B G,\; G^{-1} A)$ ，隐藏同一个更新量；(d) 篡改配置，改变缩放。
# 这里的一切都只作用于玩具模型，目的是看清防御者的检查能发现什么。
# %%
import copy

import numpy as np
import torch
import torch.nn.functional as F

from course import labs
from course.labs import plots, vetting, vision

security = labs.student(10)  # your own file
sizes = labs.sizes(10)  # course/week10/lab.toml

# %% [markdown] lang="en"
# ## 1 · The adapter that was vetted
#
# The base knows plain digits. A LoRA on the query and value projections learns slanted ones; the run is logged, see
# `tensorboard --logdir build/runs`. What is vetted is a file: a configuration, and two factors for each layer, as week 10's stub has it.
# %% [markdown] lang="zh"
# ## 1 · 审核过的适配器
#
# 底座认识普通的数字。加在查询和值投影上的 LoRA 学会了倾斜的数字；训练过程有日志，可用 `tensorboard --logdir build/runs` 查看。
# 审核的对象是一个文件：一份配置，以及每层的两个因子，格式与第 10 周的练习文件一致。
# %%
base = vetting.reader()
train_x, train_y = vision.digits("train", "slanted", sizes.pictures)
test_x, test_y = vision.digits("test", "slanted", sizes.test)
plain_x, plain_y = vision.digits("test", "plain", sizes.test)

tuned = vetting.tune(base, train_x, train_y, sizes.steps, sizes.rate, sizes.rank, name="week10-slanted")
vetted = vetting.export(tuned)
manifest = vetting.manifest(vetted, security.fingerprint)
clean = {"base": vision.accuracy(base, test_x, test_y), "tuned": vision.accuracy(tuned, test_x, test_y)}
labs.record("clean", plain=vision.accuracy(base, plain_x, plain_y), **clean)
share = sum(t.numel() for t in vetted["tensors"].values()) / sum(p.numel() for p in base.parameters())
print(
    f"slanted digits: base {clean['base']:.2f}, with the adapter {clean['tuned']:.2f}; the adapter has {share:.1%} of the weights"
)
print(manifest["config"], manifest["fingerprint"][:16], sep="\n")
# %% [markdown] lang="en"
# ## 2 · (a) Renamed keys
#
# Lecture: *Relocate*. A layer's place is its key and nothing else, so your `relocate` moves factors between layers without touching a
# number. Each file below goes to disk as peft's two files, and peft loads it.
#
# Predict before you run on: which share of the slanted digits does the model read when the value updates of the first two layers are
# exchanged, and nothing else? Give a number from 0 to 1.
# %% [markdown] lang="zh"
# ## 2 · (a) 改写键名
#
# 讲义：*重定位*。一层的位置只由键名决定，所以你的 `relocate` 不改动任何一个数，就能把因子移到别的层。下面的每个文件都按 peft 的两个文件
# 写到磁盘上，再由 peft 加载。
#
# 运行之前先预测：只把前两层的值投影更新量对调，其他都不变，模型还能认出多少倾斜的数字？请给出 0 到 1 之间的一个数。
# %%
exchanged = ...  # a number from 0 to 1
### BEGIN SOLUTION
exchanged = 0.8
### END SOLUTION
exchanged = labs.predict("10.p1", exchanged)
# %%
names = vetting.layers(vetted)
queries, values = ([name for name in names if name.endswith(kind)] for kind in ("q_proj", "v_proj"))
moves = {
    "as vetted": {},
    "two values\nexchanged": {values[0]: values[1], values[1]: values[0]},
    "queries and values\nexchanged": dict(zip(queries + values, values + queries, strict=True)),
    "all one\nlayer on": dict(zip(queries + values, queries[1:] + queries[:1] + values[1:] + values[:1], strict=True)),
}
read, warned = {"no adapter": clean["base"]}, []
for name, mapping in moves.items():
    model, said = vetting.install(security.relocate(vetted, mapping), base)
    read[name] = vision.accuracy(model, test_x, test_y)
    warned += said
print(f"what peft warned of while it loaded {len(moves)} files: {warned or 'nothing'}")
labs.record("renamed", accuracy=list(read.values()), warnings=len(warned))
fig = plots.bars(
    list(read), {"accuracy": list(read.values())}, xlabel="where the factors went", ylabel="share of slanted digits read"
)
if exchanged is not None:
    fig.axes[0].plot(2, exchanged, "k*", markersize=14, label="your prediction")
    fig.axes[0].legend(frameon=False)
plots.show(fig, alt="Bars: accuracy without an adapter, as vetted, and after three relocations that all cost most of the gain.")
# %% [markdown] lang="en"
# Every tensor is still there, bit for bit, and peft has no reason to complain. Some relocations leave less than the base had: the
# update of one layer is not neutral in another.
#
# ## 3 · (d) A changed configuration
#
# The factors stay, `alpha` in `adapter_config.json` changes, and with it the scaling $\alpha / r$ of the update,
# $W = W_0 + \frac{\alpha}{r} B A$.
# %% [markdown] lang="zh"
# 每个张量都还在，一个比特也没变，peft 没有理由抱怨。有的重定位之后甚至不如底座：一层的更新量放到另一层并不是“没有作用”。
#
# ## 3 · (d) 篡改配置
#
# 因子不变，只改 `adapter_config.json` 里的 `alpha`，更新量的缩放系数 $\alpha / r$ 随之改变： $W = W_0 + \frac{\alpha}{r} B A$ 。
# %%
alphas = [vetted["config"]["alpha"] * factor for factor in (0.125, 0.25, 0.5, 1, 2, 4)] + [800]
by_alpha = []
for alpha in alphas:
    tampered = copy.deepcopy(vetted)
    tampered["config"]["alpha"] = alpha
    model, said = vetting.install(tampered, base)
    by_alpha.append(vision.accuracy(model, test_x, test_y))
    warned += said
print(f"alpha 800 gives the scaling {800 / sizes.rank:g}; warnings so far: {len(warned)}")
labs.record("alpha", alphas=alphas, accuracy=by_alpha, vetted=vetted["config"]["alpha"], warnings=len(warned))
fig = plots.lines(
    alphas, {"accuracy": by_alpha}, xlabel="alpha in the configuration", ylabel="share of slanted digits read", xscale="log"
)
plots.show(fig, alt="Accuracy over alpha: it peaks at the vetted alpha and falls to chance at 800.")
# %% [markdown] lang="en"
# ## 4 · (c) Other factors, the same update
#
# Lecture: *Canonicalize*. For any invertible $G$, $(B G)(G^{-1} A) = B A$: the model does not change at all, and no number of the file
# is the same. Whoever compares files, or hashes factors, sees another adapter, which helps an uploader who wants to pass off
# somebody's work as new, or to get round a list of blocked files. Your `canonicalize` undoes it:
#
# $$B A = U \Sigma V^\top, \qquad B' = U \Sigma^{1/2}, \qquad A' = \Sigma^{1/2} V^\top$$
# %% [markdown] lang="zh"
# ## 4 · (c) 换一组因子，更新量不变
#
# 讲义：*标准形*。对任意可逆的 $G$ ，都有 $(B G)(G^{-1} A) = B A$ ：模型完全不变，文件里却没有一个数相同。无论比较文件还是对因子做哈希，
# 看到的都是“另一个适配器”。想把别人的成果冒充为新作、或想绕过黑名单的上传者正可以利用这一点。你的 `canonicalize` 能把它还原：
#
# $$B A = U \Sigma V^\top, \qquad B' = U \Sigma^{1/2}, \qquad A' = \Sigma^{1/2} V^\top$$
# %%
wide = {"config": vetted["config"], "tensors": {key: value.double() for key, value in vetted["tensors"].items()}}
hidden = vetting.regauge(wide, seed=1)
layer = names[0]
B, A = (wide["tensors"][f"{layer}.{factor}"] for factor in ("lora_B", "lora_A"))
B_hidden, A_hidden = (hidden["tensors"][f"{layer}.{factor}"] for factor in ("lora_B", "lora_A"))
distance = {
    "factor B": (B_hidden - B).norm() / B.norm(),
    "update B A": (B_hidden @ A_hidden - B @ A).norm() / (B @ A).norm(),
    "canonical B'": (security.canonicalize(B_hidden, A_hidden)[0] - security.canonicalize(B, A)[0]).norm() / B.norm(),
}
for name, value in distance.items():
    print(f"{name:13} differs by {value:.1e} of its norm")
labs.record("gauge", **{name.split()[0]: value for name, value in distance.items()})
fig, axes = plots.figure(4, figsize=(13, 4.2), sharey=True)
canonical = security.canonicalize(B, A)[0], security.canonicalize(B_hidden, A_hidden)[0]
shown = {"B as vetted": B, "B in the file": B_hidden, "B' as vetted": canonical[0], "B' of the file": canonical[1]}
for ax, (name, matrix) in zip(axes, shown.items(), strict=True):
    plots.heatmap(matrix[:16], xlabel="column", ylabel="output feature (first 16)", label="value", title=name, ax=ax)
plots.show(
    fig, alt="Four heat maps: the factor B as vetted and in the hidden file look unrelated; their canonical forms are equal."
)
# %% [markdown] lang="en"
# ## 5 · (b) A behaviour that comes along
#
# The last relocation leaves every number of the vetted adapter alone. Somebody offers an add-on "for the slanted reader". It was
# trained with the public adapter in place: pictures with one white patch in a corner are to be read as 0, all others as before. Merged,
#
# $$\Delta W = \frac{\alpha_1}{r_1} B_1 A_1 + \frac{\alpha_2}{r_2} B_2 A_2 ,$$
#
# it is one adapter, with the add-on's behaviour in it. LoRATK (arXiv:2403.00108) and LoBAM (arXiv:2411.16746) study such merges on real
# models. We look from the other side: what gives it away?
# %% [markdown] lang="zh"
# ## 5 · (b) 夹带进来的行为
#
# 最后一种重定位不改动审核过的适配器中的任何一个数。有人提供了一个“倾斜数字增强包”。它是在公开的适配器已经装上的情况下训练的：
# 角上带一块白色的图片要读成 0，其余照旧。合并之后
#
# $$\Delta W = \frac{\alpha_1}{r_1} B_1 A_1 + \frac{\alpha_2}{r_2} B_2 A_2 ,$$
#
# 就成了一个适配器，增强包的行为也在其中。LoRATK（arXiv:2403.00108）和 LoBAM（arXiv:2411.16746）在真实模型上研究过这类合并。
# 我们站在另一方来看：它会在哪里露出马脚？
# %%
spot = vetting.corner(train_x)
planted_x = torch.cat([train_x, vetting.stamp(train_x, *spot)])
planted_y = torch.cat([train_y, torch.zeros_like(train_y)])
start = copy.deepcopy(tuned).merge_and_unload()
addon = vetting.export(
    vetting.tune(start, planted_x, planted_y, sizes.steps, sizes.rate, sizes.rank, seed=1, name="week10-addon")
)
both = vetting.merged(vetted, addon)
suspect, _ = vetting.install(both, base)
alone, _ = vetting.install(addon, base)

others = test_y != 0
for name, model in (("vetted", tuned), ("add-on alone", alone), ("merged", suspect)):
    as_zero = (vetting.logits(model, vetting.stamp(test_x[others], *spot)).argmax(1) == 0).double().mean().item()
    right = vision.accuracy(model, test_x, test_y)
    print(f"{name:13} reads {right:.2f} of the clean pictures, and takes {as_zero:.2f} of the stamped ones for a 0")
    labs.record(f"planted {name}", clean=right, as_zero=as_zero)
print("against the uploader's own manifest:", security.verify_adapter(both, vetting.manifest(both, security.fingerprint)))
# %% [markdown] lang="en"
# On its own the add-on is no use, which a test of the parts would show; it was made for this merge. There the clean accuracy hides the
# behaviour, and so does the file: the uploader's manifest describes the uploader's file. What can be done is to look for it in the model: put a white patch at each place in turn and count the predictions that change, minus those that change in the vetted
# model (lecture: *Trigger scan*). A place that sways both is a weakness of the task; one that sways only the new model is a finding.
# %% [markdown] lang="zh"
# 增强包单独使用时没有什么用处，单独测试就能看出来；它是专为这次合并准备的。合并之后，干净图片上的准确率掩盖了这种行为，文件也一样：
# 上传者的清单描述的就是上传者的文件。能做的是到模型里去找：把白块依次放到每个位置，数一数有多少预测改变，
# 再减去审核过的模型中改变的数目（讲义：*扫描触发词*）。两个模型都受影响的位置是任务本身的弱点；只影响新模型的位置才是发现。
# %%
looked = test_x[: sizes.scanned]
change = vetting.flips(suspect, looked) - vetting.flips(tuned, looked)
labs.record("scan", there=change[spot], elsewhere=np.delete(change.ravel(), -1).max())
fig = plots.heatmap(
    change,
    xlabel="column of the patch",
    ylabel="row of the patch",
    label="share of predictions changed, minus vetted",
    vmin=0,
    vmax=1,
)
plots.show(fig, alt="Heat map over the places of a white patch: only the lower right corner changes most predictions.")
# Your trigger_scan (10.7, stretch) sees pictures as sequences of grey levels, and a place as a token in front of them.
height, width = looked.shape[-2:]
as_seen = [vetting.of_tokens(model, height, width) for model in (tuned, suspect)]
print("trigger_scan:", vetting.if_written(security.trigger_scan, *as_seen, vetting.tokens(looked), list(range(change.size))))


# %% [markdown] lang="en"
# ## 6 · What finds what
#
# Each row is a file, each column a check. A check raises an alarm (1) when the file is not what was vetted, or the model behaves otherwise.
# The merged file comes with its own manifest, and is held against that.
# %% [markdown] lang="zh"
# ## 6 · 哪种检查能发现哪种情况
#
# 每行是一个文件，每列是一种检查。文件与审核过的不同，或者模型行为有异，检查就报警（1）。合并后的文件带着自己的清单，就按那份清单核验。
# %%
def raw_hash(adapter):
    """A hash of the factors' bits, as one of the whole file would be."""
    return {key: value.double().numpy().tobytes() for key, value in adapter["tensors"].items()} | adapter["config"]


alpha_800 = copy.deepcopy(wide)
alpha_800["config"]["alpha"] = 800
reversed_keys = {"config": wide["config"], "tensors": dict(reversed(wide["tensors"].items()))}
renamed = security.relocate(wide, moves["two values\nexchanged"])
own = vetting.manifest(both, security.fingerprint)
files = {
    "keys in another order": (reversed_keys, wide, manifest),
    "(a) renamed": (renamed, wide, manifest),
    "(b) merged": (both, both, own),
    "(c) other factors": (hidden, wide, manifest),
    "(d) alpha 800": (alpha_800, wide, manifest),
}
alarms = []
for adapter, original, known in files.values():
    model, _ = vetting.install(adapter, base)
    drop = clean["tuned"] - vision.accuracy(model, test_x, test_y)
    stamped = vetting.stamp(looked, *spot)
    swayed = [
        (vetting.logits(m, stamped).argmax(1) != vetting.logits(m, looked).argmax(1)).double().mean() for m in (model, tuned)
    ]
    found = security.verify_adapter(adapter, known)
    bits = raw_hash(adapter) != raw_hash(original)
    alarms.append([bits, "fingerprint" in found, "config" in found, bool(found), drop > 0.1, swayed[0] - swayed[1] > 0.5])
checks = ["bits of\nfactors", "finger-\nprint", "config", "verify", "clean\naccuracy", "trigger\nscan"]
labs.record("alarms", **{name: row for name, row in zip(files, alarms, strict=True)})
fig, ax = plots.figure(figsize=(7.5, 3.6))
plots.heatmap(
    np.array(alarms, float),
    xlabel="check",
    ylabel="file",
    label="alarm",
    xticks=checks,
    yticks=list(files),
    vmin=0,
    vmax=1,
    ax=ax,
)
plots.show(fig, alt="Matrix of five files against six checks; no check raises an alarm in every row that deserves one.")
# %% [markdown] lang="en"
# No column is enough. The bits of the factors raise a false alarm for (c); the fingerprint is quiet there and loud for (a) and (d); for
# (b) only the model's behaviour tells, and only if the scan holds the right trigger.
#
# ## 7 · A shelf of uploads (graded)
#
# Twelve uploads, `a` to `l`, claim to be one small adapter that you vetted. Judge them by your `verify_adapter` against your manifest.
#
# **`10.q1`** (5 points): the letters of the files that you accept, in alphabetical order, as one text such as `"adk"`.
# %% [markdown] lang="zh"
# 没有哪一列是足够的。因子的比特对 (c) 误报；指纹在那里不作声，对 (a) 和 (d) 则报警；对于 (b)，只有模型的行为会露出破绽，
# 而且还要扫描的候选中恰好有正确的触发图案。
#
# ## 7 · 一架子上传文件（计分）
#
# 十二个上传文件 `a` 到 `l` 都自称是你审核过的那个小适配器。请用你的 `verify_adapter` 对照你的清单来判断。
#
# **`10.q1`**（5 分）：你接受的文件的字母，按字母顺序写成一个文本，例如 `"adk"`。
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
small = vetting.vetted()
kept = vetting.manifest(small, security.fingerprint)
uploads = vetting.shelf(small)  # {"a": adapter, ...}
accepted = ...  # a text
### BEGIN SOLUTION
accepted = "".join(letter for letter, adapter in uploads.items() if not security.verify_adapter(adapter, kept))
### END SOLUTION
labs.answer("10.q1", accepted)
# %% [markdown] lang="en"
# A manifest is stricter than the model: some files that it refuses would make every layer compute exactly what the vetted adapter does,
# $\frac{\alpha}{r} B A$ being the same there (within rounding). A file does not count as such if it holds a tensor that is no factor, since
# that one would overwrite a weight.
#
# **`10.q2`** (4 points): the letters of those that your `verify_adapter` refuses and that would compute the same, in alphabetical order.
# %% [markdown] lang="zh"
# 清单比模型更严格：有些文件虽被拒绝，却会让每一层算出与审核过的适配器完全相同的结果，因为那里的 $\frac{\alpha}{r} B A$ 相同（舍入误差除外）。
# 若文件中含有不是因子的张量，就不算在内，因为那个张量会覆盖某个权重。
#
# **`10.q2`**（4 分）：被你的 `verify_adapter` 拒绝、但计算结果相同的文件的字母，按字母顺序写成一个文本。
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
same_function = ...  # a text


### BEGIN SOLUTION
def effect(adapter, layer):
    config, tensors = adapter["config"], adapter["tensors"]
    return config["alpha"] / config["rank"] * tensors[f"{layer}.lora_B"].double() @ tensors[f"{layer}.lora_A"].double()


def same(adapter):
    names = vetting.layers(small)
    return adapter["tensors"].keys() == small["tensors"].keys() and all(
        torch.allclose(effect(adapter, name), effect(small, name)) for name in names
    )


refused = {letter: adapter for letter, adapter in uploads.items() if security.verify_adapter(adapter, kept)}
same_function = "".join(letter for letter, adapter in refused.items() if same(adapter))
### END SOLUTION
labs.answer("10.q2", same_function)
# %% [markdown] lang="en"
# ## 8 · FGSM: is the tuned model more fragile?
#
# Lecture: *PGD*. One step up the loss, of length $\varepsilon$ in each pixel, kept between black and white (Goodfellow et al. 2015):
#
# $$x' = \text{clip}_{[0, 1]}\left(x + \varepsilon\, \text{sign}\, \nabla_x \ell(x, y)\right)$$
#
# The LoRA-tuned model and one that was fully fine-tuned read slanted digits, the base reads plain ones, each what it was made for.
# Predict the share that the LoRA-tuned one still reads at the third $\varepsilon$ of the list.
# %% [markdown] lang="zh"
# ## 8 · FGSM：微调后的模型更脆弱吗？
#
# 讲义：*投影梯度攻击*。沿损失上升的方向走一步，每个像素走 $\varepsilon$ ，并保持在黑与白之间（Goodfellow 等，2015）：
#
# $$x' = \text{clip}_{[0, 1]}\left(x + \varepsilon\, \text{sign}\, \nabla_x \ell(x, y)\right)$$
#
# LoRA 微调的模型和全量微调的模型读倾斜的数字，底座读普通的数字，各做各的本行。请预测：取列表中第三个 $\varepsilon$ 时，LoRA 微调的模型还能读对多少？
# %%
print("epsilon:", sizes.epsilons)
under_attack = ...  # a number from 0 to 1
### BEGIN SOLUTION
under_attack = 0.6
### END SOLUTION
under_attack = labs.predict("10.p2", under_attack)


# %%
def fgsm(model, x, y, epsilon):
    x = x.clone().requires_grad_(True)
    F.cross_entropy(model(x), y).backward()
    return (x + epsilon * x.grad.sign()).clamp(0, 1).detach()


def share_read(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


fully = copy.deepcopy(base).requires_grad_(True)
vetting.more(fully, train_x, train_y, sizes.steps, sizes.rate_full, name="week10-full")
place = next(base.parameters()).device
slanted, plain = (
    ((x[: sizes.attacked].to(place) + 1) / 2, y[: sizes.attacked].to(place)) for x, y in ((test_x, test_y), (plain_x, plain_y))
)
curves = {"base, plain": (base, *plain), "LoRA, slanted": (tuned, *slanted), "full, slanted": (fully, *slanted)}
robust = {}
for name, (model, x, y) in curves.items():
    model = vetting.Pixels(model.eval().requires_grad_(False))
    robust[name] = [share_read(model, fgsm(model, x, y, epsilon), y) for epsilon in sizes.epsilons]
labs.record("fgsm", epsilons=sizes.epsilons, **robust)
fig = plots.lines(
    sizes.epsilons,
    robust,
    xlabel="epsilon (grey scale from 0 to 1)",
    ylabel="share read under FGSM",
    predicted=(sizes.epsilons[2], under_attack),
)
plots.show(fig, alt="Three falling curves over epsilon: base on plain digits highest, both tuned models on slanted digits below.")
# %% [markdown] lang="en"
# Both tuned models lose more than the base, and the fully tuned one is no exception: slanted digits are new to both and lie closer to the
# border between classes. So the figure does not show that LoRA as such makes a model fragile; it shows that robustness has to be measured
# again after every tuning. FGSM is also a weak attack. Your `pgd` (10.5, stretch), with the same $\varepsilon$, finds worse inputs:
# %% [markdown] lang="zh"
# 两个微调过的模型都比底座掉得多，全量微调的也不例外：倾斜的数字对二者都是新东西，离类别边界更近。所以这张图并不能说明 LoRA 本身使模型脆弱，
# 它说明的是：每次微调之后都要重新度量鲁棒性。FGSM 还是一种较弱的攻击；在同样的 $\varepsilon$ 下，你的 `pgd`（10.5，拓展任务）能找到更坏的输入：
# %%
epsilon = sizes.epsilons[2]
victim, (x, y) = vetting.Pixels(tuned), slanted
worse = vetting.if_written(security.pgd, victim, x, y, epsilon, epsilon / 4, sizes.pgd_steps)
if worse is not None:
    scores = {"clean": x, "FGSM": fgsm(victim, x, y, epsilon), "PGD": worse}
    scores = {name: share_read(victim, pictures, y) for name, pictures in scores.items()}
    labs.record("pgd", **scores)
    print(f"LoRA-tuned, epsilon {epsilon}:", {name: round(score, 2) for name, score in scores.items()})
# %% [markdown] lang="en"
# ## 9 · Who was in the training data?
#
# Lecture: *Membership*. A LoRA is tuned on a few pictures. Members are those; others come from the same source. The attack scores a picture
# by its loss, $s = -\ell$, or, calibrated by a reference model that saw neither group, by $s = \ell^{\text{ref}} - \ell$
# (Watson et al., arXiv:2111.08440). Your `membership_auc` with a reference of zeros is the first, with real ones the second.
#
# Below the members there is a control: a "leak" that is none. Neither of its groups was in the training data; half of those pictures are
# clean, and half are noisy scans. Predict the AUC that the losses alone give to this non-leak.
# %% [markdown] lang="zh"
# ## 9 · 谁在训练数据里？
#
# 讲义：*成员推断*。用少量图片微调一个 LoRA。成员就是这些图片，非成员来自同一来源。攻击者按损失给图片打分， $s = -\ell$ ；
# 或者用一个两组都没见过的参考模型来校准， $s = \ell^{\text{ref}} - \ell$ （Watson 等，arXiv:2111.08440）。
# 给你的 `membership_auc` 传入全零的参考损失，就是前者；传入真实的参考损失，就是后者。
#
# 除了真正的成员，还有一组对照：一个并不存在的“泄露”。它的两组图片都不在训练数据里，一半是干净的，一半是带噪声的扫描件。
# 请预测：只看损失，这个不存在的泄露会得到多大的 AUC？
# %%
false_alarm = ...  # a number from 0 to 1
### BEGIN SOLUTION
false_alarm = 0.5
### END SOLUTION
false_alarm = labs.predict("10.p3", false_alarm)
# %%
n, m = sizes.members, sizes.others
members, apart, outsiders = ((train_x[i:j], train_y[i:j]) for i, j in ((0, n), (n, 2 * n), (2 * n, 2 * n + m)))
half = m // 2
clean_group = outsiders[0][:half], outsiders[1][:half]
spoiled = outsiders[0][half:] + sizes.noise * torch.randn(outsiders[0][half:].shape, generator=torch.Generator().manual_seed(0))
noisy_group = spoiled.clamp(-1, 1), outsiders[1][half:]


def audit(model, reference, first, second):
    """AUC of telling the first group from the second: by the losses alone, and calibrated."""
    own, known = ([vetting.losses(one, *group) for group in (first, second)] for one in (model, reference))
    return security.membership_auc(*own, *map(torch.zeros_like, own)), security.membership_auc(*own, *known)


model, reference = (vision.lora(copy.deepcopy(base), 8, 16, "all-linear", seed=s, modules_to_save=None) for s in (0, 1))
found, done = [], 0
for step in sizes.checkpoints:
    for one, group in ((model, members), (reference, apart)):
        vetting.more(one, *group, step - done, sizes.member_rate, seed=step, name=f"week10-members-{step}")
    done = step
    found.append([*audit(model, reference, members, outsiders), *audit(model, reference, clean_group, noisy_group)])
curves = dict(zip(("leak, plain", "leak, calibrated", "control, plain", "control, calibrated"), np.array(found).T, strict=True))
labs.record("membership", steps=sizes.checkpoints, **curves)
fig, axes = plots.figure(2, sharey=True)
for ax, kind, title in zip(axes, ("leak", "control"), ("members and others", "control: no member in either group"), strict=True):
    plots.lines(
        sizes.checkpoints,
        {"losses alone": curves[f"{kind}, plain"], "calibrated": curves[f"{kind}, calibrated"]},
        xlabel="steps of training",
        ylabel="AUC (0.5: no information)",
        xscale="log",
        title=title,
        predicted=(sizes.checkpoints[-1], false_alarm) if kind == "control" else None,
        ax=ax,
    )
axes[0].set_ylim(0.35, 1.25)
plots.show(fig, alt="AUC over steps. Members: rises. Control: high by the losses alone, near one half when calibrated.")
# %% [markdown] lang="en"
# Three readings. By its losses alone, the model leaks more the longer it is tuned on the same pictures. By the same yardstick the
# control, which was never trained on, "leaks" at once: noisy pictures are harder for any model. Calibration takes that away and leaves
# about one half. But it is not free: where the members' losses are nearly zero already, subtracting one reference model's losses mostly adds
# noise, and the calibrated AUC of the true members ends below the plain one.
#
# ## 10 · Reading: what fine-tuning does to safety
#
# Read the abstract and the introduction of Qi et al., "Fine-tuning Aligned Language Models Compromises Safety, Even When Users Do Not Intend
# To!" (arXiv:2310.03693); the lecture's last section says what to look for. There is nothing to run: the models here refuse nothing.
#
# **`10.q3`** (6 points, 150 to 250 words). A colleague wants to merge a public adapter into your product's adapter. Write the procedure
# by which you decide.
#
# | points | |
# |---|---|
# | 2 | For each of the four relocations: which check of yours finds it, or that none of the file's does. |
# | 2 | What you measure on the *merged* model and against what; what a scan that finds nothing means; where the manifest has to come from. |
# | 1 | One correct conclusion from section 9, for adapters that were tuned on your customers' data. |
# | 1 | A test of safety before and after, with the same questions, and why harmless training data is no reason to leave it out. |
# %% [markdown] lang="zh"
# 可以看出三点。只看损失，在同一批图片上微调得越久，模型泄露得越多。用同一把尺子量，从未参与训练的对照组一开始就在“泄露”：对任何模型来说，
# 带噪声的图片都更难。校准去掉了这种假象，只剩下大约一半。但校准不是没有代价的：成员的损失已经接近零时，减去一个参考模型的损失主要是增加噪声，
# 于是真正成员的校准后 AUC 最终反而低于未校准的。
#
# ## 10 · 阅读：微调对安全性的影响
#
# 阅读 Qi 等的论文 “Fine-tuning Aligned Language Models Compromises Safety, Even When Users Do Not Intend To!”（arXiv:2310.03693）的摘要和引言；
# 讲义最后一节说明了阅读的重点。这里没有要运行的代码：本实验的模型不会拒绝任何请求。
#
# **`10.q3`**（6 分，300 至 500 字）。一位同事想把一个公开的适配器合并进你们产品的适配器。请写出你作出决定的流程。
#
# | 分值 | |
# |---|---|
# | 2 | 四种重定位各由你的哪种检查发现，或者文件检查无法发现。 |
# | 2 | 在*合并后*的模型上度量什么、与什么相比；扫描一无所获意味着什么；清单必须来自哪里。 |
# | 1 | 由第 9 节得出一个正确的结论，用于以客户数据微调的适配器。 |
# | 1 | 微调前后用同一套问题做安全测试，并说明为什么训练数据无害不是省略测试的理由。 |
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# The file first. I accept `safetensors` only, and run `verify_adapter` against a manifest that the author has signed and that I did not get
# from the place where the file lies: whoever can change both wins. Renamed keys (a) change the fingerprint and the layers' updates;
# other factors (c) change neither, so they are no finding, while a hash of the bits would have cried wolf; alpha 800 (d) shows in the
# configuration. A planted behaviour that is merged in (b) shows in none of them.
#
# Therefore I test the merged model: in the lab it read clean pictures as well as before. I compare with our vetted model on the same inputs, accuracy and the scan of triggers, calibrated by the vetted model. A scan that finds nothing says that the
# candidates were no triggers, not that there is none; a phrase of several words would have been missed.
#
# Our own adapter was tuned on customers' data, for many passes over few examples, and there the losses alone told members apart. I would
# measure the AUC with non-members of the same source, because other sources look like a leak, and shorten training if it is high.
#
# Last, I ask the safety questions of the release again, the same ones before and after the merge. Qi et al. report that benign data can
# weaken refusals too, so an adapter for harmless tasks is not exempt. If any test fails, we do not merge; detaching the adapter restores the base.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 先查文件。只接受 `safetensors`，并用 `verify_adapter` 对照作者签名的清单来核验；清单不能与文件来自同一个地方，否则能同时改动两者的人总能得逞。
# 改写键名 (a) 会改变指纹和各层的更新量；换一组因子 (c) 两者都不变，因此不算问题，而对比特做哈希则会误报；alpha 800 (d) 在配置中就能看出。
# 合并进来的植入行为 (b) 在这些检查中都看不到。
#
# 因此我测试合并后的模型：实验中它读干净图片与以前一样好。我用同样的输入与审核过的模型比较，
# 既看准确率，也看以审核过的模型校准的触发扫描。扫描一无所获，只说明候选不是触发词，并不说明没有触发词；由几个词组成的短语就会漏掉。
#
# 我们自己的适配器是用客户数据微调的，在少量样本上反复训练，而实验中这种情况下只看损失就能认出成员。我会用同一来源的非成员来度量 AUC，
# 因为来源不同本身就像泄露；如果偏高，就缩短训练。
#
# 最后，合并前后用发布时的同一套安全问题各问一遍。Qi 等报告良性数据也可能削弱拒答行为，所以用途无害的适配器也不能免检。任何一项不通过就不合并；
# 卸下适配器，底座就恢复原样。
# %% [markdown] lang="en"
# ## 11 · Where this breaks
#
# - The transformer has about 0.1 million weights and sees 8×8 pixels. Size of the effects, not their direction, is what changes first
#   with the model; the full profile runs the same cells on ViT-Base and MNIST.
# - The add-on was trained with the vetted adapter in place. Trained on the base alone and merged afterwards, in our trials it ruined the
#   clean accuracy of this small model, which anybody would notice; the papers above report merges that keep it, on larger models.
# - The scan knew the trigger's shape, a white patch, and tried each place. Any other trigger would have passed.
# - FGSM and PGD bound robustness from above only. The three curves belong to different pictures, so compare their shapes.
# - One reference model, one set of members. AUC is an average: look at the true positive rate at a low false positive rate as well.
# - A fingerprint rounds. An update that is changed by less than the rounding passes, and it says "the same", never "harmless".
#
# Back to the lecture: [*Relocate*](../course/week10/lecture.md#relocate), [*Fingerprint*](../course/week10/lecture.md#fingerprint),
# [*Membership*](../course/week10/lecture.md#membership), [*Spectral detuning*](../course/week10/lecture.md#spectral-detuning) (not used here).
# %% [markdown] lang="zh"
# ## 11 · 局限
#
# - 这个 Transformer 约有 10 万个权重，看的是 8×8 像素的图片。换成别的模型，最先变化的是效应的大小而不是方向；full 配置在 ViT-Base 和 MNIST 上运行同样的单元格。
# - 增强包是在审核过的适配器已经装上的情况下训练的。若只在底座上训练、事后再合并，在我们的试验中会毁掉这个小模型在干净图片上的准确率，谁都会察觉；
#   上面的论文报告说，在更大的模型上，合并后准确率可以保持。
# - 扫描事先知道触发图案的样子（一块白色），并逐个尝试位置。换成任何别的触发图案都会漏过。
# - FGSM 和 PGD 只给出鲁棒性的上界。三条曲线对应不同的图片，所以只宜比较形状。
# - 只用了一个参考模型和一组成员。AUC 是平均值：还要看低假阳性率下的真阳性率。
# - 指纹有取整。比取整更小的改动能够通过；它只说明“相同”，从不说明“无害”。
#
# 回到讲义：[重定位](../../course/week10/lecture.zh.md#relocate)、[指纹](../../course/week10/lecture.zh.md#fingerprint)、
# [成员推断](../../course/week10/lecture.zh.md#membership)、[由合并后的模型恢复底座](../../course/week10/lecture.zh.md#spectral-detuning)（本实验未用到）。
