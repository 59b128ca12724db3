# %% [markdown] lang="en"
# # Week 9 lab · Styles for a diffusion model, slices of a vision transformer
#
# A small diffusion model draws handwritten digits, a small vision transformer reads them. After this lab you can
#
# - put LoRA into the convolutions of a denoiser, train a style by the diffusion loss, and draw with your own DDIM step;
# - blend two styles in the weights, and say what a scale of -1 does to the picture and what it does not;
# - adapt the queries, keys or values of a fused projection one by one;
# - count what merged, unmerged, adapter and prefix models cost at batch size 1, and compare the counts with a clock.
#
# It runs on your own file `exercises/week09/multimodal.py` (tasks 9.1 to 9.4), in about a minute. The theory is in
# [the lecture](../course/week09/lecture.md), whose sections are named below. Three cells are graded: `9.q1`, `9.q2` and a written
# answer, `9.q3`, 15 points together. With `LAB_PROFILE=full` the same cells train Stable Diffusion XL and ViT-Base.
# %% [markdown] lang="zh"
# # 第 9 周实验 · 扩散模型的风格，与视觉 Transformer 的切片
#
# 一个小扩散模型会画手写数字，一个小视觉 Transformer 会认。完成本实验后你将能够
#
# - 把 LoRA 放进去噪网络的卷积层，用扩散损失训练一种风格，再用自己的 DDIM 步来作画；
# - 在权重中混合两种风格，并说明系数取 -1 时画面会怎样、不会怎样；
# - 在融合投影中分别适配查询、键或值；
# - 数出批大小为 1 时合并、未合并、适配器、前缀各方案的计算量，并与实际计时对照。
#
# 实验运行在你自己的文件 `exercises/week09/multimodal.py` 上（任务 9.1 至 9.4），大约需要一分钟。相关理论见
# [讲义](../../course/week09/lecture.zh.md)，下文会注明对应的小节。计分的单元格有三个：`9.q1`、`9.q2` 和书面题 `9.q3`，共 15 分。
# 设置 `LAB_PROFILE=full` 后，同样的单元格会训练 Stable Diffusion XL 和 ViT-Base。
# %%
import copy

import numpy as np
import torch
from torch import nn

from course import labs
from course.labs import plots, styles, training, vetting, vision

lab = labs.student(9)  # your own file
sizes = labs.sizes(9)  # course/week09/lab.toml

# %% [markdown] lang="en"
# ## 1 · Adapters in the convolutions
#
# Lecture: *Conv LoRA*. Each convolution of the denoiser gets a branch beside it,
#
# $$y = W_0 * x + b + \frac{\alpha}{r} B * (A * x), \qquad \Delta W_{oihw} = \frac{\alpha}{r} \sum_r B_{or} A_{rihw}$$
#
# and nothing else is trained. At the start $B = 0$, so the model draws what it drew before. (How your layer draws $A$ is yours;
# the lab draws it anew, within $1 / \sqrt{\text{inputs}}$, so that training begins alike for everybody.)
# %% [markdown] lang="zh"
# ## 1 · 卷积层里的适配器
#
# 讲义：*卷积的 LoRA*。去噪网络的每个卷积旁边各加一个分支，
#
# $$y = W_0 * x + b + \frac{\alpha}{r} B * (A * x), \qquad \Delta W_{oihw} = \frac{\alpha}{r} \sum_r B_{or} A_{rihw}$$
#
# 其余部分都不训练。开始时 $B = 0$ ，所以模型画出的与原来相同。（你的层怎样初始化 $A$ 由你决定；本实验会在 $1 / \sqrt{\text{输入数}}$ 的
# 范围内重新抽取 $A$ ，让每个人的训练都从同样的状态开始。）
# %%
studio = vision.studio()
convolutions = [name for name, module in studio.unet.named_modules() if isinstance(module, nn.Conv2d)]
subjects = [subject for subject in studio.subjects for _ in range(sizes.each)]
weights = sum(p.numel() for p in studio.unet.parameters())


def adapted(conv):
    rank = min(sizes.rank, len(conv.weight), conv.weight[0].numel())  # the last layer has few outputs
    return lab.LoRAConv2d(conv, rank, 2 * rank)


def draw():
    return studio.sample(subjects, sizes.denoising, step=lab.ddim_step)


pictures = {"plain": draw()}
styles.wrap(studio.unet, convolutions, adapted)
trainable = sum(p.numel() for p in studio.unet.parameters() if p.requires_grad)
start = (draw() - pictures["plain"]).abs().max().item()
print(f"{len(convolutions)} convolutions; {trainable:,} of {weights:,} weights are trained ({trainable / weights:.1%})")
print(f"largest change of a pixel by adapters with B = 0: {start:.1e}")
labs.record("start", change=start, share=trainable / weights, convolutions=len(convolutions))
# %% [markdown] lang="en"
# ## 2 · Two styles
#
# Lecture: *Diffusion*. Your `diffusion_loss` noises each picture to its own timestep and compares the noise with the prediction,
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad L = \text{mean}\left(\epsilon - \hat\epsilon(x_t, t)\right)^2$$
#
# on pictures of one style. "Slanted" shifts the rows of a picture, "inverted" exchanges black and white. Each style is trained from the
# same base; the curves are in TensorBoard (`tensorboard --logdir build/runs`).
# %% [markdown] lang="zh"
# ## 2 · 两种风格
#
# 讲义：*扩散模型*。你的 `diffusion_loss` 把每张图片加噪到各自的时间步，再把噪声与预测相比，
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad L = \text{mean}\left(\epsilon - \hat\epsilon(x_t, t)\right)^2$$
#
# 所用图片都属于同一种风格。“倾斜”把图片的各行错开，“反色”把黑白互换。每种风格都从同一个底座开始训练；
# 损失曲线可在 TensorBoard 中查看（`tensorboard --logdir build/runs`）。
# %%
learned, losses = {}, {}
for style in ("slanted", "inverted"):
    if learned:  # the first adapters are in place already
        styles.wrap(studio.unet, convolutions, adapted)
    options = {"count": sizes.examples, "batch": sizes.batch, "schedule": "cosine", "name": f"week09-{style}"}
    history = studio.train_style(style, sizes.steps, sizes.rate, loss=lab.diffusion_loss, **options)
    losses[style] = np.convolve(history.loss, np.ones(10) / 10, "valid")
    pictures[style] = draw()
    learned[style] = styles.take_out(studio.unet, convolutions)
fig = plots.lines(
    {style: np.arange(len(loss)) + 10 for style, loss in losses.items()},
    losses,
    xlabel="step",
    ylabel="diffusion loss (mean of 10 steps)",
)
plots.show(fig, alt="The loss of both styles falls; the inverted one starts higher.")
# %%
shown = {name: vision.grid(images, 2 * sizes.each) for name, images in pictures.items()}
plots.show(plots.pictures(shown, columns=3), alt="Drawn digits, upright white on black; slanted; and black on white.")
kinds = {"slant (columns a row)": vision.slant, "brightness (-1 to 1)": vision.brightness}
measured = {kind: {name: measure(images).mean().item() for name, images in pictures.items()} for kind, measure in kinds.items()}
for kind, values in measured.items():
    print(f"{kind:22}", {name: round(value, 2) for name, value in values.items()})
labs.record("styles", **{kind.split()[0]: values for kind, values in measured.items()})
# %% [markdown] lang="en"
# The digits stay digits: nothing in the loss asks for another subject. Is your `ddim_step` the sampler it claims to be? Here it is beside
# diffusers' scheduler, from the same noise:
# %% [markdown] lang="zh"
# 数字仍是数字：损失中没有任何一项要求改变内容。你的 `ddim_step` 真的就是那个采样器吗？下面从同样的噪声出发，与 diffusers 的调度器对比：
# %%
theirs = studio.sample(subjects, sizes.denoising)
difference = (theirs - pictures["plain"]).abs().max().item()
print(f"largest difference of a pixel between your sampler and diffusers': {difference:.1e}")
labs.record("sampler", difference=difference)
# %% [markdown] lang="en"
# ## 3 · Blending
#
# Lecture: *Blend styles*. Updates of one base add up, $W = W_0 + \sum_i s_i \frac{\alpha_i}{r_i} B_i A_i$. Your `StyleBlender` knows `nn.Linear`; a
# convolution is a linear map of each patch, so the lab gives it each kernel as the weight of a Linear, of shape (out, in · 3 · 3).
#
# "Slanted" at a scale of 1 leans to the right. Predict the slant, in columns a row, at a scale of **-1**.
# %% [markdown] lang="zh"
# ## 3 · 混合风格
#
# 讲义：*混合风格*。同一底座的更新量可以相加， $W = W_0 + \sum_i s_i \frac{\alpha_i}{r_i} B_i A_i$ 。你的 `StyleBlender` 认识的是 `nn.Linear`；
# 卷积对每个图像块做同一个线性映射，所以本实验把每个卷积核当作一个 Linear 的权重交给它，形状是（输出，输入 · 3 · 3）。
#
# “倾斜”的系数取 1 时，图形向右倾。请预测系数取 **-1** 时的倾斜度（单位：每行偏移的列数）。
# %%
leaning_back = ...  # a number, negative to the left
### BEGIN SOLUTION
leaning_back = -0.5
### END SOLUTION
leaning_back = labs.predict("9.p1", leaning_back)
# %%
styles.wrap(studio.unet, convolutions, styles.Matrix)
blender = lab.StyleBlender(studio.unet, learned)
scales = [-1, -0.5, 0, 0.5, 1]
slants, bright = [], []
for scale in scales:
    blender.blend_styles({"slanted": scale})
    slants.append(vision.slant(draw()).mean().item())
    blender.blend_styles({"inverted": scale})
    bright.append(vision.brightness(draw()).mean().item())
labs.record("scales", scales=scales, slant=slants, brightness=bright)
fig, axes = plots.figure(2)
plots.lines(
    scales, {"slant": slants}, xlabel="scale of slanted", ylabel="slant (columns a row)", predicted=(-1, leaning_back), ax=axes[0]
)
plots.lines(scales, {"brightness": bright}, xlabel="scale of inverted", ylabel="mean brightness (-1 to 1)", ax=axes[1])
plots.show(fig, alt="Slant and brightness over the scale: both rise from 0 to 1, and do not mirror that rise below 0.")
# %% [markdown] lang="en"
# Between 0 and 1 the scale works like a dial. At -1 it does not slant to the left by as much: the weights move the opposite way, exactly, but
# the picture is no linear function of the weights, and no picture that leans to the left was ever in the training data. Now both at once:
# %% [markdown] lang="zh"
# 在 0 和 1 之间，系数像旋钮一样起作用。取 -1 时却不会向左倾同样多：权重确实精确地朝相反方向移动，但图片并不是权重的线性函数，
# 而且训练数据中从来没有向左倾的图片。现在把两种风格放在一起：
# %%
blends = {}
for slanted in (0, 0.5, 1):
    for inverted in (0, 0.5, 1):
        blender.blend_styles({"slanted": slanted, "inverted": inverted})
        images = studio.sample(studio.subjects, sizes.denoising, step=lab.ddim_step)
        blends[f"slanted {slanted:g}, inverted {inverted:g}"] = images
fig = plots.pictures({name: vision.grid(images, 5) for name, images in blends.items()}, columns=3)
plots.show(fig, alt="Nine grids of the ten subjects: from plain at the upper left to both styles at the lower right.")
both = blends["slanted 1, inverted 1"]
labs.record("both", slant=vision.slant(-both).mean().item(), brightness=vision.brightness(both).mean().item())
blender.blend_styles({})
restored = bool((draw() == pictures["plain"]).all())
print("blend_styles({}) draws the plain pictures again, bit for bit:", restored)
labs.record("restored", equal=restored)
# %% [markdown] lang="en"
# With both at full strength black and white are exchanged, and most of the slant is gone. The sum of the weights is exact; but both styles were
# trained alone, in the same layers, and disturb each other.
#
# ## 4 · How many steps does DDIM need? (graded)
#
# With a trained model one cannot tell the sampler's error from the model's. So take a world where the best prediction is known: the data are
# numbers from $N(0, s^2)$. Then the expected noise, given $x_t$, is
#
# $$\hat\epsilon(x_t, t) = \frac{\sqrt{1 - \bar\alpha_t}}{\bar\alpha_t s^2 + 1 - \bar\alpha_t}\, x_t ,$$
#
# every step of DDIM multiplies by a number, and the product is the standard deviation of what is drawn.
# %% [markdown] lang="zh"
# 两种风格都取满强度时，黑白确实互换了，倾斜却大部分消失了。权重的求和是精确的；但两种风格是在同样的层里各自单独训练的，会互相干扰。
#
# ## 4 · DDIM 需要多少步？（计分）
#
# 用训练出来的模型，无法区分采样器的误差和模型的误差。所以换一个知道最佳预测的世界：数据是服从 $N(0, s^2)$ 的数。这时给定 $x_t$ ，噪声的期望是
#
# $$\hat\epsilon(x_t, t) = \frac{\sqrt{1 - \bar\alpha_t}}{\bar\alpha_t s^2 + 1 - \bar\alpha_t}\, x_t ,$$
#
# DDIM 的每一步都是乘以一个数，这些数的乘积就是所画样本的标准差。
# %%
abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
s = 0.5


def drawn_std(steps):
    """The standard deviation of what your ddim_step draws in so many steps; the data's is s."""
    times = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    x = torch.ones(1, dtype=torch.float64)  # one standard deviation of the first noise
    for t, t_prev in zip(times, [*times[1:], -1], strict=True):
        eps = (1 - abar[t]).sqrt() / (abar[t] * s**2 + 1 - abar[t]) * x
        x = lab.ddim_step(x, eps, t, t_prev, abar)
    return x.item()


steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
ratios = [drawn_std(n) / s for n in steps]
labs.record("ddim", steps=steps, ratio=ratios)
fig = plots.lines(
    steps, {"DDIM": ratios}, xlabel="steps of sampling", ylabel="standard deviation drawn / that of the data", xscale="log"
)
plots.show(fig, alt="The ratio rises from nearly 0 at one step to about 1 at a thousand.")
# %% [markdown] lang="en"
# The prediction has no error at all, and still few steps draw too little variety: one step gives the mean. Keep that in mind when a sampler
# with few steps looks "clean".
#
# **`9.q1`** (5 points): the smallest number of steps with which at least 80 % of the data's standard deviation is drawn.
# %% [markdown] lang="zh"
# 预测没有任何误差，步数少时画出的样本仍然变化不足：只走一步，得到的就是均值。当某个采样器用很少的步数画得很“干净”时，要想到这一点。
#
# **`9.q1`**（5 分）：所画样本的标准差至少达到数据标准差的 80 %，最少需要多少步？
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
enough = ...  # a whole number
### BEGIN SOLUTION
enough = next(n for n in range(1, 1001) if drawn_std(n) >= 0.8 * s)
### END SOLUTION
labs.answer("9.q1", enough)
# %% [markdown] lang="en"
# **`9.q2`** (4 points): a style file for part of Stable Diffusion XL. The convolutions below are those of the residual blocks on its way down.
# How many numbers does a style of rank 8 hold for all of them, with your `LoRAConv2d`? (On the `meta` device a weight has a shape and no memory.)
# %% [markdown] lang="zh"
# **`9.q2`**（4 分）：为 Stable Diffusion XL 的一部分制作风格文件。下面是其下行路径上各残差块的卷积层。用你的 `LoRAConv2d`、取秩为 8，
# 这些层的一个风格总共有多少个数？（在 `meta` 设备上，权重只有形状，不占内存。）
# %%
shapes = [(320, 320)] * 4 + [(320, 640)] + [(640, 640)] * 3 + [(640, 1280)] + [(1280, 1280)] * 3  # in, out; 3 x 3
layers = [nn.Conv2d(d_in, d_out, 3, padding=1, device="meta") for d_in, d_out in shapes]
print(f"{len(layers)} convolutions with {sum(layer.weight.numel() for layer in layers):,} weights")
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
numbers = ...  # a whole number
### BEGIN SOLUTION
numbers = sum(p.numel() for layer in layers for p in lab.LoRAConv2d(layer, 8, 8).parameters() if p.requires_grad)
### END SOLUTION
labs.answer("9.q2", numbers)
# %% [markdown] lang="en"
# ## 5 · Slices of a fused projection
#
# Lecture: *Fused QKV*. The transformer's queries, keys and values come from one `nn.Linear`; your `inject_fused_qkv` adapts some of the three,
#
# $$y_s = W_s x + b_s + \frac{\alpha}{r} B_s A_s x .$$
#
# The base reads plain digits and is tuned to slanted ones. Which single slice helps most? Write `"q"`, `"k"` or `"v"`.
# %% [markdown] lang="zh"
# ## 5 · 融合投影的切片
#
# 讲义：*融合的 QKV*。这个 Transformer 的查询、键和值由同一个 `nn.Linear` 给出；你的 `inject_fused_qkv` 只适配其中一部分，
#
# $$y_s = W_s x + b_s + \frac{\alpha}{r} B_s A_s x .$$
#
# 底座会认普通的数字，现在让它适应倾斜的数字。只适配一个切片，哪个最有用？请写 `"q"`、`"k"` 或 `"v"`。
# %%
best_slice = ...  # "q", "k" or "v"
### BEGIN SOLUTION
best_slice = "q"
### END SOLUTION
best_slice = labs.predict("9.p2", best_slice)
# %%
reader = vision.fuse_qkv(vetting.reader())
train_x, train_y = vision.digits("train", "slanted", sizes.vit_pictures)
test_x, test_y = vision.digits("test", "slanted", sizes.vit_test)
plain = vision.digits("test", "plain", sizes.vit_test)
read, tuned = {"none": vision.accuracy(reader, test_x, test_y)}, {}
for slices in ("q", "k", "v", "qkv"):
    model = copy.deepcopy(reader)
    lab.inject_fused_qkv(model, ["qkv"], slices, sizes.vit_rank, sizes.vit_alpha)
    styles.redraw(model)
    batches = vision.batches(train_x, train_y, 64)
    training.fit(model, batches, sizes.vit_steps, sizes.vit_rate, name=f"week09-{slices}", loss=vision.classification_loss)
    read[slices], tuned[slices] = vision.accuracy(model, test_x, test_y), model
single = max("qkv", key=read.get)
print(f"base on plain digits: {vision.accuracy(reader, *plain):.2f}; best single slice: {single}, you said {best_slice}")
labs.record("slices", **read)
fig = plots.bars(
    list(read), {"accuracy": list(read.values())}, xlabel="slices with an adapter", ylabel="share of slanted digits read"
)
plots.show(fig, alt="Bars: no adapter, q, k, v, and all three.")
# %%
one = copy.deepcopy(tuned["v"])
for module in one.modules():
    if hasattr(module, "merge"):
        before = module.base.weight.detach().clone()
        module.merge()
        changed = (module.base.weight != before).any(1).view(3, -1).sum(1)
print("rows of the last layer that merging v changed, in q, k, v:", changed.tolist())
gap = (vetting.logits(one, test_x) - vetting.logits(tuned["v"], test_x)).abs().max().item()
labs.record("merged", changed=changed, gap=gap)
# %% [markdown] lang="en"
# ## 6 · What an adapter costs at batch size 1
#
# The same transformer, one picture, five ways: the base, LoRA on q, k and v merged and unmerged, bottleneck adapters (Houlsby et al., two a
# block), and a prefix in every attention (Li and Liang). First count: calls of PyTorch's operators, and multiply-adds. Counts are the same on
# every machine. Then a clock: each model is timed in turn, many times over, and each measurement is divided by the base's of the same round.
# %% [markdown] lang="zh"
# ## 6 · 批大小为 1 时，适配器的代价
#
# 同一个 Transformer，一张图片，五种方案：底座；q、k、v 上的 LoRA，合并与未合并；瓶颈适配器（Houlsby 等，每块两个）；每层注意力都加前缀（Li 与 Liang）。
# 先数：PyTorch 算子的调用次数和乘加次数。这些数在任何机器上都一样。再计时：各模型轮流测量多次，每次测量都除以同一轮中底座的时间。
# %%
unmerged = tuned["qkv"].eval()
merged = copy.deepcopy(unmerged)
for module in merged.modules():
    if hasattr(module, "merge"):
        module.merge()
variants = {
    "base": reader,
    "merged": merged,
    "unmerged": unmerged,
    "adapter": styles.with_adapters(copy.deepcopy(reader), sizes.bottleneck),
    "prefix": styles.with_prefix(copy.deepcopy(reader), sizes.prefix),
}
x = vision.pixels(reader, test_x[:1].to(next(reader.parameters()).device))
counts = {name: styles.operations(model, x) for name, model in variants.items()}
seconds = {name: np.array(times) for name, times in styles.timed(variants, x, sizes.rounds).items()}
ratios = {name: times / seconds["base"] for name, times in seconds.items()}
quartiles = np.array([np.quantile(ratio, (0.25, 0.5, 0.75)) for ratio in ratios.values()])
relative = {
    "operator calls": [calls / counts["base"][0] for calls, _ in counts.values()],
    "multiply-adds": [products / counts["base"][1] for _, products in counts.values()],
    "seconds (median, quartiles)": quartiles[:, 1],
}
for name, (calls, products) in counts.items():
    print(f"{name:9} {calls:5} calls {products:12,} multiply-adds {1000 * np.median(seconds[name]):7.2f} ms")
labs.record("cost", **{name: list(pair) for name, pair in counts.items()})
fig = plots.bars(
    list(variants),
    relative,
    xlabel="model, one picture at a time",
    ylabel="ratio to the base",
    errors={"seconds (median, quartiles)": abs(quartiles[:, (0, 2)] - quartiles[:, 1:2]).T},
)
fig.axes[0].set_ylim(0, 3)
plots.show(
    fig, alt="Ratios to the base in calls, multiply-adds and seconds for five models: merged is 1, unmerged has most calls."
)
# %% [markdown] lang="en"
# Merged is the base: the same calls on the same shapes. The unmerged branch, in contrast, adds a larger share of calls than of multiply-adds,
# and at batch size 1 a call of a tiny product costs about as much as one of a large product: it is the number of calls that one waits for. How
# far the seconds follow depends on the machine, which is why no claim here is about them.
#
# ## 7 · Manhole covers (graded, written)
#
# A city has 3,000 street photographs with boxes around manhole covers (whole, broken, missing), taken in one summer. It wants a detector that
# runs on a vehicle's small GPU at 15 frames a second, and new photographs will come from other districts, from winter and from rain. A detector
# pretrained on COCO is at hand: a transformer backbone with fused QKV, a convolutional neck, a head for its classes.
#
# **`9.q3`** (6 points, 150 to 250 words). Would parameter-efficient fine-tuning fit, where, and which methods would you combine? UniPELT (Mao
# et al., ACL 2022, arXiv:2110.07577) puts LoRA, prefix tuning and adapters into one model, each with a trained gate.
#
# | points | |
# |---|---|
# | 2 | What is tuned how: backbone, neck, and the head, whose classes are new, so that no low rank is asked of it. |
# | 1 | An argument from the amount of data and the shift to be expected (or against PEFT: when to tune fully). |
# | 2 | Which methods combine without getting in each other's way, and what UniPELT's gates add and cost, for latency in particular (section 6). |
# | 1 | How you would find out: a split by district or season, a baseline, what is measured. |
# %% [markdown] lang="zh"
# 合并之后就是底座：同样的调用，同样的形状。未合并的分支则不同，它增加的调用次数比例大于乘加次数的比例；而批大小为 1 时，
# 一次很小的乘积与一次较大的乘积耗时差不多，人们等待的其实是调用的次数。耗时在多大程度上随之增加，取决于机器，所以这里不对耗时下任何结论。
#
# ## 7 · 井盖（计分，书面题）
#
# 某城市有 3,000 张街道照片，标出了井盖（完好、破损、缺失）的边框，都拍摄于同一个夏天。他们需要一个检测器，在车载的小型 GPU 上达到每秒 15 帧；
# 以后的照片会来自别的城区，来自冬天和雨天。手头有一个在 COCO 上预训练的检测器：带融合 QKV 的 Transformer 骨干、卷积的颈部、针对其类别的检测头。
#
# **`9.q3`**（6 分，300 至 500 字）。参数高效微调是否适合？用在哪里？你会组合哪些方法？UniPELT（Mao 等，ACL 2022，arXiv:2110.07577）
# 把 LoRA、前缀微调和适配器放进同一个模型，各由一个可训练的门控制。
#
# | 分值 | |
# |---|---|
# | 2 | 各部分怎样微调：骨干、颈部，以及检测头；检测头的类别是新的，不应要求它低秩。 |
# | 1 | 从数据量和预期的分布变化出发给出理由（或反对 PEFT：何时应当全量微调）。 |
# | 2 | 哪些方法组合起来互不妨碍；UniPELT 的门带来什么、代价是什么，特别是对延迟（第 6 节）。 |
# | 1 | 怎样验证：按城区或季节划分数据、设基线、度量什么。 |
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# It fits. With 3,000 photographs of one summer a full fine-tuning of the backbone would soon learn the summer; a low-rank update
# of q and v in the backbone (section 5: on this task even one slice helped) and `LoRAConv2d` in the neck change less and can be taken out. The
# head has three new classes and starts at random, so it is trained fully: a low rank of a random matrix is no sensible constraint. Were there
# a hundred thousand photographs, or thermal images instead of photographs, I would tune fully, and compare.
#
# LoRA in the backbone and in the neck combine without friction, as they act on different matrices, and both merge, so the vehicle runs the
# base's computations: 15 frames a second are as easy or hard as before. Adapters, a prefix and gates do not merge: they are calls that stay,
# and at batch size 1 these are what one waits for. UniPELT's gates depend on the input and scale each method's part; the authors report gains
# over the best single one on GLUE, with little data most of all. That is text; for pictures it is a hypothesis, to be tested offline before the
# latency is paid.
#
# I hold out one district and whatever winter pictures can be had, report average precision per class, above all recall of "missing", and compare
# frozen backbone plus head, LoRA, full tuning, over three seeds.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 适合。3,000 张照片都拍于同一个夏天，若对骨干做全量微调，很快就会学到“夏天”。在骨干的 q 和 v 上做低秩更新（第 5 节中，只适配一个切片就有帮助），
# 在颈部使用 `LoRAConv2d`，改动较小，也可以随时取下。检测头有三个新类别，从随机值开始，因此全部训练：对随机矩阵要求低秩没有道理。
# 如果有十万张照片，或者输入换成热成像，我会做全量微调，并与之比较。
#
# 骨干和颈部的 LoRA 作用于不同的矩阵，组合起来互不妨碍，而且都能合并，车上运行的计算量与底座相同，每秒 15 帧的难易与原来一样。
# 适配器、前缀和门不能合并，会一直留着额外的调用，而批大小为 1 时等待的正是这些调用。UniPELT 的门随输入变化，调节每种方法所占的分量；
# 作者报告它在 GLUE 上优于其中最好的单一方法，数据少时尤其如此。那是文本任务；对图像来说这只是一个假设，应先离线验证，再考虑付出延迟。
#
# 验证时留出一个城区和能够得到的冬季照片，按类别报告平均精度，尤其是“缺失”类的召回率；比较冻结骨干只训练检测头、LoRA、全量微调三种做法，各用三个随机种子。
# %% [markdown] lang="en"
# ## 8 · Where this breaks
#
# - Digits of 8 × 8 pixels: a slant and an exchange of black and white are geometry and a sign. Neither tells how a painter's style behaves. The
#   full profile trains both on pictures that SDXL drew itself, whose subjects it knows; a style from outside is harder.
# - Slant and brightness are means over pictures. They say that a style is there, and nothing of how good a picture is.
# - The Gaussian world of section 4 has one dimension and no learned error. It shows one error of DDIM in isolation, not how many steps a picture needs.
# - Section 5 is one seed and one task. Its order of q, k and v holds for this shift of the input; it is no law.
# - Operators are counted on the CPU in eager mode. A compiler fuses calls, a GPU runs some at once, larger batches hide them: count again there.
#
# Back to the lecture: [*Conv LoRA*](../course/week09/lecture.md#conv-lora), [*Diffusion*](../course/week09/lecture.md#diffusion),
# [*Blend styles*](../course/week09/lecture.md#blend-styles), [*Fused QKV*](../course/week09/lecture.md#fused-qkv).
# %% [markdown] lang="zh"
# ## 8 · 局限
#
# - 8 × 8 像素的数字上，倾斜只是几何变换，反色只是换个符号，都不能说明绘画风格会怎样。full 配置用 SDXL 自己画的图片来训练这两种风格，内容是它熟悉的；
#   外来的风格更难。
# - 倾斜度和亮度都是对图片取的平均。它们说明风格确实存在，却不说明图片好不好。
# - 第 4 节的高斯世界只有一维，也没有学习误差。它单独展示 DDIM 的一种误差，并不告诉你一张图片需要多少步。
# - 第 5 节只有一个随机种子、一个任务。q、k、v 的次序只适用于这种输入变化，不是定律。
# - 算子是在 CPU 的即时执行模式下数的。编译器会融合调用，GPU 会并行执行一部分，更大的批会掩盖它们：换了环境就要重新数。
#
# 回到讲义：[卷积的 LoRA](../../course/week09/lecture.zh.md#conv-lora)、[扩散模型](../../course/week09/lecture.zh.md#diffusion)、
# [混合风格](../../course/week09/lecture.zh.md#blend-styles)、[融合的 QKV](../../course/week09/lecture.zh.md#fused-qkv)。
