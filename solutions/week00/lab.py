# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Week 0 · Are you ready? A self-check
#
# Seventeen short exercises on what the course takes for granted: matrix decomposition, Chebyshev's inequality, back-propagation and Adam,
# the transformer, and sections 1 and 2 of the QLoRA paper ([arXiv:2305.14314](https://arxiv.org/abs/2305.14314)), which you should read first.
#
# **Nothing here is graded.** Replace each `...` and run the cell: it says at once whether the answer is right, and hints at what went wrong.
# What you leave out is no obstacle to the rest. The last cell shows what to revise, and where. Allow an hour and a half; the cells themselves
# take seconds.
#
# Afterwards you can tell whether you can
#
# - work with singular values, and with $U$, $\Sigma$ and $V^\top$ as NumPy returns them;
# - bound a probability by a variance, and say how good such a bound is;
# - take a gradient by hand, and write Adam down;
# - write causal attention down, and count its parameters;
# - quantise a block of numbers by hand, and say what an outlier does to it.
# %% [markdown] lang="zh"
# # 第 0 周 · 准备好了吗？自测
#
# 十七道小题，检查本课程默认你已掌握的内容：矩阵分解、切比雪夫不等式、反向传播与 Adam、Transformer，以及 QLoRA 论文（[arXiv:2305.14314](https://arxiv.org/abs/2305.14314)）的第 1、2
# 节——请先读完这两节再开始。
#
# **这里不计分。** 把每个 `...` 换成你的答案并运行单元格，它会立刻告诉你对不对，并提示可能错在哪里。空着不做也不影响后面的单元格。最后一个单元格会给出需要复习的内容和出处。请预留一个半小时；
# 运行单元格本身只要几秒。
#
# 做完之后，你可以判断自己是否能够：
#
# - 运用奇异值，以及 NumPy 返回的 $U$ 、 $\Sigma$ 和 $V^\top$ ；
# - 用方差给概率定上界，并说明这个上界有多松；
# - 手算梯度，写出 Adam；
# - 写出因果注意力，并数出它的参数；
# - 手工量化一组数，并说明离群值的影响。
# %%
import numpy as np

from course import labs
from course.labs import plots, selfcheck

sizes = labs.sizes(0)
# %% [markdown] lang="en"
# ## 1 · Matrix decomposition
#
# $W = U \Sigma V^\top$ with orthonormal columns in $U$ and $V$ and $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$.
#
# **1a.** The singular values of $W = \begin{pmatrix} 2 & 2 \\ -1 & 1 \end{pmatrix}$, by hand, the largest first.
#
# **1b.** $B$ is 64 × 4 and $A$ is 4 × 48, both of full rank, and $W = BA$. Give three whole numbers: the rank of $W$, how many numbers $B$ and $A$ hold
# together, how many $W$ holds.
#
# **1c.** A matrix has the singular values 4, 2 and 1. The Frobenius norm of the error of its best approximation of rank 1?
# %% [markdown] lang="zh"
# ## 1 · 矩阵分解
#
# $W = U \Sigma V^\top$ ，其中 $U$ 和 $V$ 的列各自单位正交， $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$ 。
#
# **1a.** 手算 $W = \begin{pmatrix} 2 & 2 \\ -1 & 1 \end{pmatrix}$ 的奇异值，从大到小。
#
# **1b.** $B$ 为 64 × 4， $A$ 为 4 × 48，两者都满秩， $W = BA$ 。给出三个整数： $W$ 的秩、 $B$ 和 $A$ 一共有多少个数、 $W$ 有多少个数。
#
# **1c.** 某矩阵的奇异值是 4、2、1。它的最佳秩 1 近似的误差，Frobenius 范数是多少？
# %%
singular_values = ...  # [larger, smaller]
three_numbers = ...  # [rank, in B and A, in W]
error = ...
### BEGIN SOLUTION
singular_values = [8**0.5, 2**0.5]
three_numbers = [4, 64 * 4 + 4 * 48, 64 * 48]
error = (2**2 + 1**2) ** 0.5
### END SOLUTION
selfcheck.check("matrices.singular", singular_values)
selfcheck.check("matrices.rank", three_numbers)
selfcheck.check("matrices.error", error)
# %% [markdown] lang="en"
# **1d.** The best approximation of rank 1 of the matrix $W$ of 1a, $\sigma_1 u_1 v_1^\top$, with `np.linalg.svd`.
# %% [markdown] lang="zh"
# **1d.** 用 `np.linalg.svd` 求 1a 中矩阵 $W$ 的最佳秩 1 近似 $\sigma_1 u_1 v_1^\top$ 。
# %%
W = np.array([[2.0, 2.0], [-1.0, 1.0]])
best = ...  # shape (2, 2)
### BEGIN SOLUTION
factors = np.linalg.svd(W)
best = factors.S[0] * factors.U[:, :1] @ factors.Vh[:1]
### END SOLUTION
selfcheck.check("matrices.best", best)
# %% [markdown] lang="en"
# ## 2 · Chebyshev's inequality and a random projection
#
# $$P(|X - \mathbb{E}X| \ge t) \le \frac{\operatorname{Var} X}{t^2}$$
#
# **2a.** $X$ has the mean 10 and the variance 4. The bound for $P(|X - 10| \ge 5)$?
#
# A **random projection** is a matrix $P$ of shape $k \times d$ with independent Gaussian entries of mean 0 and variance $v$. Week 2 trains models
# through one.
#
# **2b.** $d = 400$ and $k = 50$. Which $v$ keeps lengths on average, $\mathbb{E} \lVert P x \rVert^2 = \lVert x \rVert^2$?
#
# **2c.** With that $v$, and $\lVert x \rVert = 1$, the variance of $\lVert P x \rVert^2$ is $2 / k$. How many rows $k$ does Chebyshev's inequality ask for, at least, so that
# $\lVert P x \rVert^2$ is off by 0.2 or more with a probability of 0.05 at most?
# %% [markdown] lang="zh"
# ## 2 · 切比雪夫不等式与随机投影
#
# $$P(|X - \mathbb{E}X| \ge t) \le \frac{\operatorname{Var} X}{t^2}$$
#
# **2a.** $X$ 的均值为 10，方差为 4。 $P(|X - 10| \ge 5)$ 的上界是多少？
#
# **随机投影**是一个 $k \times d$ 的矩阵 $P$ ，各元素是相互独立的高斯变量，均值为 0，方差为 $v$ 。第 2 周会通过随机投影来训练模型。
#
# **2b.** $d = 400$ ， $k = 50$ 。 $v$ 取多少可以使长度在平均意义下不变，即 $\mathbb{E} \lVert P x \rVert^2 = \lVert x \rVert^2$ ？
#
# **2c.** 取这样的 $v$ ，且 $\lVert x \rVert = 1$ ，则 $\lVert P x \rVert^2$ 的方差为 $2 / k$ 。要使 $\lVert P x \rVert^2$ 偏离 0.2 以上的概率不超过 0.05，按切比雪夫不等式，行数 $k$ 至少要多少？
# %%
bound = ...
variance = ...
rows = ...  # a whole number
### BEGIN SOLUTION
bound = 4 / 5**2
variance = 1 / 50
rows = round(2 / (0.05 * 0.2**2))
### END SOLUTION
selfcheck.check("probability.chebyshev", bound)
selfcheck.check("probability.scale", variance)
selfcheck.check("probability.rows", rows)
# %% [markdown] lang="en"
# **Prediction 0.p1.** Chebyshev allows a failure rate of 0.5 at $k = 100$. What is the actual rate there (0 to 1)? The next cell draws it in.
# %% [markdown] lang="zh"
# **预测 0.p1。** $k = 100$ 时切比雪夫不等式允许的失败率是 0.5。实际的失败率是多少（0 到 1）？下一个单元格会把你的预测画进图里。
# %%
rate_at_100 = ...  # from 0 to 1
### BEGIN SOLUTION
rate_at_100 = 0.3
### END SOLUTION
guess = labs.predict("0.p1", rate_at_100)
# %%
rng = np.random.default_rng(0)
x = np.ones(sizes.width) / np.sqrt(sizes.width)
rates = []
for k in labs.progress(sizes.rows, "projections"):
    lengths = [np.sum((rng.normal(0, k**-0.5, (k, sizes.width)) @ x) ** 2) for _ in range(sizes.draws)]
    rates.append(np.mean(np.abs(np.array(lengths) - 1) >= 0.2))
bounds = np.minimum(1, 2 / (np.array(sizes.rows) * 0.2**2))
fig = plots.lines(
    sizes.rows, {"Chebyshev's bound": bounds, "measured": rates}, xlabel="rows k of the projection", xscale="log",
    ylabel="share of lengths off by 0.2 or more", title="A bound that holds, and is far from tight", predicted=(100, guess),
)  # fmt: skip
plots.show(fig, alt="The measured failure rate falls below the bound everywhere and is zero where the bound is still 0.05")
labs.record("projection", bounds=bounds, rates=rates)
# %% [markdown] lang="en"
# The bound uses nothing but a variance and holds for any distribution. For a Gaussian projection the tails are much lighter, so far fewer rows do.
#
# ## 3 · Back-propagation and Adam
#
# **3a.** A network $y = W_2 \operatorname{relu}(W_1 x)$ with the loss $L = \frac{1}{2} (y - t)^2$, and
#
# $$x = \begin{pmatrix} 1 \\ 2 \end{pmatrix}, \quad W_1 = \begin{pmatrix} 1 & -1 \\ 0.5 & 1 \end{pmatrix}, \quad W_2 = \begin{pmatrix} 3 & 2 \end{pmatrix}, \quad t = 4$$
#
# The gradient $\partial L / \partial W_1$, by hand, row by row?
#
# **3b.** Adam (learning rate 0.01, $\beta_1 = 0.9$, $\beta_2 = 0.999$, both moments at zero) sees the gradient $(0.1, -10)$ in its first step. By how much do the two
# parameters change?
# %% [markdown] lang="zh"
# 这个上界只用到方差，对任何分布都成立。高斯投影的尾部要轻得多，所以实际需要的行数少得多。
#
# ## 3 · 反向传播与 Adam
#
# **3a.** 网络 $y = W_2 \operatorname{relu}(W_1 x)$ ，损失 $L = \frac{1}{2} (y - t)^2$ ，其中
#
# $$x = \begin{pmatrix} 1 \\ 2 \end{pmatrix}, \quad W_1 = \begin{pmatrix} 1 & -1 \\ 0.5 & 1 \end{pmatrix}, \quad W_2 = \begin{pmatrix} 3 & 2 \end{pmatrix}, \quad t = 4$$
#
# 手算梯度 $\partial L / \partial W_1$ ，逐行写出。
#
# **3b.** Adam（学习率 0.01， $\beta_1 = 0.9$ ， $\beta_2 = 0.999$ ，两个动量都从零开始）在第一步遇到梯度 $(0.1, -10)$ 。两个参数各改变多少？
# %%
gradient = ...  # [first row, second row], two numbers each
first_step = ...  # [change of the first, of the second]
### BEGIN SOLUTION
gradient = [[0, 0], [2, 4]]
first_step = [-0.01, 0.01]
### END SOLUTION
selfcheck.check("training.gradient", gradient)
selfcheck.check("training.first_step", first_step)


# %% [markdown] lang="en"
# **3c.** One step of Adam (Kingma and Ba, algorithm 1), with $\epsilon = 10^{-8}$.
# %% [markdown] lang="zh"
# **3c.** Adam 的一步（Kingma 与 Ba，算法 1）， $\epsilon = 10^{-8}$ 。
# %%
def adam_step(x, g, m, v, t, lr=0.1):
    """Return x, m and v after step t (from 1) with the gradient g."""
    ### BEGIN SOLUTION
    m = 0.9 * m + (1 - 0.9) * g
    v = 0.999 * v + (1 - 0.999) * g**2
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    return x - lr * m_hat / (v_hat**0.5 + 1e-8), m, v
    ### END SOLUTION


def two_steps():
    """Where x is after each of two steps from (1, -2), or None while adam_step is not written."""
    x, m, v, places = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2), []
    for t, g in enumerate(([3.0, -0.5], [1.0, -0.5]), start=1):
        after = adam_step(x, np.array(g), m, v, t)
        if after is None:
            return None
        x, m, v = after
        places.append(x)
    return places


selfcheck.check("training.adam", two_steps())


# %% [markdown] lang="en"
# Two valleys, $f(x) = \frac{1}{2} (x_1^2 + c\, x_2^2)$ with $c = 1$ and $c = 100$: gradient descent with the best constant rate $2 / (1 + c)$, beside your Adam with one rate for
# both. Without your Adam the plot shows gradient descent alone.
# %% [markdown] lang="zh"
# 两个山谷： $f(x) = \frac{1}{2} (x_1^2 + c\, x_2^2)$ ，分别取 $c = 1$ 和 $c = 100$ 。比较学习率取最佳常数 $2 / (1 + c)$ 的梯度下降，与两处都用同一学习率的你的 Adam。如果还没写 Adam，图中只有梯度下降。
# %%
def descend(c, rule):
    """The values of f over the steps of a rule x, g, t -> x."""
    x, values = np.array([1.0, 1.0]), []
    for t in range(1, sizes.steps + 1):
        values.append(0.5 * (x[0] ** 2 + c * x[1] ** 2))
        x = rule(x, np.array([x[0], c * x[1]]), t)
    return values


def adam_rule():
    state = [np.zeros(2), np.zeros(2)]

    def rule(x, g, t):
        x, *state[:] = adam_step(x, g, *state, t, lr=0.05)
        return x

    return rule


fig, axes = plots.figure(2, sharey=True)
for ax, c, name in zip(axes, (1, 100), ("round valley, c = 1", "narrow valley, c = 100"), strict=True):
    curves = {"gradient descent": descend(c, lambda x, g, t, c=c: x - 2 / (1 + c) * g)}
    if two_steps() is not None:
        curves["Adam"] = descend(c, adam_rule())
    shown = {rule: np.maximum(values, 1e-10) for rule, values in curves.items()}  # zero has no place on a log scale
    plots.lines(range(sizes.steps), shown, xlabel="step", ylabel="f(x)", yscale="log", title=name, ax=ax)
    ax.legend(frameon=False, loc="upper right")
    labs.record(name, **{rule: values[-1] for rule, values in curves.items()})
plots.show(
    fig, alt="Gradient descent is at once done in the round valley and slow in the narrow one; Adam does about the same in both"
)
# %% [markdown] lang="en"
# Adam divides each coordinate by the size of its own gradients, so both valleys look the same to it. It pays with two more numbers for each
# parameter, which is where week 1's memory goes. In the round valley plain descent is better: no method is best everywhere.
#
# ## 4 · The transformer
#
# **4a.** Multi-head attention of width 512 with 8 heads, without biases. How many parameters?
#
# **4b.** By what factor does the number of attention scores grow when the sequence becomes twice as long?
#
# **4c.** Causal attention weights, $\operatorname{softmax}(Q K^\top / \sqrt{d})$ by rows, where no position sees a later one.
# %% [markdown] lang="zh"
# Adam 把每个坐标除以它自己的梯度大小，所以两个山谷在它看来是一样的。代价是每个参数多存两个数，第 1 周的显存就花在这里。在圆的山谷里，普通的梯度下降反而更好：没有处处最优的方法。
#
# ## 4 · Transformer
#
# **4a.** 宽度 512、8 个头、不带偏置的多头注意力有多少个参数？
#
# **4b.** 序列长度变为两倍时，注意力分数的个数变为几倍？
#
# **4c.** 因果注意力的权重：对 $\operatorname{softmax}(Q K^\top / \sqrt{d})$ 逐行计算，任何位置都看不到后面的位置。
# %%
parameters = ...
factor = ...
### BEGIN SOLUTION
parameters = 4 * 512**2
factor = 4
### END SOLUTION
selfcheck.check("transformer.parameters", parameters)
selfcheck.check("transformer.length", factor)
# %%
Q = np.array([[1, 0, 1, 0], [0, 2, 0, 0], [1, 1, 1, 1]])
K = np.array([[1, 1, 0, 0], [0, 3, 1, 0], [2, 0, 0, 1]])


def attention_weights(Q, K):
    """Q and K of shape (n, d); the weights have the shape (n, n)."""
    ### BEGIN SOLUTION
    scores = Q @ K.T / np.sqrt(Q.shape[1])
    scores = np.where(np.tri(len(Q), dtype=bool), scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
    ### END SOLUTION


weights = attention_weights(Q, K)
selfcheck.check("transformer.weights", weights)
if weights is not None:
    places = ["1", "2", "3"]
    fig = plots.heatmap(
        weights, xlabel="position that is looked at", ylabel="position that looks", label="weight",
        xticks=places, yticks=places, numbers=True, vmin=0, vmax=1, title="Your attention weights",
    )  # fmt: skip
    plots.show(fig, alt="The attention weights as a heat map: a lower triangle whose rows sum to one")
# %% [markdown] lang="en"
# ## 5 · Quantisation: QLoRA, sections 1 and 2
#
# Equation 1 of the paper maps a block of numbers to 8-bit integers by its largest absolute value:
#
# $$X^{\text{Int8}} = \operatorname{round}\!\left(\frac{127}{\operatorname{absmax}(X^{\text{FP32}})}\, X^{\text{FP32}}\right)$$
#
# **5a.** The codes of the block $(0.4, -2, 1.2, 0.1)$?
#
# **5b.** The codes of the block $(0.4, -2, 1.2, 0.1, 20)$, with one outlier?
#
# **5c.** A model of 65 billion parameters is fine-tuned on a card of 48 GB ($10^9$ bytes each). How many *whole* bits can a weight have at most, if nothing
# but weights were stored?
#
# **5d.** According to section 2, what takes most of the memory in fine-tuning with LoRA, weights of the base aside: "a" the LoRA factors, "b" the gradients of
# activations, or "c" the optimizer states of the base?
# %% [markdown] lang="zh"
# ## 5 · 量化：QLoRA 第 1、2 节
#
# 论文的公式 1 按一组数（一块）的绝对值最大值，把它们映射到 8 位整数：
#
# $$X^{\text{Int8}} = \operatorname{round}\!\left(\frac{127}{\operatorname{absmax}(X^{\text{FP32}})}\, X^{\text{FP32}}\right)$$
#
# **5a.** 块 $(0.4, -2, 1.2, 0.1)$ 的编码是什么？
#
# **5b.** 带一个离群值的块 $(0.4, -2, 1.2, 0.1, 20)$ 的编码是什么？
#
# **5c.** 在一块 48 GB（每 GB 为 $10^9$ 字节）的显卡上微调 650 亿参数的模型。假如只存权重，每个权重最多可以占多少位（取*整数*）？
#
# **5d.** 按第 2 节的说法，用 LoRA 微调时，除底座权重外，占显存最多的是什么：“a”LoRA 的因子，“b”激活值的梯度，还是“c”底座的优化器状态？
# %%
codes = ...  # four whole numbers
codes_with_outlier = ...  # five whole numbers
bits = ...  # a whole number
most_memory = ...  # "a", "b" or "c"
### BEGIN SOLUTION
codes = np.round(np.array([0.4, -2, 1.2, 0.1]) * 127 / 2)
codes_with_outlier = np.round(np.array([0.4, -2, 1.2, 0.1, 20]) * 127 / 20)
bits = 48 * 8 // 65
most_memory = "b"
### END SOLUTION
selfcheck.check("quantisation.codes", codes)
selfcheck.check("quantisation.outlier", codes_with_outlier)
selfcheck.check("quantisation.bits", bits)
selfcheck.check("quantisation.memory", most_memory)


# %% [markdown] lang="en"
# Why blocks? Gaussian weights, without outliers and with one in a thousand that is fifty times as large, quantised in blocks of different sizes.
# %% [markdown] lang="zh"
# 为什么要分块？取高斯分布的权重，一组没有离群值，另一组每一千个中约有一个放大五十倍，用不同的块大小来量化。
# %%
def rms_error(values, block):
    """Of the values that are no outliers, after 8 bits and back."""
    blocks = values.reshape(-1, block)
    scale = 127 / np.abs(blocks).max(axis=1, keepdims=True)
    error = (np.round(blocks * scale) / scale - blocks).ravel()
    return np.sqrt(np.mean(error[np.abs(values) < 6] ** 2))


gaussian = np.random.default_rng(1).normal(size=sizes.weights)
spiked = np.where(np.random.default_rng(2).random(sizes.weights) < 1e-3, 50 * gaussian, gaussian)
errors = {
    "no outliers": [rms_error(gaussian, block) for block in sizes.blocks],
    "1 in 1000 is 50 times as large": [rms_error(spiked, block) for block in sizes.blocks],
}
fig = plots.lines(
    sizes.blocks, errors, xlabel="weights in a block", ylabel="error (root mean square)", xscale="log", yscale="log",
    title="An outlier spoils its block, so blocks are small",
)  # fmt: skip
plots.show(
    fig, alt="Without outliers the error rises little with the block; with them it grows tenfold from small blocks to large ones"
)
labs.record("blocks", **errors)
# %% [markdown] lang="en"
# One constant serves a whole block, so an outlier makes all its neighbours coarse. QLoRA's blocks have 64 weights.
#
# ## What to revise
#
# Run this last cell again whenever you have changed an answer above.
# %% [markdown] lang="zh"
# 一块共用一个常数，所以一个离群值会使同块的其他数都变得粗糙。QLoRA 每块取 64 个权重。
#
# ## 需要复习什么
#
# 修改前面的答案之后，可以再次运行最后这个单元格。
# %%
plots.show(selfcheck.summary(), alt="Right answers beside the number of exercises, for each of the five topics")
# %% [markdown] lang="en"
# ## Where this breaks
#
# Seventeen exercises are a sample. All right means that week 1 will not surprise you, not that you know the fields; a gap in one topic is an evening's work, gaps in
# three are a reason to take the prerequisites first. The answers stand in the open in `course/week00/selfcheck.toml`: they are for you alone. In the full
# profile the experiments draw more numbers; the exercises are the same.
# %% [markdown] lang="zh"
# ## 局限
#
# 十七道题只是抽查。全对说明第 1 周不会让你感到突然，并不说明你已精通这些领域；一个主题有缺口，补上只需一个晚上，三个主题都有缺口，就应当先修预备课程。答案公开放在
# `course/week00/selfcheck.toml` 中，只供你自查。在 full 配置下，实验抽取的样本更多，题目不变。
