# %% [markdown] lang="en"
# # Week 4 lab · Your LoRA layer inside a transformer
#
# After this lab you can
#
# - wrap the layers of a real model by hand and automatically, and see at once when something trains that should not;
# - show that your layer computes, and learns, what peft's does;
# - say what gradient checkpointing saves, and show that it changes no gradient;
# - change the rank of a model in the middle of its training, in both directions;
# - judge a claim such as "LoRA+ is better": at one learning rate, or with both tuned?
#
# **Your file.** Everything below runs on `exercises/week04/lora_linear.py`, tasks 4.1 to 4.4; sections 4 and 6 use the stretch tasks 4.5 and
# 4.6 if you have written them. The notebook takes about a minute on two CPU cores. Training is logged: open a terminal and run
# `tensorboard --logdir build/runs`. Lecture: `course/week04/lecture.md`.
# %% [markdown] lang="zh"
# # 第 4 周实验 · 把你写的 LoRA 层放进 Transformer
#
# 做完本实验，你能够
#
# - 在真实的模型中先手工、再自动包装各层，并且一眼看出是否有不该训练的参数在训练；
# - 证明你的层与 peft 的层算出的结果相同，学习过程也相同；
# - 说明梯度检查点节省了什么，并证明它不改变任何梯度；
# - 在训练途中改变模型的秩，增大和减小都行；
# - 判断“LoRA+ 更好”这类说法：是在某一个学习率下更好，还是各自调好之后更好？
#
# **你的文件。** 下面的一切都建立在 `exercises/week04/lora_linear.py` 的任务 4.1 至 4.4 之上；如果拓展任务 4.5 和 4.6 已经写好，第 4、6 节也会用到。
# 整个笔记本在两个 CPU 核上大约运行一分钟。训练过程有日志：在终端运行 `tensorboard --logdir build/runs` 即可查看。讲义：`course/week04/lecture.zh.md`。
# %%
import copy

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course import labs
from course.labs import layers, plots, text, training
from course.labs.live import LiveTensors

own = labs.student(4, "4.1", "4.2", "4.3", "4.4")  # your file
sizes = labs.sizes(4)  # course/week04/lab.toml
# %% [markdown] lang="en"
# ## 1 · By hand, then automatically
#
# The model is a small pretrained Llama. Its new task: say the opposite of a sentence. Your layer, beside its equation:
#
# $$y = W_0 x + b + \frac{\alpha}{r} B A x$$
# %% [markdown] lang="zh"
# ## 1 · 先手工包装，再自动包装
#
# 模型是一个预训练好的小 Llama。新任务是：说出一句话的反面。把你写的层和它的公式放在一起看：
#
# $$y = W_0 x + b + \frac{\alpha}{r} B A x$$
# %%
print(layers.body(own.LoRALinear.forward))

model, tokenizer = text.base_model()
train = text.examples("negate", sizes.examples)
held_out = text.examples("negate", sizes.held_out, part="test")
print(f"\n{held_out[0].prompt!r} -> {held_out[0].completion!r}")
print(f"right before training: {text.exact_match(model, tokenizer, held_out):.0%}")
# %% [markdown] lang="en"
# **Prediction 1.** The cell after the next one puts your layer in the place of every q and v projection, and does nothing else. What
# percentage of the model's parameters is trainable then?
# %% [markdown] lang="zh"
# **预测 1。** 再下一个单元格会把每个 q、v 投影换成你的层，此外什么也不做。这时模型中有百分之几的参数是可训练的？
# %%
percent = ...  # a number between 0 and 100
### BEGIN SOLUTION
percent = 1
### END SOLUTION
predicted_percent = labs.predict("4.p1", percent)


# %%
def trainable(model):
    """How many parameters train, and their percentage of all."""
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return count, 100 * count / sum(p.numel() for p in model.parameters())


probe = text.collate(held_out[:8], tokenizer)
before = layers.logits(model, probe)
for block in model.model.layers:
    attention = block.self_attn
    attention.q_proj = own.LoRALinear(attention.q_proj, sizes.rank, sizes.alpha)
    attention.v_proj = own.LoRALinear(attention.v_proj, sizes.rank, sizes.alpha)

moved = (layers.logits(model, probe) - before).abs().max().item()
by_hand = trainable(model)
print(f"the logits moved by {moved}, since B = 0")
print(f"trainable: {by_hand[0]:,} parameters, {by_hand[1]:.1f} % (you predicted {predicted_percent} %)")
# %% [markdown] lang="en"
# The function is the same, but your layer freezes its own base only: embeddings, norms and the other projections still train. Your
# `inject_lora` freezes first, and finds the layers by name. A target is a full dotted name or what follows a dot at its end; a name that
# merely contains it is no match.
# %% [markdown] lang="zh"
# 模型的输出没有变，但你的层只冻结自己的底座：嵌入层、归一化层和其他投影仍在训练。你写的 `inject_lora` 先冻结全部参数，再按名字寻找要包装的层。
# 目标可以是带点的完整名字，也可以是名字末尾、某个点之后的部分；名字里只是含有它，不算匹配。
# %%
ours = text.base_model()[0]
names = own.inject_lora(ours, ["q_proj", "v_proj"], sizes.rank, sizes.alpha)
automatic = trainable(ours)
print("\n".join(names[:4]), f"\n... {len(names)} layers")
print(f"trainable: {automatic[0]:,} parameters, {automatic[1]:.2f} %")
wanted = sum(sizes.rank * (layer.base.in_features + layer.base.out_features) for layer in map(ours.get_submodule, names))
labs.record("wrap", moved=moved, by_hand=by_hand[1], automatic=automatic[1], count=automatic[0], wanted=wanted)
# %% [markdown] lang="en"
# **Question 1** (5 points). Before you spend an hour of GPU time, count on the "meta" device, which has shapes and no numbers. The model
# below has the shapes of Llama-3-8B. Its q projections shall get rank 8, its v projections rank 32, and the q projection of block 1, which
# a pilot study found to matter most, rank 64. How many parameters train? Hand in what your `inject_lora` makes of it, and
# check it with pencil and paper: v has fewer rows than q (grouped-query attention), and there are 32 blocks.
# %% [markdown] lang="zh"
# **问题 1**（5 分）。花掉一小时 GPU 时间之前，先在 “meta” 设备上数一数：那里只有形状，没有数值。下面的模型与 Llama-3-8B 形状相同。q 投影的秩取 8，
# v 投影的秩取 32；假设先导实验发现第 1 块的 q 投影最重要，它的秩取 64。可训练的参数有多少个？请提交你的 `inject_lora` 给出的结果，并用纸笔验算：v 的行数
# 比 q 少（分组查询注意力），共有 32 块。
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
with torch.device("meta"):
    llama3 = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336,
            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        )
    )  # fmt: skip
ranks = {"q_proj": 8, "v_proj": 32, "1.self_attn.q_proj": 64}
count = ...  # a whole number
### BEGIN SOLUTION
own.inject_lora(llama3, ranks, ranks, alpha=16)
count = trainable(llama3)[0]
### END SOLUTION
labs.answer("4.q1", count)
# %% [markdown] lang="en"
# ## 2 · Beside peft
#
# Two models, one with your layer and one with peft's, get the same factors $A$ (and $B = 0$) and see the same batches. If both implement the
# same equation, they agree to rounding error, not only at the start but along the whole curve.
# %% [markdown] lang="zh"
# ## 2 · 与 peft 对照
#
# 两个模型，一个用你的层，一个用 peft 的层，取相同的因子 $A$ （ $B = 0$ ），看到的批次也相同。如果两者实现的是同一个公式，那么不只在起点，整条训练曲线都应当只差舍入误差。
# %%
theirs = text.lora(text.base_model()[0], sizes.rank, sizes.alpha, "qv")
for name in names:
    ours.get_submodule(name).lora_A.data.copy_(theirs.get_base_model().get_submodule(name).lora_A["default"].weight)


def fit(model, name, lr=sizes.rate, steps=sizes.steps, groups=None, seed=0):
    """Train what is trainable on the sentences; the losses go to build/runs/week04."""
    batches = text.length_batches(train, tokenizer, sizes.batch, seed)
    return training.fit(model, batches, steps, lr, name=f"week04/{name}", groups=groups, seed=seed)


curves = {"your layer": fit(ours, "yours").loss, "peft": fit(theirs, "peft").loss}
axes = {"xlabel": "step", "ylabel": "training loss (nats a token)", "yscale": "log"}
plots.show(
    plots.lines(range(sizes.steps), curves, title="Two implementations, the same factors and batches", **axes),
    alt="Two falling loss curves that lie on each other, so that only one can be seen.",
)
# %%
apart = max(abs(a - b) for a, b in zip(*curves.values(), strict=True))
logits = layers.logits(ours, probe)
logits_apart = (logits - layers.logits(theirs, probe)).abs().max().item()
matched = text.exact_match(ours, tokenizer, held_out)
print(
    f"largest difference of the losses {apart:.1e}, of the logits after training {logits_apart:.1e} (largest logit {logits.max():.0f})"
)
print(f"right on held-out sentences: {matched:.0%}")
labs.record(
    "peft", loss_apart=apart, logits_apart=logits_apart, exact_match=matched, first=curves["peft"][0], last=curves["peft"][-1]
)
# %% [markdown] lang="en"
# ## 3 · Merged and unmerged
#
# $W_0 \leftarrow W_0 + \frac{\alpha}{r} B A$, and back. The merged model has no branch and computes the same up to rounding. Taking the update out
# again does not restore every bit (lecture, "Merge").
# %% [markdown] lang="zh"
# ## 3 · 合并与撤销合并
#
# $W_0 \leftarrow W_0 + \frac{\alpha}{r} B A$ ，再减回去。合并后的模型没有分支，除舍入误差外结果相同。减去更新量之后，并不是每一位都能复原（讲义“合并”一节）。
# %%
wrapped = [ours.get_submodule(name) for name in names]
weights = [layer.base.weight.clone() for layer in wrapped]
for layer in wrapped:
    layer.merge()
merged_apart = (layers.logits(ours, probe) - logits).abs().max().item()
for layer in wrapped:
    layer.unmerge()

changed = sum((layer.base.weight != w).sum().item() for layer, w in zip(wrapped, weights, strict=True)) / sum(
    w.numel() for w in weights
)
eps = torch.finfo(weights[0].dtype).eps
off = max((layer.base.weight - w).abs().max().item() for layer, w in zip(wrapped, weights, strict=True))
print(f"merging moved the logits by at most {merged_apart:.1e}")
print(
    f"after unmerging, {changed:.0%} of the weights are not bit for bit what they were; the largest error is {off:.1e} (eps = {eps:.1e})"
)
labs.record("merge", logits_apart=merged_apart, changed=changed, error=off, eps=eps)
# %% [markdown] lang="en"
# ## 4 · Gradient checkpointing
#
# Ordinarily every block keeps what its backward pass will need. Checkpointed, it keeps its input and computes the rest a second time. In tensors:
# $m$ blocks that store $k$ each keep $m k$, checkpointed about $m + k$.
#
# What the process occupies says little about this on a CPU, so `LiveTensors` counts the bytes of all tensors that arise in the pass and are still
# alive. The model has random weights here; memory does not depend on what they are.
#
# **Prediction 2.** By what factor does checkpointing lower the peak of the deepest model (12 blocks in the tiny profile)?
# %% [markdown] lang="zh"
# ## 4 · 梯度检查点
#
# 通常，每个块都会保留反向传播所需的中间结果；启用检查点后，只保留块的输入，其余的再算一遍。以张量个数计： $m$ 个块，每块存 $k$ 个，共 $m k$ 个；启用检查点后约为
# $m + k$ 个。
#
# 在 CPU 上，进程占用的内存说明不了这一点，所以这里用 `LiveTensors` 统计计算过程中产生、且仍然存活的所有张量的字节数。模型的权重是随机的，内存与权重的数值无关。
#
# **预测 2。** 对最深的模型（tiny 配置下为 12 块），检查点能把峰值降到原来的几分之一？请写出这个倍数。
# %%
factor = ...  # how many times lower, a number above 1
### BEGIN SOLUTION
factor = 3
### END SOLUTION
predicted_factor = labs.predict("4.p2", factor)
# %%
checkpointed = layers.written(own.checkpointed, layers.torch_checkpointed)  # task 4.5
batch = text.collate(train[: sizes.batch], tokenizer)


def one_pass(blocks, recompute):
    """The bytes alive during one pass forward and back through a model of this depth, and the gradients of the factors."""
    model = layers.deep(ours.config, blocks)
    torch.manual_seed(0)
    for name in own.inject_lora(model, ["q_proj", "v_proj"], sizes.rank, sizes.alpha):
        nn.init.normal_(model.get_submodule(name).lora_B, std=0.02)  # with B = 0, A would have no gradient
    for place, block in enumerate(model.model.layers if recompute else []):
        model.model.layers[place] = checkpointed(block)
    with LiveTensors() as live:
        layers.loss(model.train(), batch).backward()
    return live, [p.grad for p in model.parameters() if p.requires_grad]


peaks = {"all kept": [], "checkpointed": []}
for blocks in labs.progress(sizes.blocks, "depths"):
    (kept, gradients), (again, same_gradients) = one_pass(blocks, False), one_pass(blocks, True)
    peaks["all kept"].append(kept.peak / 2**20)
    peaks["checkpointed"].append(again.peak / 2**20)
# %%
fig, (left, right) = plots.figure(2)
curves = {"all kept": kept.bytes, "checkpointed": again.bytes}
plots.lines(
    {name: range(len(curve)) for name, curve in curves.items()},
    {name: [b / 2**20 for b in curve] for name, curve in curves.items()},
    xlabel="operation of the pass", ylabel="tensors alive (MiB)", title=f"One pass through {blocks} blocks", ax=left,
)  # fmt: skip
guess = (blocks, peaks["all kept"][-1] / predicted_factor) if predicted_factor else None
plots.lines(sizes.blocks, peaks, xlabel="blocks", ylabel="peak (MiB)", title="The peak by depth", predicted=guess, ax=right)
plots.show(
    fig,
    alt="Left: memory climbs to a high peak and falls when everything is kept; checkpointed, it stays low with one small bump for each "
    "block. Right: the peak grows fast with the number of blocks when all is kept, and slowly when checkpointed.",
)
# %%
largest = max(g.abs().max().item() for g in gradients)
gradients_apart = max((a - b).abs().max().item() for a, b in zip(gradients, same_gradients, strict=True))
ratio = peaks["all kept"][-1] / peaks["checkpointed"][-1]
print(
    f"peak {ratio:.1f} times lower (you predicted {predicted_factor}); operations {len(again.bytes) / len(kept.bytes):.2f} times as many"
)
print(f"the gradients differ by at most {gradients_apart:.1e}; the largest is {largest:.1e}")
labs.record("checkpointing", blocks=sizes.blocks, **{name.replace(" ", "_"): peak for name, peak in peaks.items()})
labs.record("gradients", apart=gradients_apart, largest=largest, operations=len(again.bytes) / len(kept.bytes))
# %% [markdown] lang="en"
# A frozen weight needs no gradient, but the gradient still passes through its layer to the factors below. So checkpointing pays under LoRA as well, and costs
# relatively more than in full fine-tuning (lecture, "Gradient checkpointing").
#
# ## 5 · A rank that changes during training
#
# For the update to stay when the rank goes from $r$ to $r'$ while $\alpha$ stays, $B' A' = \frac{r'}{r} B A$.
#
# **Prediction 3.** A model is trained at a small rank, then `set_rank` makes the rank eight times as large. The loss on held-out sentences right
# after that, before any further step, is "lower", "equal" or "higher"?
# %% [markdown] lang="zh"
# 冻结的权重不求梯度，但梯度仍要穿过这一层传给下面的因子，所以检查点对 LoRA 同样有用，只是相对代价比全量微调时更大（讲义“梯度检查点”一节）。
#
# ## 5 · 训练途中改变秩
#
# $\alpha$ 不变，秩由 $r$ 变为 $r'$ 时，要使更新量不变，须有 $B' A' = \frac{r'}{r} B A$ 。
#
# **预测 3。** 先用小的秩训练模型，再用 `set_rank` 把秩扩大到 8 倍。此时尚未继续训练，留出句子上的损失与之前相比，是 "lower"（更低）、"equal"（相等）还是 "higher"（更高）？
# %%
after_growth = ...  # "lower", "equal" or "higher"
### BEGIN SOLUTION
after_growth = "equal"
### END SOLUTION
predicted_growth = labs.predict("4.p3", after_growth)


# %%
def injected(rank, alpha, seed=0):
    """The pretrained model with your layers at q and v."""
    model = text.base_model()[0]
    torch.manual_seed(seed)
    own.inject_lora(model, ["q_proj", "v_proj"], rank, alpha)
    return model


def lora_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, own.LoRALinear)]


half = sizes.steps // 2
growing = injected(sizes.small, 2 * sizes.small)
first = fit(growing, "growing-1", steps=half).loss
small_loss = text.mean_loss(growing, tokenizer, held_out)
for layer in lora_layers(growing):
    layer.set_rank(sizes.large)
grown_loss = text.mean_loss(growing, tokenizer, held_out)

wrong = copy.deepcopy(growing)
for layer in lora_layers(wrong):
    layer.lora_B.data *= sizes.small / sizes.large  # what comes of forgetting the factor r' / r
wrong_loss = text.mean_loss(wrong, tokenizer, held_out)
print(f"held-out loss before {small_loss:.4f}, after growing {grown_loss:.4f} (you predicted: {predicted_growth})")
print(f"without the factor it would be {wrong_loss:.4f}")
# %%
second = fit(growing, "growing-2", steps=sizes.steps - half, seed=1).loss  # a new optimizer: the parameters are new objects
small, large = injected(sizes.small, 2 * sizes.small), injected(sizes.large, 2 * sizes.large)
curves = {
    f"rank {sizes.small}": fit(small, "small").loss,
    f"rank {sizes.small}, then {sizes.large}": first + second,
    f"rank {sizes.large}": fit(large, "large").loss,
}
fig = plots.lines(range(sizes.steps), curves, title="A rank that grows half-way", **axes)
fig.axes[0].axvline(half, color="grey", linestyle=":")
plots.show(
    fig,
    alt="Three falling loss curves; the one whose rank grows half-way follows the small rank first and then falls below it, without a jump.",
)
losses = {"small": text.mean_loss(small, tokenizer, held_out), "grown": text.mean_loss(growing, tokenizer, held_out)}
losses["large"] = text.mean_loss(large, tokenizer, held_out)
print("held-out loss at the end:", {name: round(loss, 3) for name, loss in losses.items()})
labs.record("growing", before=small_loss, after=grown_loss, wrong=wrong_loss, **losses)
# %% [markdown] lang="en"
# Growing changes nothing at that moment and adds room. Now the other way: the trained rank-8 model is cut down, once by your `set_rank` (the best
# approximation of each $\Delta W$), once by keeping the first columns of $B$ and rows of $A$.
# %% [markdown] lang="zh"
# 增大秩的当下输出不变，还腾出了余地。现在反过来：把训练好的秩为 8 的模型减小，一次用你的 `set_rank`（每个 $\Delta W$ 的最佳逼近），一次只保留
# $B$ 的前几列和 $A$ 的前几行。
# %%
kept_ranks = [rank for rank in (1, 2, 4, 8, 16) if rank <= sizes.large]
shrunk = {"best approximation": [], "first columns": []}
for rank in kept_ranks:
    best, naive = copy.deepcopy(large), copy.deepcopy(large)
    for layer in lora_layers(best):
        layer.set_rank(rank)
    for layer in lora_layers(naive):
        layer.lora_B.data[:, rank:] = 0
    shrunk["best approximation"].append(text.mean_loss(best, tokenizer, held_out))
    shrunk["first columns"].append(text.mean_loss(naive, tokenizer, held_out))

fig = plots.lines(
    kept_ranks,
    shrunk,
    xlabel="rank kept",
    ylabel="held-out loss (nats a token)",
    xscale="log",
    title="Shrinking a trained adapter",
)
plots.show(fig, alt="Held-out loss by the rank kept: with the best approximation it stays low down to about half the rank and rises below; "
           "with the first columns it is higher everywhere below the full rank.")  # fmt: skip
labs.record("shrinking", ranks=kept_ranks, best=shrunk["best approximation"], first=shrunk["first columns"])
# %% [markdown] lang="en"
# **Question 2** (5 points). The layer below was trained at rank 2 and has just grown to rank 8. In the very next backward pass, how many of the 8
# rows of $A$, and how many of the 8 columns of $B$, have a gradient that is not zero? Think first (lecture, "Forward": each gradient contains the other
# factor), then let your layer count.
# %% [markdown] lang="zh"
# **问题 2**（5 分）。下面的层在秩为 2 时训练过，刚刚增大到秩 8。紧接着做一次反向传播， $A$ 的 8 行中有几行、 $B$ 的 8 列中有几列的梯度不为零？先想一想
# （讲义“前向计算”：每个因子的梯度里都含有另一个因子），再用你的层数一数。
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
torch.manual_seed(0)
layer = own.LoRALinear(nn.Linear(16, 16), rank=2, alpha=4)
layer.lora_B.data.normal_()  # trained: B is not zero any more
layer.set_rank(8)
layer(torch.randn(5, 16)).square().sum().backward()
learning = ...  # [rows of lora_A, columns of lora_B]
### BEGIN SOLUTION
learning = [(layer.lora_A.grad != 0).any(1).sum().item(), (layer.lora_B.grad != 0).any(0).sum().item()]
### END SOLUTION
labs.answer("4.q2", learning)
# %% [markdown] lang="en"
# ## 6 · LoRA+, with the learning rate tuned
#
# LoRA+ (Hayou et al. 2024) gives $B$ a rate 16 times that of $A$: $\eta_B = \lambda \eta_A$, $\lambda = 16$. A comparison at one rate cannot tell a better
# method from a better rate. So both are trained at five rates $\eta_A$, everything else being equal, with two seeds.
# %% [markdown] lang="zh"
# ## 6 · 调好学习率之后的 LoRA+
#
# LoRA+（Hayou 等，2024）让 $B$ 的学习率为 $A$ 的 16 倍： $\eta_B = \lambda \eta_A$ ， $\lambda = 16$ 。只在一个学习率下比较，分不清究竟是方法更好，还是学习率更合适。
# 所以两种方法都在五个 $\eta_A$ 下训练，其他条件相同，各用两个随机种子。
# %%
groups = layers.written(own.lora_plus_groups, layers.groups_by_name)  # task 4.6
sweep = {"LoRA": [], f"LoRA+ ({sizes.ratio} times for B)": []}
for seed in sizes.seeds:
    train = text.examples("negate", sizes.examples, seed)
    for name, lam in zip(sweep, (1.0, float(sizes.ratio)), strict=True):
        row = []
        for lr in sizes.rates:
            model = injected(sizes.rank, sizes.alpha, seed)
            fit(model, f"ratio-{lam:g}/rate-{lr:g}/seed-{seed}", lr, sizes.sweep_steps, groups(model, lr, lam), seed)
            row.append(text.mean_loss(model, tokenizer, held_out))
        sweep[name].append(row)
# %%
means = {name: plots.spread(runs)[0] for name, runs in sweep.items()}
fig = plots.lines(
    sizes.rates, means, spread={name: plots.spread(runs)[1] for name, runs in sweep.items()}, xscale="log",
    xlabel="learning rate of A", ylabel="held-out loss (nats a token)", title="LoRA and LoRA+ over the rate; bands: two seeds",
)  # fmt: skip
plots.show(
    fig,
    alt="Two U-shaped curves of loss over the rate; that of LoRA+ lies further left, and both have about the same lowest point.",
)
plain, plus = means.values()
print(f"at rate {sizes.rates[0]:g}: LoRA {plain[0]:.2f}, LoRA+ {plus[0]:.2f}")
print(f"each at its best rate: LoRA {plain.min():.3f} at {sizes.rates[plain.argmin()]:g}, "
      f"LoRA+ {plus.min():.3f} at {sizes.rates[plus.argmin()]:g}")  # fmt: skip
labs.record("plus", plain=plain, plus=plus)
# %% [markdown] lang="en"
# **Question 3** (written, 5 points). A colleague trains LoRA and LoRA+ at the lowest of these rates, sees the lower loss of LoRA+, and proposes to
# use LoRA+ everywhere. Answer in about ten lines:
#
# - What does your sweep say about the claim? Quote your numbers, at one rate and at each method's best. (2 points)
# - Why does a larger rate for $B$ alone act, early in training, much like a larger rate for both? (1 point)
# - Which experiment would decide whether LoRA+ is worth having on your own task, and what would you hold equal in it? (2 points)
# %% [markdown] lang="zh"
# **问题 3**（书面，5 分）。一位同事在其中最低的学习率下训练了 LoRA 和 LoRA+，看到 LoRA+ 的损失更低，便建议今后一律使用 LoRA+。请用十行左右回答：
#
# - 你的搜索结果对这个说法意味着什么？引用你得到的数字：同一学习率下的，以及各自最佳学习率下的。（2 分）
# - 为什么在训练初期，只提高 $B$ 的学习率，效果与同时提高两者的学习率很相近？（1 分）
# - 对你自己的任务，什么样的实验才能判断 LoRA+ 是否值得采用？实验中哪些条件应当保持相同？（2 分）
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# At the lowest rate LoRA+ is far ahead (about 0.4 against 2.9 nats a token), because plain LoRA has hardly moved there. Each at its best rate, the two
# are about equal (0.32 and 0.33), within what the seeds differ by, and LoRA+ fails at rates at which LoRA still learns. So the colleague has found that the
# rate was too low, not that the method is better.
#
# At the start $B = 0$: the gradient of $A$ contains $B$ and is zero or small, so early on it is $B$ that moves, with $A$ nearly fixed. The update
# $\Delta W \approx \frac{\alpha}{r} B A_0$ then grows in proportion to the rate of $B$, whichever way that rate was raised.
#
# Tune the rate of each method with the same number of trials, on the same grid or wider than both optima, with the same data, steps, rank, alpha and
# schedule, and several seeds; choose the rate on a validation set, compare on a test set, and ask whether the difference exceeds the spread over seeds. The
# ratio is one more hyperparameter, and its tuning counts as trials.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 在最低的学习率下，LoRA+ 远远领先（每个词元约 0.4 对 2.9 nats），因为普通 LoRA 在那里几乎没有动。各取最佳学习率时，两者大致相等（0.32 与 0.33），差别不超过种子之间的差别；而且在 LoRA 还能学习的
# 一些学习率下，LoRA+ 已经失败。所以同事发现的是学习率太低，而不是方法更好。
#
# 起点处 $B = 0$ ： $A$ 的梯度含有 $B$ ，为零或很小，所以初期动的是 $B$ ， $A$ 几乎不变。更新量 $\Delta W \approx \frac{\alpha}{r} B A_0$ 与 $B$ 的学习率成正比，不管这个学习率是怎样提高的。
#
# 两种方法用同样多的试验次数各自调学习率，网格相同或足以覆盖两者的最佳点，数据、步数、秩、alpha、学习率调度都相同，并用多个种子；在验证集上选学习率，在测试集上比较，看差别是否超过
# 种子之间的波动。比例 $\lambda$ 本身也是一个超参数，调它也要计入试验次数。
# %% [markdown] lang="en"
# ## Where this breaks
#
# - The model has 0.36 million parameters and the task a few hundred possible sentences. That the sweep ends in a tie here is no proof that it does for
#   7B; Lee et al. (2026, arXiv:2602.04998) report for larger models that tuned LoRA and its variants end within 1 to 2 % of each other. Two seeds show a spread, not a
#   confidence interval.
# - The agreement with peft is that of float32 on one machine. In the full profile the base is in bfloat16 and your factors inherit that, while peft keeps its
#   own in float32: the curves then differ visibly, and for small updates peft's choice is the better one.
# - `LiveTensors` counts tensors, not what an allocator reserves. On a GPU look at `torch.cuda.max_memory_allocated` as well.
# - A model that has grown trains at the scale $\alpha / r'$, which is smaller than before, with an optimizer that has forgotten its moments. It need not catch up with
#   one that had the large rank from the beginning.
# - "Best approximation" is about the matrix. The loss under shrinking depends on the inputs as well.
#
# `LAB_PROFILE=full` runs the same cells on Llama-2-7B, with smaller rates and memory measured on up to four of its blocks. Lecture: [Forward](../course/week04/lecture.md#forward),
# [Merge](../course/week04/lecture.md#merge), [Set rank](../course/week04/lecture.md#set-rank), [Inject](../course/week04/lecture.md#inject),
# [Gradient checkpointing](../course/week04/lecture.md#gradient-checkpointing), [LoRA+](../course/week04/lecture.md#lora).
# %% [markdown] lang="zh"
# ## 何时不成立
#
# - 模型只有 36 万个参数，任务里可能出现的句子也只有几百种。这里两者打平，并不能证明 7B 模型上也如此；Lee 等（2026，arXiv:2602.04998）报告，在更大的模型上，调好学习率之后，LoRA
#   与各变体的最好成绩相差在 1% 至 2% 以内。两个种子只能看出波动，不是置信区间。
# - 与 peft 一致，说的是同一台机器上的 float32。full 配置下底座是 bfloat16，你的因子沿用这个类型，而 peft 的因子保持 float32：两条曲线会有看得见的差别，更新量很小时，peft 的做法更好。
# - `LiveTensors` 数的是张量，不是分配器预留的内存。在 GPU 上还应查看 `torch.cuda.max_memory_allocated`。
# - 增大秩之后，模型按 $\alpha / r'$ 缩放，比原来小，优化器的动量也已丢失，不一定追得上从一开始就用大秩训练的模型。
# - “最佳逼近”是就矩阵而言。减小秩之后损失如何，还取决于输入。
#
# `LAB_PROFILE=full` 用同样的单元格在 Llama-2-7B 上运行，学习率更小，内存在它的至多四个块上测量。讲义：[前向计算](../../course/week04/lecture.zh.md#forward)、
# [合并](../../course/week04/lecture.zh.md#merge)、[改变秩](../../course/week04/lecture.zh.md#set-rank)、[注入](../../course/week04/lecture.zh.md#inject)、
# [梯度检查点](../../course/week04/lecture.zh.md#gradient-checkpointing)、[LoRA+](../../course/week04/lecture.zh.md#lora)。
