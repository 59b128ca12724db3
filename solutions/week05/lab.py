# %% [markdown] lang="en"
# # Week 5 lab · QLoRA: four bits below, LoRA beside them
#
# After this lab you can
#
# - compare your NF4 with that of bitsandbytes, and say where two right implementations may differ;
# - say for which numbers NF4 has the smaller error, and for which it has not;
# - fine-tune a model on a 4-bit base in two ways, with your own `QLoRALinear` and with `load_in_4bit` and peft;
# - find where the memory of a training step goes, and name the dtype of each part;
# - say what a paged optimizer does, and what LoftQ and PiSSA change.
#
# **Your file.** `exercises/week05/nf4.py`, tasks 5.1 to 5.4, runs in every experiment below: its `quantize_nf4` makes the codes,
# its `QLoRALinear` is put into the model. The notebook takes about a minute on two CPU cores. Training is logged: open a terminal
# and run `tensorboard --logdir build/runs`. Lecture: `course/week05/lecture.md`.
# %% [markdown] lang="zh"
# # 第 5 周实验 · QLoRA：4 位的底座，旁边训练 LoRA
#
# 做完本实验，你能够
#
# - 把自己的 NF4 与 bitsandbytes 的对照，并说明两个都正确的实现会在哪里不同；
# - 说清对哪些数 NF4 的误差更小，对哪些数并非如此；
# - 用两种办法在 4 位底座上微调模型：自己写的 `QLoRALinear`，以及 `load_in_4bit` 加 peft；
# - 找出一步训练的内存花在哪里，并说出每一部分的数据类型；
# - 说明分页优化器做什么，LoftQ 和 PiSSA 又改变了什么。
#
# **你的文件。** `exercises/week05/nf4.py` 的任务 5.1 至 5.4 在下面每个实验里都会用到：码由其中的 `quantize_nf4` 产生，
# `QLoRALinear` 被装进模型。整个笔记本在两个 CPU 核上大约运行一分钟。训练过程有日志：在终端运行 `tensorboard --logdir build/runs`
# 即可查看。讲义：`course/week05/lecture.zh.md`。
# %%
import warnings
from random import Random

import numpy as np
import torch

from course import labs
from course.labs import meters, plots, quant, text, training

nf4 = labs.student(5, "5.1", "5.2", "5.3", "5.4")  # your file
sizes = labs.sizes(5)  # course/week05/lab.toml


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


# %% [markdown] lang="en"
# ## 1 · Your codes beside those of bitsandbytes
#
# In blocks of $B = 64$ elements, with $c = \max_{i \in \text{block}} |x_i|$ and the codebook $q$ (lecture, "Blocks"):
#
# $$\text{code}_i = \arg\min_j |x_i / c - q_j|, \qquad \hat x_i = c \, q_{\text{code}_i}$$
#
# Where $x_i / c$ lies halfway between two values, rounding in float32 decides, and either neighbour is right. So the fair
# comparison asks of every code that differs: how much closer is one of the two values than the other?
# %% [markdown] lang="zh"
# ## 1 · 你的码与 bitsandbytes 的码
#
# 每块 $B = 64$ 个元素， $c = \max_{i \in \text{block}} |x_i|$ ，码本为 $q$ （讲义“分块”一节）：
#
# $$\text{code}_i = \arg\min_j |x_i / c - q_j|, \qquad \hat x_i = c \, q_{\text{code}_i}$$
#
# 当 $x_i / c$ 恰好落在两个取值的正中间时，由 float32 的舍入决定取哪个，两个都对。所以公平的比较是：对每个不同的码，
# 问两个取值中的一个比另一个近多少。
# %%
x = normal(0, sizes.rows, 1024)
mine, absmax = nf4.quantize_nf4(x)
theirs = quant.bitsandbytes_codes(x)

differ = mine != theirs
ratio = (x.view(-1, 64) / absmax[:, None]).view(x.shape)[differ]
codebook = nf4.nf4_codebook()
apart = (ratio - codebook[mine[differ].long()]).abs() - (ratio - codebook[theirs[differ].long()]).abs()
farthest = apart.abs().max().item() if differ.any() else 0.0
print(
    f"{int(differ.sum())} of {x.numel():,} codes differ; their distances differ by at most {farthest:.0e} of a block's constant"
)
labs.record("codes", count=x.numel(), differ=int(differ.sum()), farthest=farthest)
# %% [markdown] lang="en"
# ## 2 · Which 4-bit type has the smallest error?
#
# Four candidates on numbers drawn from $N(0, 1)$, in blocks of 64: your NF4; FP4, the 4-bit float of bitsandbytes; symmetric
# INT4, the integers −7 to 7 in steps of $c / 7$; INT4 with a zero point, sixteen steps from a block's smallest value to its
# largest (task 5.5), at the price of a second constant for each block.
#
# **Prediction.** Which one has the smallest mean squared error on normal numbers? Write its name before you run on.
# %% [markdown] lang="zh"
# ## 2 · 哪种 4 位类型的误差最小？
#
# 对服从 $N(0, 1)$ 的数，每块 64 个，有四个候选：你的 NF4；FP4，即 bitsandbytes 的 4 位浮点数；对称 INT4，整数 −7 到 7，步长
# $c / 7$ ；带零点的 INT4，从块中最小值到最大值取十六级（任务 5.5），代价是每块多一个常数。
#
# **预测。** 对正态分布的数，哪种的均方误差最小？先写下名称，再继续运行。
# %%
smallest = ...  # "NF4", "FP4", "INT4 symmetric" or "INT4 zero point"
### BEGIN SOLUTION
smallest = "NF4"
### END SOLUTION
guess = labs.predict("5.p1", smallest)
# %%
types = {
    "NF4": lambda x: nf4.dequantize_nf4(*nf4.quantize_nf4(x)),
    "FP4": quant.fp4,
    "INT4 symmetric": quant.int4,
    "INT4 zero point": lambda x: quant.int4(x, zero_point=True),
}


def relative_error(back, x):
    return ((back - x).square().mean() / x.square().mean()).item()


model, tokenizer = text.base_model()
held_out = text.examples("stars", sizes.held_out, seed=99, part="test")
untuned = text.exact_match(model, tokenizer, held_out)
first_block = list(quant.linears(model))[:7]  # q, k, v, o, gate, up, down
weights = [model.get_submodule(name).weight.detach().float().cpu() for name in first_block]
del model
samples = [normal(seed, sizes.rows, 1024) for seed in range(sizes.samples)]
error = {
    "N(0, 1)": [np.mean([relative_error(back(x), x) for x in samples]) for back in types.values()],
    "first block of the model": [np.mean([relative_error(back(w), w) for w in weights]) for back in types.values()],
}
labs.record("errors", types=list(types), **{name.split()[0]: values for name, values in error.items()})
fig = plots.bars(list(types), error, xlabel="4-bit type, blocks of 64", ylabel="mean squared error / mean square")
plots.show(
    fig,
    alt="Bars: FP4 has the largest error, symmetric INT4 the next, NF4 and INT4 with a zero point the smallest, close together",
)
least = list(types)[int(np.argmin(error["N(0, 1)"]))]
print(f"smallest on N(0, 1): {least}; you predicted: {guess}")
# %% [markdown] lang="en"
# NF4 beats FP4 and symmetric INT4 clearly. INT4 with a zero point has a slightly smaller error still on normal numbers: NF4 is
# *not* the type with the smallest squared error. It was built for something else, codes that are used equally often, which would
# carry the most information. Does it reach that?
# %% [markdown] lang="zh"
# NF4 明显优于 FP4 和对称 INT4。但对正态分布的数，带零点的 INT4 误差还要再小一点：NF4 **不是**均方误差最小的类型。
# 它的设计目标是另一件事：让各个码的使用频率相等，这样携带的信息最多。它做到了吗？
# %%
used = torch.bincount(nf4.quantize_nf4(samples[0])[0].flatten(), minlength=16) / samples[0].numel()
scaled = (samples[0].view(-1, 64) / samples[0].view(-1, 64).abs().amax(1, keepdim=True) * 7).round().int() + 7
evenly = torch.bincount(scaled.flatten(), minlength=15) / samples[0].numel()
entropy = {name: -(p[p > 0] * p[p > 0].log2()).sum().item() for name, p in {"NF4": used, "INT4 symmetric": evenly}.items()}
labs.record("codes used", entropy=entropy, largest=used.max(), smallest=used.min())
fig = plots.lines(
    {"NF4": range(16), "INT4 symmetric": range(15), "equally often": range(16)},
    {"NF4": used, "INT4 symmetric": evenly, "equally often": [1 / 16] * 16},
    xlabel="code",
    ylabel="share of values",
    title=f"bits of information in a code: NF4 {entropy['NF4']:.2f}, INT4 {entropy['INT4 symmetric']:.2f} of at most 4",
)
plots.show(fig, alt="Share of values by code: NF4 is flatter than symmetric INT4 but still higher in the middle than at the ends")
# %% [markdown] lang="en"
# NF4's codes are used more evenly than those of INT4, but not evenly. The codebook assumes numbers scaled by a fixed quantile,
# while a block is scaled by its own largest element, and how large that is depends on the block size (Yoshida 2023,
# [arXiv:2306.06965](https://arxiv.org/abs/2306.06965)).
#
# Now the weights of the model themselves: each divided by its block's constant, before and after.
# %% [markdown] lang="zh"
# NF4 的码比 INT4 用得均匀，但并不相等。码本假定数据按一个固定的分位数缩放，而实际上每块是按自己的最大元素缩放的，
# 它有多大又取决于块大小（Yoshida，2023，[arXiv:2306.06965](https://arxiv.org/abs/2306.06965)）。
#
# 再看模型自己的权重：量化前后，分别除以所在块的常数。
# %%
w = weights[-1]
constant = w.view(-1, 64).abs().amax(1, keepdim=True)
fig, axes = plots.figure(3, figsize=(12, 3.4), sharex=True)
for ax, (name, back) in zip(axes, {"original": w, "INT4 symmetric": quant.int4(w), "NF4": types["NF4"](w)}.items(), strict=True):
    ratios = (back.view(-1, 64) / constant).flatten()
    plots.histograms(
        {name: ratios}, xlabel="weight / constant of its block", bins=np.linspace(-1.01, 1.01, 102), title=name, ax=ax
    )
plots.show(
    fig,
    alt="Three histograms: a bell for the original, 15 evenly spaced spikes for INT4, 16 spikes for NF4 that are dense near zero",
)
# %% [markdown] lang="en"
# ## 3 · Two questions about blocks
#
# **Question 1 (5 points).** Llama-2-7B's `down_proj` has a weight of 4096 × 11008. It is quantised with your functions and their
# default block sizes, 64 and 256. How many *bytes* do all constants take together, after double quantisation: the 8-bit codes of
# the constants, the float32 scales and the one float32 mean?
# %% [markdown] lang="zh"
# ## 3 · 关于块的两个问题
#
# **问题 1（5 分）。** Llama-2-7B 的 `down_proj` 权重是 4096 × 11008。用你的函数量化，块大小取默认值 64 和 256。双重量化之后，
# 所有常数（常数的 8 位码、float32 的 scale，以及唯一的 float32 均值）一共占多少**字节**？
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
constant_bytes = ...  # a whole number
### BEGIN SOLUTION
_, constants = nf4.quantize_nf4(torch.zeros(4096, 11008))
constant_bytes = sum(part.nbytes for part in nf4.double_quantize(constants))
### END SOLUTION
labs.answer("5.q1", constant_bytes)
# %% [markdown] lang="en"
# **Question 2 (5 points).** An outlier spoils its own block only. A block holds one outlier of value $v > 0$, a whole number, and
# 63 elements that are all 1. From which $v$ on do the 63 come back as 0? And from which $v$ on, if they are all −1? Give the two
# smallest such $v$, first for +1, then for −1. Your `quantize_nf4` tells; then find the reason in the codebook.
# %% [markdown] lang="zh"
# **问题 2（5 分）。** 离群值只会毁掉它所在的块。某块有一个离群值 $v > 0$ （整数），其余 63 个元素全是 1。 $v$ 从多大开始，这 63
# 个元素会还原成 0？如果它们全是 −1 呢？先后写出 +1 和 −1 两种情形下最小的 $v$ 。用你的 `quantize_nf4` 就能找到；
# 再到码本里找出原因。
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
smallest_outliers = ...  # [for +1, for -1]
### BEGIN SOLUTION
smallest_outliers = []
for value in (1.0, -1.0):
    block = torch.full((64,), value)
    for v in range(2, 100):
        block[0] = v
        if nf4.dequantize_nf4(*nf4.quantize_nf4(block))[1] == 0:
            smallest_outliers.append(v)
            break
### END SOLUTION
labs.answer("5.q2", smallest_outliers)


# %% [markdown] lang="en"
# ## 4 · Fine-tuning on four bits, twice
#
# $$y = \hat W x + b + \frac{\alpha}{r} B A x, \qquad \hat W = \text{dequant}(\text{codes}, \hat c_2)$$
#
# The task is new to the model: rate a review with one to five stars. The same model is tuned three ways: its base as it is, with
# LoRA by peft; the base in 4 bits by bitsandbytes (`load_in_4bit`, double quantisation), with LoRA by peft; and **your**
# `QLoRALinear` in the place of every linear layer. Rank, rate, steps and data are the same.
# %% [markdown] lang="zh"
# ## 4 · 在 4 位底座上微调，做两遍
#
# $$y = \hat W x + b + \frac{\alpha}{r} B A x, \qquad \hat W = \text{dequant}(\text{codes}, \hat c_2)$$
#
# 任务对模型是全新的：给一条影评打一到五颗星。同一个模型用三种方式微调：底座保持原样，加 peft 的 LoRA；底座用 bitsandbytes 存成 4
# 位（`load_in_4bit`，双重量化），加 peft 的 LoRA；以及用**你的** `QLoRALinear` 替换每个线性层。秩、学习率、步数和数据都相同。
# %%
def plain(seed):
    return text.lora(text.base_model()[0], sizes.rank, sizes.alpha, "all-linear", seed=seed)


def bitsandbytes_and_peft(seed):
    return text.lora(text.base_model(quantised=True)[0], sizes.rank, sizes.alpha, "all-linear", seed=seed)


def yours(seed):
    torch.manual_seed(seed)
    model, _ = text.base_model()
    quant.wrap(model, lambda linear: nf4.QLoRALinear(linear, sizes.rank, sizes.alpha), sizes.recompute)
    return model


def batches(seed):
    train, rng = text.examples("stars", sizes.examples, seed), Random(seed)
    while True:
        yield text.collate(rng.sample(train, sizes.batch), tokenizer)


def tune(model, name, seed):
    """The losses, and the share of held-out reviews that are rated right."""
    options = {"name": f"week05/{name}-{seed}", "schedule": "cosine", "warmup": 10, "seed": seed}
    run = training.fit(model, batches(seed), sizes.steps, sizes.rate, **options)
    return run.loss, text.exact_match(model, tokenizer, held_out)


# %%
def smooth(losses):
    """The mean over ten steps."""
    return {name: np.convolve(loss, np.ones(10) / 10, "valid") for name, loss in losses.items()}


ways = {"base as it is": plain, "4 bits, bitsandbytes and peft": bitsandbytes_and_peft, "4 bits, your QLoRALinear": yours}
losses, rated = {}, {}
for name, build in ways.items():
    runs = [tune(build(seed), name.replace(" ", "_"), seed) for seed in sizes.seeds]
    losses[name] = np.mean([loss for loss, _ in runs], axis=0)
    rated[name] = [score for _, score in runs]
labs.record("tuned", untuned=untuned, rated=rated, loss={name: list(loss) for name, loss in losses.items()})
fig = plots.lines(
    range(10, sizes.steps + 1), smooth(losses), xlabel="step", ylabel="training loss, mean of 10 steps (nats per token)"
)
plots.show(fig, alt="Three loss curves over the steps, one for each way of tuning, nearly on top of each other")
for name, scores in {"not tuned": [untuned], **rated}.items():
    print(f"{name:32} rated right {' '.join(f'{score:.3f}' for score in scores)}")
# %% [markdown] lang="en"
# The three loss curves nearly coincide: on four bits the LoRA factors train as they do on the full base. The share that is rated
# right varies from seed to seed by about as much as it does between the ways, so this run can say "no large loss" and not
# "equal".
# %% [markdown] lang="zh"
# 三条损失曲线几乎重合：底座只有 4 位，LoRA 因子照样能训练。答对的比例在不同种子之间的波动，与不同方式之间的差别差不多大，
# 所以这次实验只能说“没有明显损失”，不能说“相等”。
# %% [markdown] lang="en"
# ## 5 · Where the memory of a step goes
#
# The tiny model is too small for its memory to be seen, so here is a stack of wide layers with LoRA. Counted is every tensor that
# is in use, after every operation of PyTorch, over two training steps.
#
# **Prediction.** Your layer stores a weight in one byte instead of four (and bitsandbytes in half a byte). The highest point of
# the step with your layers, as a share of the highest point with float32 weights: what will it be?
# %% [markdown] lang="zh"
# ## 5 · 一步训练的内存花在哪里
#
# 微型模型太小，看不出内存的差别，所以这里用一叠带 LoRA 的宽层。在两步训练中，每做完一个 PyTorch 运算，就统计所有在用的张量。
#
# **预测。** 你的层用一个字节存一个权重，而不是四个（bitsandbytes 用半个字节）。那么训练中的内存最高点，你的层是 float32
# 权重的几分之几？
# %%
share_of_peak = ...  # 0.25 would be a quarter
### BEGIN SOLUTION
share_of_peak = 0.3
### END SOLUTION
guess = labs.predict("5.p2", share_of_peak)


# %%
def yours_at(linear):
    return nf4.QLoRALinear(linear, sizes.rank, sizes.rank)


curves, table = {}, {}
for kind in quant.KINDS:
    with quant.Tally() as tally:
        stack = quant.stack(kind, sizes.width, sizes.layers, sizes.rank, yours_at)
        built, begin = tally.now, len(tally.mib)
        between = quant.train_stack(stack, sizes.width, sizes.tokens, 2, tally)
    curves[kind] = tally.mib[begin:]
    table[kind] = {"stored": built, "between forward and backward": between, "highest": max(curves[kind])}
    del stack
labs.record("memory", **table)
fig, (left, right) = plots.figure(2, figsize=(12, 4))
progress = {kind: np.linspace(0, 2, len(curve)) for kind, curve in curves.items()}
plots.lines(progress, curves, xlabel="training steps done", ylabel="tensors in use (MiB)", title="exact, by tensor", ax=left)
left.set_ylim(0, 1.45 * max(max(curve) for curve in curves.values()))  # room for the legend
parts = {part: [row[part] for row in table.values()] for part in table["yours"]}
plots.bars(
    [kind.replace(", ", ",\n") for kind in table],
    parts,
    xlabel="layers",
    ylabel="MiB",
    title="the same in three numbers",
    ax=right,
)
right.tick_params(axis="x", rotation=0)
plots.show(
    fig,
    alt="Left: memory over two steps for four kinds of layers; yours rises highest. Right: the same as bars",
)
ratio = table["yours"]["highest"] / table["float32"]["highest"]
print(f"highest point, yours / float32: {ratio:.2f}; you predicted: {guess}")
# %% [markdown] lang="en"
# Your layers *store* about a quarter, and yet the step's highest point is above that of float32: `F.linear` keeps the decoded
# $\hat W$ of every layer until the backward pass. bitsandbytes keeps the codes and decodes again. So do your layers under
# gradient checkpointing, which computes each layer anew in the backward pass (week 4): then a single $\hat W$ exists at a time.
#
# The operating system sees another picture. The curve of the process below comes from `meters.memory`: the resident set, which
# holds what the allocator keeps for later as well (on a GPU it is PyTorch's allocator).
# %% [markdown] lang="zh"
# 你的层**存储**的只有大约四分之一，最高点却超过了 float32： `F.linear` 会为反向传播保留每一层解码后的 $\hat W$ 。bitsandbytes
# 只保留码，反向时再解码一次。对你的层使用梯度检查点，反向时逐层重算（第 4 周），也能做到：任何时刻只有一个 $\hat W$ 。
#
# 操作系统看到的是另一幅图。下面的进程内存曲线来自 `meters.memory`：它是常驻内存，分配器留着备用的部分也算在内（在 GPU 上则是
# PyTorch 的分配器）。
# %%
resident = {}
for kind in ("float32", "yours", "bitsandbytes"):
    quant.tidy()
    with meters.memory(every=0.005) as resident[kind]:
        quant.train_stack(quant.stack(kind, sizes.width, sizes.layers, sizes.rank, yours_at), sizes.width, sizes.tokens, 4)
labs.record("resident", **{kind: curve.growth for kind, curve in resident.items()})
fig = plots.lines(
    {kind: curve.seconds for kind, curve in resident.items()},
    {kind: np.array(curve.mib) - curve.mib[0] for kind, curve in resident.items()},
    xlabel="seconds, with building the layers",
    ylabel="memory above the start (MiB)",
)
plots.show(fig, alt="Resident memory over time for three kinds of layers; the curve of your layers rises highest")
# %% [markdown] lang="en"
# ## 6 · Which dtype where
#
# "4-bit training" is 4-bit *storage*. One step of the bitsandbytes model, computing in bf16 as in the paper, traced in its first
# `q_proj`:
# %% [markdown] lang="zh"
# ## 6 · 哪里是什么数据类型
#
# 所谓“4 位训练”，只是 4 位**存储**。让 bitsandbytes 模型像论文那样用 bf16 计算，训练一步，在第一个 `q_proj` 处追踪：
# %%
traced = quant.dtypes(bitsandbytes_and_peft(0), text.collate(held_out[:8], tokenizer))
for part, dtype in traced.items():
    print(f"{part:28} {dtype}")
labs.record("dtypes", **traced)
# %% [markdown] lang="en"
# The codes are never multiplied: $\hat W$ is decoded to bf16 for each product. The factors, their gradients and Adam's moments
# are float32, which costs little, since they are small.
#
# ## 7 · Paged optimizers
#
# Adam keeps two float32 moments for each trainable parameter: 8 bytes. `AdamW8bit` keeps them in 8 bits, but only for tensors of
# at least 4,096 elements. A *paged* optimizer (`PagedAdamW8bit`) allocates the states in unified memory. They stay on the GPU;
# when the GPU runs out, with a long sequence say, the driver moves pages to the CPU and brings them back at the next step. It
# saves no memory, it avoids a crash, and without pressure it costs nothing. It is not "offloading to the CPU". Without a GPU
# nothing is paged, and bitsandbytes says so.
# %% [markdown] lang="zh"
# 码本身从不参与乘法：每次相乘之前， $\hat W$ 都先解码成 bf16。因子、它们的梯度和 Adam 的矩都是 float32；它们很小，所以代价不大。
#
# ## 7 · 分页优化器
#
# Adam 为每个可训练参数保存两个 float32 的矩：8 字节。 `AdamW8bit` 用 8 位保存，但只对元素不少于 4,096 个的张量这样做。
# **分页**优化器（`PagedAdamW8bit`）把状态分配在统一内存中。它们平时留在 GPU 上；显存不够时（例如遇到长序列），驱动才把页面移到
# CPU 内存，下一步再取回来。它不节省内存，只是避免程序崩溃；没有压力时也没有代价。它并不是“把优化器卸载到 CPU”。没有 GPU
# 就没有分页可言，bitsandbytes 会给出提示。
# %%
for width in (64, 512):
    for kind in quant.optimizers():
        parameter = torch.nn.Parameter(normal(0, 8, width).to(training.device()))
        optimizer = kind([parameter], lr=1e-3)
        parameter.grad = torch.ones_like(parameter)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            optimizer.step()
        per_parameter = quant.state_bytes(optimizer) / parameter.numel()
        print(f"8 × {width:4}  {kind.__name__:15} {per_parameter:5.2f} bytes a parameter  {said[0].message if said else ''}")
        labs.record(f"{kind.__name__} {width}", per_parameter=per_parameter)
# %% [markdown] lang="en"
# (A tensor of 8 × 512 has just enough elements; its table of 256 values counts as well, so that the figure is above 2.)
#
# ## 8 · Better starts? LoftQ and PiSSA
#
# By default $B = 0$, so training starts at $\hat W$, with the error of four bits. The factors could start by *repairing* it.
# LoftQ (Li et al., [arXiv:2310.08659](https://arxiv.org/abs/2310.08659)) alternates, from $B A = 0$ on:
#
# $$Q_t = \text{quant}(W - B_{t-1} A_{t-1}), \qquad B_t A_t = \text{SVD}_r(W - Q_t)$$
#
# PiSSA (Meng et al., [arXiv:2404.02948](https://arxiv.org/abs/2404.02948)) gives the factors the leading part of $W$ itself and
# quantises the rest: $B A = \text{SVD}_r(W)$, $Q = \text{quant}(W - B A)$.
#
# **Prediction.** After one round of LoftQ, which share of the error $\lVert W - Q - B A \rVert_F / \lVert W - \hat W \rVert_F$ is
# left at rank 8?
# %% [markdown] lang="zh"
# （8 × 512 的张量刚好够大；它的 256 项取值表也算在内，所以数字比 2 大。）
#
# ## 8 · 更好的起点？LoftQ 与 PiSSA
#
# 默认 $B = 0$ ，训练从 $\hat W$ 出发，带着 4 位量化的误差。其实可以让因子一开始就去**修补**它。LoftQ（Li 等，
# [arXiv:2310.08659](https://arxiv.org/abs/2310.08659)）从 $B A = 0$ 开始交替进行：
#
# $$Q_t = \text{quant}(W - B_{t-1} A_{t-1}), \qquad B_t A_t = \text{SVD}_r(W - Q_t)$$
#
# PiSSA（Meng 等，[arXiv:2404.02948](https://arxiv.org/abs/2404.02948)）则把 $W$ 本身的主要部分交给因子，量化余下的部分：
# $B A = \text{SVD}_r(W)$ ， $Q = \text{quant}(W - B A)$ 。
#
# **预测。** LoftQ 做一轮之后，秩为 8 时，误差 $\lVert W - Q - B A \rVert_F / \lVert W - \hat W \rVert_F$ 还剩几分之几？
# %%
share_left = ...  # 0.25 would be a quarter
### BEGIN SOLUTION
share_left = 0.5
### END SOLUTION
guess = labs.predict("5.p3", share_left)


# %%
def loftq(w, rank, rounds):
    B, A = torch.zeros(len(w), rank), torch.zeros(rank, w.shape[1])
    for _ in range(rounds):
        Q = types["NF4"](w - B @ A)
        B, A = quant.principal(w - Q, rank)
    return Q, B, A


def pissa(w, rank):
    B, A = quant.principal(w, rank)
    return types["NF4"](w - B @ A), B, A


starts = {
    "LoftQ, 1 round": lambda w, rank: loftq(w, rank, 1),
    f"LoftQ, {sizes.rounds} rounds": lambda w, rank: loftq(w, rank, sizes.rounds),
    "PiSSA": pissa,
}
left = {name: [] for name in starts}
for rank in labs.progress(sizes.ranks, "starts"):
    for name, start in starts.items():
        shares = [(w - Q - B @ A).norm() / (w - types["NF4"](w)).norm() for w in weights for Q, B, A in [start(w, rank)]]
        left[name].append(float(np.mean(shares)))
labs.record("starts", ranks=sizes.ranks, left=left)
fig = plots.lines(sizes.ranks, left, xlabel="rank r", ylabel="error at the start / default's", xscale="log", predicted=(8, guess))
plots.show(fig, alt="The error left at the start falls with the rank for LoftQ and, faster, for PiSSA")


# %% [markdown] lang="en"
# Rounding errors look like noise: their singular values hardly decay, so a small rank repairs little of them. PiSSA does better
# here for another reason: without its leading part $W$ is smaller, and so is the rounding. Does a better start make a better
# model? Each start is trained with your layer. It quantises $Q$ once more, which changes no code (lecture, "What holds").
# %% [markdown] lang="zh"
# 舍入误差像噪声，奇异值几乎不衰减，所以很小的秩只能修补其中一小部分。PiSSA 在这里更好，原因不同：去掉主要部分之后 $W$ 变小了，
# 舍入误差也随之变小。起点更好，模型就更好吗？下面用你的层从每个起点训练。它会把 $Q$ 再量化一次，
# 而这不会改变任何码（讲义“成立的性质”）。
# %%
def started(start):
    def make(linear):
        Q, B, A = start(linear.weight.detach().float(), sizes.rank)
        layer = nf4.QLoRALinear(quant.linear(Q.to(linear.weight.dtype)), sizes.rank, sizes.alpha)
        layer.lora_A.data.copy_(A / layer.scaling**0.5)  # so that (alpha / r) B A is the product
        layer.lora_B.data.copy_(B / layer.scaling**0.5)
        return layer

    model, _ = text.base_model()
    quant.wrap(model, make, sizes.recompute)
    return model


start_losses = {"default": losses["4 bits, your QLoRALinear"]}
start_rated = {"default": rated["4 bits, your QLoRALinear"]}
for name in list(starts)[1:]:
    runs = [tune(started(starts[name]), name.replace(", ", "_").replace(" ", "_"), seed) for seed in sizes.seeds]
    start_losses[name] = np.mean([loss for loss, _ in runs], axis=0)
    start_rated[name] = [score for _, score in runs]
labs.record("started", loss={name: list(loss) for name, loss in start_losses.items()}, rated=start_rated)
fig = plots.lines(
    range(10, sizes.steps + 1), smooth(start_losses), xlabel="step", ylabel="training loss, mean of 10 steps (nats per token)"
)
plots.show(fig, alt="Loss curves from three starts: PiSSA falls faster at the beginning, all end close together")
for name, scores in start_rated.items():
    print(f"{name:18} rated right {' '.join(f'{score:.3f}' for score in scores)}")
# %% [markdown] lang="en"
# At four bits the error is small, and training repairs it from any start: LoftQ's start changes neither the curve nor the result
# visibly. PiSSA falls much faster at first, since its factors are large and so move the layer more at the same rate; at the end
# the starts lie as close together as the seeds. LoftQ's paper finds its gains mostly at 2 bits, where the default start can fail.
# A faster first loss is not yet a better model.
#
# ## 9 · Written question (5 points)
#
# A colleague reports: "We went from LoRA on a float32 base to QLoRA with a layer like our week 5 one. The checkpoint shrank to a
# quarter, but training runs out of memory at the same batch size as before. We shall turn on the paged optimizer, which moves
# Adam's states to the CPU." In 120 to 200 words: explain with the numbers of section 5 what happened, say what would help, and
# judge the plan.
#
# Rubric: names what is kept between forward and backward pass and why ($\hat W$ of every layer), with figures of this run (2
# points); a remedy that fits, and what it costs (1); what paged optimizers do, and how large the states are here at most (1); one
# thing that this experiment cannot tell about a large model (1).
# %% [markdown] lang="zh"
# 在 4 位下误差本来就小，从哪个起点出发，训练都能弥补：LoftQ 的起点看不出对曲线和结果有什么影响。PiSSA 起初降得快得多，
# 因为它的因子数值大，同样的学习率对层的改变更大；到最后，几个起点之间的差别与种子之间的差别一样大。LoftQ 论文的收益主要在 2 位，
# 那时默认起点可能失败。损失起初降得快，还不等于模型更好。
#
# ## 9 · 书面问题（5 分）
#
# 一位同事报告：“我们把 float32 底座上的 LoRA 换成了 QLoRA，用的层和第 5 周作业里的类似。检查点缩小到四分之一，
# 可是训练在和以前一样的批大小下仍然内存不足。我们打算打开分页优化器，它会把 Adam 的状态移到 CPU。”用 200 至 350 字：结合第 5
# 节的数字解释发生了什么，指出什么办法有用，并评价这个打算。
#
# 评分标准：指出前向与反向之间保留的是什么、为什么（每一层的 $\hat W$ ），并引用本次运行的数字（2 分）；对症的办法及其代价（1
# 分）；分页优化器做什么，这里的状态最多有多大（1 分）；本实验对大模型说明不了的一点（1 分）。
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# The weights are stored in a byte instead of four: in section 5 the stack's stored tensors fall from about 49 MiB to about 13.
# But between forward and backward pass about 72 MiB are in use, more than the 64 of float32, because `F.linear` keeps the decoded
# $\hat W$ of each layer for $\partial L / \partial x = \hat W^\top g$. All decoded weights exist at once at the end of the
# forward pass, in full precision, next to the codes. So the highest point did not fall.
#
# What helps is not to keep them: gradient checkpointing around each layer (about 22 MiB between the passes here), or an autograd
# function that keeps the codes and decodes again, as in bitsandbytes. Both decode twice, and checkpointing repeats the layer's
# forward pass.
#
# The paged optimizer does not move the states to the CPU. They stay on the GPU and pages leave under pressure only. And there is
# little to move: eight bytes for each of the 196,608 parameters of the factors, 1.5 MiB here. It would soften a short peak, not
# this one.
#
# What the stack cannot tell: attention and logits of a large model with long sequences, whose activations may outweigh the
# weights.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 每个权重从四个字节变成一个字节：第 5 节里，存储的张量从约 49 MiB 降到约 13 MiB。但前向与反向之间在用的张量约有 72 MiB，比
# float32 的 64 MiB 还多，因为 `F.linear` 要用解码后的 $\hat W$ 计算 $\partial L / \partial x = \hat W^\top g$ ，于是每一层的
# $\hat W$ 都被保留。前向结束时，全部解码后的权重以全精度同时存在，旁边还有码，所以最高点没有下降。
#
# 有用的办法是不保留它们：给每一层加梯度检查点（这里两次传播之间约 22 MiB），或者像 bitsandbytes 那样，写一个只保留码、
# 反向时再解码的自动求导函数。两者都要解码两次，检查点还要重做一遍该层的前向计算。
#
# 分页优化器并不会把状态移到 CPU：状态留在 GPU 上，只有显存紧张时页面才会换出。况且也没有多少可移的：因子共 196,608 个参数，每个 8
# 字节，这里是 1.5 MiB。它能缓解短暂的峰值，对这种情况没有用。
#
# 这个实验说明不了的是：大模型处理长序列时，注意力和 logits 的激活值可能比权重还大。
# %% [markdown] lang="en"
# ## Where this breaks
#
# - The model is tiny, and its task is generated. "No loss that we can see" here is no evidence for a 7B model; the QLoRA paper's
#   own comparisons are (lecture, "References"). Two seeds show that there is a spread, not how large it is.
# - Errors of weights are not errors of outputs. A type with a smaller squared error need not give the better model, and outliers
#   in activations, which matter in large models, do not occur here.
# - bitsandbytes on the CPU: `dequantize_4bit` is silently wrong where the last dimension is not a multiple of the block; the
#   shapes above are.
# - Speed is not measured: on a CPU decoding dominates, on a GPU the ratio is another one.
# - In the full profile the same cells load Llama-2-7B, the base as it is is bf16, and all sizes grow (`course/week05/lab.toml`).
#   Your layers are checkpointed there: otherwise they would keep about 13 GB of decoded weights.
#
# Lecture sections: Codebook, Blocks, Double quantisation, QLoRA layer, Paged optimizers, Affine quantisation.
# %% [markdown] lang="zh"
# ## 局限
#
# - 模型很小，任务是生成的。这里的“看不出损失”不能作为 7B 模型的证据；QLoRA 论文自己的比较才是（见讲义“参考文献”）。
#   两个种子只能说明结果有波动，不能说明波动有多大。
# - 权重的误差不等于输出的误差。均方误差小的类型不一定得到更好的模型；大模型中很重要的激活离群值，这里没有出现。
# - bitsandbytes 在 CPU 上：最后一维不是块大小的倍数时， `dequantize_4bit` 会给出错误的结果而不报错；上面的形状都是倍数。
# - 没有测速度：CPU 上解码占主要部分，GPU 上的比例又是另一回事。
# - 完整配置下，同样的单元格会加载 Llama-2-7B，未量化的底座是 bf16，各项规模都更大（见 `course/week05/lab.toml`）。
#   那时你的层使用检查点，否则会保留约 13 GB 解码后的权重。
#
# 对应讲义：码本、分块、双重量化、QLoRA 层、分页优化器、仿射量化。
