# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Week 2 lab · How low is the rank of an update?
#
# Afterwards you can
#
# - read off a spectrum what truncation costs, and say when low rank helps and when it does not;
# - compare the update of a fine-tuned model with the weight it belongs to;
# - measure whether two adapters use the same directions, beside what chance gives;
# - measure an intrinsic dimension, and tell it from the rank of an update.
#
# **Your file.** All experiments run on your `exercises/week02/rank1_lora.py`, tasks 2.1 to 2.4. Where they are not finished, the next
# code cell says so. The notebook takes about a minute on one CPU core. Lecture: `course/week02/lecture.md`.
#
# Write each prediction *before* you run the cell below it. Predictions bear no marks. The questions 2.q1 to 2.q3 do.
# %% [markdown] lang="zh"
# # 第 2 周实验 · 更新量的秩有多低？
#
# 完成后你应当能够：
#
# - 从谱上看出截断的代价，说明低秩何时有用、何时没用；
# - 把微调后的更新量与它所属的权重作比较；
# - 衡量两个适配器是否使用相同的方向，并与随机情形对照；
# - 测量内在维度，并把它与更新量的秩区分开。
#
# **你的代码。** 所有实验都调用你的 `exercises/week02/rank1_lora.py`（任务 2.1 至 2.4）。若有未完成的任务，下一个代码单元格会给出提示。整个笔记本在单个 CPU
# 核上约需一分钟。讲义：`course/week02/lecture.zh.md`。
#
# 请在运行单元格*之前*写下预测。预测不计分，计分的是 2.q1 至 2.q3 三道题。
# %%
import numpy as np

from course import labs
from course.labs import plots, spectra, subspace

rank1 = labs.student(2)
sizes = labs.sizes(2)
# %% [markdown] lang="en"
# ## 1 · The best rank 8 of a rank-10 matrix
#
# The product of two Gaussian factors with ten columns and ten rows has rank 10. How well does the best matrix of rank 8 approximate
# it? Your `truncated_svd` gives that matrix as $BA$, and Eckart and Young its error:
#
# $$\lVert M - BA \rVert_F^2 = \sum_{k > r} \sigma_k^2$$
#
# **Prediction 2.p1.** The relative error $\lVert M - BA \rVert_F / \lVert M \rVert_F$ at $r = 8$, from 0 to 1. (The lecture has the number:
# first guess without looking.)
# %% [markdown] lang="zh"
# ## 1 · 秩 10 矩阵的最佳秩 8 近似
#
# 两个高斯因子（分别有十列和十行）的乘积秩为 10。秩为 8 的矩阵最好能近似到什么程度？你的 `truncated_svd` 以 $BA$ 的形式给出这个矩阵，其误差由 Eckart–Young
# 定理给出：
#
# $$\lVert M - BA \rVert_F^2 = \sum_{k > r} \sigma_k^2$$
#
# **预测 2.p1。** $r = 8$ 时的相对误差 $\lVert M - BA \rVert_F / \lVert M \rVert_F$ ，取值在 0 到 1 之间。（讲义里有这个数：请先不看讲义猜一猜。）
# %%
error_at_8 = ...  # from 0 to 1
### BEGIN SOLUTION
error_at_8 = 0.2
### END SOLUTION
guess_1 = labs.predict("2.p1", error_at_8)
# %%
random = np.random.RandomState(42)  # the lecture's generator
side = sizes.matrix
product = random.randn(side, 10) @ random.randn(10, side)
fading = spectra.with_spectrum(side, side, 0.5 ** np.arange(10), seed=1)  # rank 10 too, each singular value half the last


def relative_error(matrix, rank):
    B, A = rank1.truncated_svd(matrix, rank)
    return np.linalg.norm(matrix - B @ A) / np.linalg.norm(matrix)


ranks = [1, 2, 4, 6, 8, 10]
errors = {
    "two Gaussian factors": [relative_error(product, rank) for rank in labs.progress(ranks, "Gaussian")],
    "singular values halve": [relative_error(fading, rank) for rank in labs.progress(ranks, "halving")],
}
fig = plots.lines(
    ranks, errors, xlabel="rank r of the approximation", ylabel="relative error (Frobenius)",
    title="Two matrices of rank 10", predicted=(8, guess_1),
)  # fmt: skip
plots.show(fig, alt="Relative error over the rank: for Gaussian factors still about 0.4 at rank 8, for halving values near zero")
print(f"Gaussian factors, r = 8: {errors['two Gaussian factors'][4]:.4f}")
labs.record("rank10", errors=errors)
# %% [markdown] lang="en"
# Both matrices have rank 10. What rank 8 costs is decided by the spectrum: ten values of about the same size lose a fifth of their
# squares, so the error is about $\sqrt{0.2}$; halving values lose next to nothing. "Low rank" without a spectrum says little.
#
# **Question 2.q1.** `spectra.puzzle()` is a matrix of shape 60 × 40. What is the smallest rank whose best approximation has a
# relative error, $\lVert W - BA \rVert_F / \lVert W \rVert_F$, of at most 0.2?
# %% [markdown] lang="zh"
# 两个矩阵的秩都是 10。秩 8 的代价由谱决定：十个大小相近的奇异值，丢掉两个就丢掉了约五分之一的平方和，误差约为 $\sqrt{0.2}$ ；逐个减半的奇异值则几乎没有损失。
# 不看谱而谈“低秩”，意义不大。
#
# **问题 2.q1。** `spectra.puzzle()` 是一个 60 × 40 的矩阵。要使最佳近似的相对误差 $\lVert W - BA \rVert_F / \lVert W \rVert_F$ 不超过 0.2，秩最小是多少？
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
puzzle = spectra.puzzle()
smallest_rank = ...  # a whole number
### BEGIN SOLUTION
smallest_rank = next(rank for rank in range(1, 41) if relative_error(puzzle, rank) <= 0.2)
### END SOLUTION
labs.answer("2.q1", smallest_rank)
# %% [markdown] lang="en"
# ## 2 · Gradient descent finds the truncation, if the inputs let it
#
# Your `train_rank1` starts at $b = 0$ and follows
#
# $$G = \frac{1}{n} (\hat Y - Y)^\top X, \qquad b \leftarrow b - \eta\, \alpha\, G a, \qquad a \leftarrow a - \eta\, \alpha\, G^\top b$$
#
# The data ask for an update $\Delta W$ of rank 3. At the left $X^\top X / n$ is the identity; at the right the inputs are correlated. The broken
# line is the loss of the best rank-1 approximation of $\Delta W$, from your `truncated_svd`.
# %% [markdown] lang="zh"
# ## 2 · 梯度下降能找到截断，但要看输入
#
# 你的 `train_rank1` 从 $b = 0$ 出发，按下式更新：
#
# $$G = \frac{1}{n} (\hat Y - Y)^\top X, \qquad b \leftarrow b - \eta\, \alpha\, G a, \qquad a \leftarrow a - \eta\, \alpha\, G^\top b$$
#
# 数据要求的更新量 $\Delta W$ 秩为 3。左图中 $X^\top X / n$ 是单位矩阵，右图中输入是相关的。虚线是 $\Delta W$ 的最佳秩 1 近似（由你的 `truncated_svd` 得到）的损失。
# %%
fig, axes = plots.figure(2)
for ax, correlated in zip(axes, (False, True), strict=True):
    W0, X, Y = spectra.regression([3, 1.5, 0.5], seed=sizes.seed, correlated=correlated)
    a0 = np.ones(X.shape[1]) / np.sqrt(X.shape[1])
    b, a, losses = rank1.train_rank1(W0, X, Y, alpha=1.0, lr=0.02, steps=sizes.gd_steps, a0=a0)
    wanted = np.linalg.lstsq(X, Y - X @ W0.T, rcond=None)[0].T  # the update that the data ask for
    B, A = rank1.truncated_svd(wanted, 1)
    of_svd = rank1.rank1_gradients(W0, B[:, 0], A[0], 1.0, X, Y)[0]
    name = "correlated inputs" if correlated else "uncorrelated inputs"
    plots.lines(np.arange(len(losses)), {"train_rank1": losses}, xlabel="step", ylabel="loss L", title=name, ax=ax)
    ax.axhline(of_svd, color="black", linestyle="--", label="best rank 1 of ΔW")
    ax.legend(frameon=False)
    labs.record(name, last=losses[-1], of_svd=of_svd)
plots.show(
    fig, alt="Loss over steps: it ends on the line of the best rank 1 for uncorrelated inputs, below it for correlated ones"
)
# %% [markdown] lang="en"
# With uncorrelated inputs the loss is half the squared distance to $\Delta W$ plus nothing else, and descent ends on the line. With correlated
# inputs it ends *below* the line: some directions hardly occur in the data, and training does not spend its rank on them. "Best" in
# Eckart and Young's sense is best for the matrix, not for the task.
#
# **Question 2.q2.** `spectra.question()` gives $W_0$, $X$ and $Y$ with $X^\top X / n$ the identity and $Y = X (W_0 + \Delta W)^\top$. What is the
# lowest loss $L = \frac{1}{2n} \lVert \hat Y - Y \rVert_F^2$ that a LoRA of rank **2** can reach on them?
# %% [markdown] lang="zh"
# 输入不相关时，损失恰是到 $\Delta W$ 的距离平方的一半，梯度下降停在虚线上。输入相关时，它停在虚线*之下*：有些方向在数据里几乎不出现，训练不会把秩花在它们上面。
# Eckart–Young 意义下的“最佳”是对矩阵而言的，不是对任务而言的。
#
# **问题 2.q2。** `spectra.question()` 给出 $W_0$ 、 $X$ 和 $Y$ ，其中 $X^\top X / n$ 是单位矩阵， $Y = X (W_0 + \Delta W)^\top$ 。秩为 **2** 的 LoRA 在这些数据上能达到的最小损失
# $L = \frac{1}{2n} \lVert \hat Y - Y \rVert_F^2$ 是多少？
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
W0, X, Y = spectra.question()
lowest_loss = ...  # a number, to 1 % at least
### BEGIN SOLUTION
update = (Y - X @ W0.T).T @ X / len(X)
B, A = rank1.truncated_svd(update, 2)
lowest_loss = 0.5 * float(np.sum((update - B @ A) ** 2))
### END SOLUTION
labs.answer("2.q2", lowest_loss)
# %% [markdown] lang="en"
# ## 3 · The spectrum of a real update
#
# LoRA's hypothesis (Hu et al. 2021, section 4.1): the update $\Delta W = W - W_0$ of fine-tuning has a low rank. Let us fine-tune a pretrained
# language model *in full* on two tasks that it does not know, and look. "stars" answers a review with one to five stars; "pirate"
# is a manner of speaking in every task that the model knows. Both runs log to TensorBoard: `tensorboard --logdir build/runs`.
#
# **Prediction 2.p2.** We then cut the update of every matrix down to rank $r$, with your `truncated_svd`. Which is the smallest $r$ of
# `sizes.ranks` at which "stars" keeps 90 % of its accuracy?
# %% [markdown] lang="zh"
# ## 3 · 真实更新量的谱
#
# LoRA 的假设（Hu 等，2021，第 4.1 节）是：微调的更新量 $\Delta W = W - W_0$ 秩很低。我们让一个预训练语言模型在两个它不会的任务上做*全量*微调，再来检验。“stars”
# 任务用一到五颗星回答一条评论；“pirate”任务要求模型用海盗的口吻完成它已经会的各种任务。两次训练都有 TensorBoard 日志：`tensorboard --logdir build/runs`。
#
# **预测 2.p2。** 随后用你的 `truncated_svd` 把每个矩阵的更新量截断到秩 $r$ 。在 `sizes.ranks` 中，“stars”保住九成准确率所需的最小 $r$ 是多少？
# %%
print("ranks:", sizes.ranks)
rank_for_stars = ...  # one of them
### BEGIN SOLUTION
rank_for_stars = 4
### END SOLUTION
guess_2 = labs.predict("2.p2", rank_for_stars)
# %%
options = {"lr": sizes.lr, "batch_size": sizes.batch, "trained": sizes.trained, "seed": sizes.seed}
tuned = {
    task: spectra.finetune(task, train, sizes.test, steps=sizes.steps[task], **options) for task, train in sizes.train.items()
}
for task, run in tuned.items():
    print(f"{task}: {run.accuracy:.2f} of the answers are right after full fine-tuning")


# %%
def truncated(updates, rank):
    """Every update, cut down to a rank."""
    factors = {name: rank1.truncated_svd(update, rank) for name, update in updates.items()}
    return {name: B @ A for name, (B, A) in factors.items()}


def mean_error(matrices, rank):
    kept = truncated(matrices, rank)
    return np.mean([np.linalg.norm(matrices[name] - kept[name]) / np.linalg.norm(matrices[name]) for name in matrices])


spectrum = {"weights before": [mean_error(tuned["stars"].weights, rank) for rank in labs.progress(sizes.ranks, "weights")]}
accuracy = {}
for task, run in tuned.items():
    spectrum[f"update, {task}"] = [mean_error(run.updates, rank) for rank in labs.progress(sizes.ranks, f"{task}, errors")]
    accuracy[task] = [
        run.accuracy_with(truncated(run.updates, rank)) / max(run.accuracy, 0.01)
        for rank in labs.progress(sizes.ranks, f"{task}, accuracy")
    ]
labs.record("updates", spectrum=spectrum, kept=accuracy, full={task: run.accuracy for task, run in tuned.items()})
# %%
fig, axes = plots.figure(2)
plots.lines(
    sizes.ranks, spectrum, xlabel="rank r kept", ylabel="relative error, mean over matrices", xscale="log",
    title="What truncation leaves out", ax=axes[0],
)  # fmt: skip
plots.lines(
    sizes.ranks, accuracy, xlabel="rank r kept", ylabel="accuracy / accuracy of the full update", xscale="log",
    title="What truncation costs", predicted=(guess_2 or sizes.ranks[0], 0.9 if guess_2 else None), ax=axes[1],
)  # fmt: skip
plots.show(
    fig, alt="Left: errors of updates fall faster with the rank than those of weights. Right: stars needs less rank than pirate"
)
# %% [markdown] lang="en"
# The weights themselves are far from low rank. The updates are nearer to it, and how near depends on the task: the answer to "stars" is
# one short choice, and a few directions carry it; "pirate" changes every kind of answer, and loses accuracy at ranks at which
# "stars" is nearly whole. Note what the left plot does not tell: leaving out about half of an update costs "stars" little (at rank 4) and
# "pirate" about half of its accuracy (at rank 8).
#
# Cutting after training is not LoRA: LoRA *trains* within the rank, and can find a better update of that rank than the truncation
# of the full one (section 2 has shown it).
# %% [markdown] lang="zh"
# 权重本身远非低秩。更新量更接近低秩，接近的程度取决于任务：“stars”的回答只是一个简短的选择，少数几个方向就够了；“pirate”要改变每一类回答，在“stars”
# 已经基本复原的秩上仍会损失准确率。还要注意左图没有说明的一点：同样是误差约一半，“stars”（秩 4）损失很小，“pirate”（秩 8）却丢掉约一半的准确率。
#
# 训练之后再截断并不等于 LoRA：LoRA 是在给定的秩*之内*训练，可以找到比“全量更新再截断”更好的同秩更新量（第 2 部分已经看到这一点）。
# %% [markdown] lang="en"
# ## 4 · Do two adapters find the same directions?
#
# Hu et al. (section 7.2) compare the spans of the top $i$ and $j$ right singular vectors of two factors $A$:
#
# $$\phi(A_1, A_2, i, j) = \frac{\lVert U_1^\top U_2 \rVert_F^2}{\min(i, j)}$$
#
# We train three adapters for "stars": two of the smaller rank that differ by their seed, one of the larger rank. The row space of your
# `truncated_svd(A, i)` is the span of the top $i$ vectors, so `similarity_map` needs nothing else. Two Gaussian matrices show what chance
# gives: about $\max(i, j) / d$.
# %% [markdown] lang="zh"
# ## 4 · 两个适配器找到的方向相同吗？
#
# Hu 等（第 7.2 节）比较两个因子 $A$ 的前 $i$ 个与前 $j$ 个右奇异向量张成的子空间：
#
# $$\phi(A_1, A_2, i, j) = \frac{\lVert U_1^\top U_2 \rVert_F^2}{\min(i, j)}$$
#
# 我们为“stars”训练三个适配器：两个秩较小、只有随机种子不同，一个秩较大。你的 `truncated_svd(A, i)` 的行空间正是前 $i$ 个向量张成的空间，`similarity_map`
# 只需要它。另用两个高斯矩阵给出随机情形的水平，约为 $\max(i, j) / d$ 。
# %%
options = {"steps": sizes.adapter_steps, "lr": sizes.adapter_lr, "batch_size": sizes.batch}
runs = {"small": (sizes.small_rank, 0), "small, other seed": (sizes.small_rank, 1), "large": (sizes.large_rank, 2)}
factor = {
    name: spectra.adapter("stars", sizes.train["stars"], rank, sizes.module, seed=seed, **options)
    for name, (rank, seed) in runs.items()
}
chance = np.random.default_rng(3).normal(size=(2, *factor["small"].shape))
pairs = {
    "two seeds, same rank": (factor["small"], factor["small, other seed"]),
    "two ranks": (factor["small"], factor["large"]),
    "two Gaussian matrices": chance,
}
most = sizes.small_rank
phi = {name: spectra.similarity_map(rank1.truncated_svd, first, second, most) for name, (first, second) in pairs.items()}
# %%
fig, axes = plots.figure(3)
places = [str(k) for k in range(1, most + 1)]
for ax, (name, values) in zip(axes, phi.items(), strict=True):
    plots.heatmap(
        values, xlabel="j, of the second", ylabel="i, of the first", label="similarity φ", title=name,
        xticks=places, yticks=places, vmin=0, vmax=1, ax=ax,
    )  # fmt: skip
plots.show(
    fig, alt="Heat maps of φ: trained pairs are bright at i = j = 1 and dark at i = j = 8, the Gaussian pair is dark throughout"
)
width = chance.shape[2]
for name, values in phi.items():
    print(f"{name:22}  φ(1, 1) = {values[0, 0]:.3f}  φ({most}, {most}) = {values[-1, -1]:.3f}")
print(f"{'max(i, j) / d':22}  φ(1, 1) = {1 / width:.3f}  φ({most}, {most}) = {most / width:.3f}")
labs.record("similarity", **phi, width=width)
# %% [markdown] lang="en"
# The top direction is shared far beyond chance, across seeds and across ranks. Further down most of what a factor holds is its own:
# $\phi(8, 8)$ is only a few times what chance gives. The paper reports the same of GPT-3: the top direction overlaps, the others do not, and
# it takes that for a reason why a very small rank can do well. What lies in the other directions? Much of it is what $A$ was
# *started* with, at random, and never had to unlearn.
#
# The next cell holds your task 2.5 (stretch) against the map, if you have written it.
# %% [markdown] lang="zh"
# 最主要的方向重合得远比随机情形多，不同的种子、不同的秩之间都是如此。再往后，因子里的大部分内容就各不相同了： $\phi(8, 8)$ 只是随机水平的几倍。论文对 GPT-3
# 的报告也是如此：第一个方向重合，其余的不重合；论文据此解释为什么很小的秩就能有好效果。其余方向上是什么？大部分是 $A$ *初始化*时的随机内容，训练没有必要抹去它们。
#
# 如果你写了任务 2.5（拓展任务），下一个单元格会用它核对这张图。
# %%
try:
    own = rank1.grassmann_similarity(factor["small"], factor["large"], 2, 4)
    print(f"your φ(2, 4) = {own:.4f}, the map has {phi['two ranks'][1, 3]:.4f}")
except NotImplementedError as missing:
    print(f"stretch: {missing}")
# %% [markdown] lang="en"
# ## 5 · Intrinsic dimension
#
# How many numbers does a task need, if they may not be chosen, only their values? Li et al. (2018) and Aghajanyan et al. (2020) train
# in a random subspace of the parameters:
#
# $$\theta = \theta_0 + P z, \qquad \nabla_z = P^\top \nabla_\theta$$
#
# $z$ has $d$ entries and $P$ is random and fixed. $d_{90}$ is the smallest $d$ that reaches 90 % of the accuracy of full training. A dense $P$ has
# $D \times d$ entries. Here $P = A \otimes B$, never formed: your `kron_matvec` goes up with $A, B$ and down with $A^\top, B^\top$, since
# $(A \otimes B)^\top = A^\top \otimes B^\top$.
#
# The network classifies 8 × 8 digits. It was trained on upright ones and now gets **slanted** ones; we start once from these
# pretrained weights, once from random ones.
#
# **Prediction 2.p3.** $d_{90}$ from the *pretrained* start.
# %% [markdown] lang="zh"
# ## 5 · 内在维度
#
# 如果不能挑选参数、只能调它们的取值，一个任务需要多少个数？Li 等（2018）和 Aghajanyan 等（2020）在参数空间的随机子空间里训练：
#
# $$\theta = \theta_0 + P z, \qquad \nabla_z = P^\top \nabla_\theta$$
#
# $z$ 有 $d$ 个分量， $P$ 随机取定后不再改变。 $d_{90}$ 是准确率达到完整训练的 90 % 所需的最小 $d$ 。稠密的 $P$ 有 $D \times d$ 个元素。这里取 $P = A \otimes B$ ，而且从不构造出来：
# 你的 `kron_matvec` 用 $A, B$ 从 $z$ 到 $\theta$ ，用 $A^\top, B^\top$ 把梯度传回来，因为 $(A \otimes B)^\top = A^\top \otimes B^\top$ 。
#
# 网络对 8 × 8 的手写数字分类，已在正写的数字上训练过，现在换成**倾斜**的数字。我们分别从预训练权重和随机权重出发。
#
# **预测 2.p3。** 从*预训练*权重出发时的 $d_{90}$ 。
# %%
net = subspace.Network(sizes.hidden)
dims = [side**2 for side in sizes.sides]
print(f"{net.size:,} parameters; d is one of {dims}")
dimension = ...  # one of them
### BEGIN SOLUTION
dimension = 64
### END SOLUTION
guess_3 = labs.predict("2.p3", dimension)


# %%
def train_in_subspace(theta0, up, down, dim):
    """theta = theta0 + P z: `up` is P, `down` its transpose; only z trains. The accuracy that it reaches."""
    z = subspace.adam(lambda z: down(net.gradient(theta0 + up(z), slanted)), np.zeros(dim), sizes.subspace_steps, lr=0.05)
    return net.accuracy(theta0 + up(z), slanted_test)


def kronecker(theta0, side, seed):
    A, B = subspace.kronecker_factors(net.size, side, seed)
    return train_in_subspace(theta0, lambda z: rank1.kron_matvec(A, B, z), lambda g: rank1.kron_matvec(A.T, B.T, g), side**2)


def dense(theta0, side, seed):
    P = subspace.dense_matrix(net.size, side**2, seed)
    return train_in_subspace(theta0, lambda z: P @ z, lambda g: P.T @ g, side**2)


# %%
(plain, _), (slanted, slanted_test) = subspace.digits(), subspace.digits(slant=0.3)
reached = {"pretrained": [], "pretrained, dense P": [], "random start": []}
full = {"pretrained": [], "random start": []}
untouched = []
for seed in labs.progress(range(sizes.starts), "starts"):
    start = net.start(seed)
    pretrained = subspace.adam(lambda theta: net.gradient(theta, plain), start, 200, lr=0.01)
    untouched.append(net.accuracy(pretrained, slanted_test))
    for name, theta0 in (("pretrained", pretrained), ("random start", start)):
        tuned_theta = subspace.adam(lambda theta: net.gradient(theta, slanted), theta0, 200, lr=0.01)
        full[name].append(net.accuracy(tuned_theta, slanted_test))
        reached[name].append([kronecker(theta0, side, seed) for side in sizes.sides])
    reached["pretrained, dense P"].append([dense(pretrained, side, seed) for side in sizes.sides])
# %%
mean, ends = {}, {}
for name, runs_ in reached.items():
    mean[name], ends[name] = plots.spread(runs_)
goal = 0.9 * np.mean(full["pretrained"])
fig = plots.lines(
    dims, mean, xlabel="dimension d of the subspace", ylabel="accuracy on slanted digits", xscale="log", spread=ends,
    title=f"Training {net.size:,} parameters through d numbers", predicted=(guess_3 or dims[0], goal if guess_3 else None),
)  # fmt: skip
fig.axes[0].axhline(goal, color="black", linestyle="--", linewidth=1)
fig.axes[0].text(dims[0], goal + 0.01, "90 % of full training")
plots.show(
    fig,
    alt="Accuracy over d: from pretrained weights a few dozen dimensions reach 90 %, from a random start it takes over a hundred",
)

d90 = {name: subspace.d90(dims, mean[name], np.mean(full["pretrained"])) for name in mean}
print("d90:", d90)
print(f"full training: pretrained {np.mean(full['pretrained']):.3f}, random start {np.mean(full['random start']):.3f}")
print(f"pretrained, not trained further: {np.mean(untouched):.3f}")
labs.record("intrinsic", d90=d90, full=full, untouched=untouched, mean=mean, dims=dims, size=net.size)
# %% [markdown] lang="en"
# Full training ends at the same accuracy from both starts. What pretraining changes is the *dimension*: from pretrained weights a
# hundredth of the parameters' number is enough, from a random start it takes several times as many. That is Aghajanyan et al.'s
# observation in small. Part of it is cheap: the pretrained network is at about 0.77 before it has trained at all.
#
# The Kronecker subspace does as well as the dense one, though its factors hold a few thousand numbers and $P$ hundreds of
# thousands. And an intrinsic dimension is no rank: every entry of $\theta$ moves here, and $P z$ folded into a matrix need not have a low rank.
# %% [markdown] lang="zh"
# 两种起点做完整训练，最终准确率相同。预训练改变的是*维数*：从预训练权重出发，用参数个数的百分之一左右就够了；从随机权重出发则需要其数倍。这正是 Aghajanyan
# 等人的观察的缩影。其中有一部分并不费力：预训练网络在继续训练之前，准确率已经约为 0.77。
#
# Kronecker 子空间与稠密子空间效果相当，而它的两个因子只有几千个数，稠密的 $P$ 却有几十万个。另外，内在维度不是秩：这里 $\theta$ 的每个分量都在变， $P z$ 折成矩阵后不一定是低秩的。
# %% [markdown] lang="en"
# ## 6 · Written answer (2.q3, 5 points)
#
# A post says: *"The update of fine-tuning is low-rank, and two LoRAs of one task find the same subspace. So rank 1 is always enough."*
# Judge it in about 150 words, with your own numbers.
#
# | points | for |
# |---|---|
# | 1 | the error of truncation at one rank: both updates beside the weights |
# | 1 | φ for the top direction and for all eight, each beside what chance gives, and what that says of "the same subspace" |
# | 1 | an intrinsic dimension told from the rank of an update |
# | 1 | a case in this notebook that contradicts "always" |
# | 1 | a limit of your own evidence |
# %% [markdown] lang="zh"
# ## 6 · 书面题（2.q3，5 分）
#
# 有一篇帖子写道：*“微调的更新量是低秩的，同一任务的两个 LoRA 会找到同一个子空间，所以秩 1 总是够用。”* 请用你自己测得的数字评判这段话，约 250 字。
#
# | 分值 | 要点 |
# |---|---|
# | 1 | 给出某一个秩下的截断误差：两个更新量与权重相对照 |
# | 1 | 给出第一个方向的 φ 和全部八个方向的 φ，分别与随机水平对照，并说明“同一个子空间”是否成立 |
# | 1 | 区分内在维度与更新量的秩 |
# | 1 | 举出本笔记本中与“总是”相矛盾的情形 |
# | 1 | 说明自己证据的一个局限 |
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# At rank 8 truncation leaves out about 0.3 of the "stars" update and about 0.5 of the "pirate" update, of the weights about 0.7: updates are
# nearer to low rank than weights, and it depends on the task. Two seeds share the top direction, φ(1, 1) ≈ 0.6 where chance gives 0.004,
# but φ(8, 8) ≈ 0.14 beside 0.03: one direction is common, the subspace is not. The d90 of a few dozen counts how many random
# directions in the space of *all* parameters are enough; it says nothing about the rank of any one matrix. "Always" is wrong: with rank 1 the
# "pirate" update answers nothing, and a product of Gaussian factors loses 0.4 at rank 8 of 10. My evidence is one small model, two
# generated tasks and one seed, and it cuts updates after training, where LoRA would have trained at that rank.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 秩 8 时，截断误差在“stars”的更新量上约为 0.3，在“pirate”的更新量上约为 0.5，在权重上约为 0.7：更新量比权重更接近低秩，但程度取决于任务。两个种子共有第一个方向，
# φ(1, 1) ≈ 0.6，随机水平为 0.004；但 φ(8, 8) ≈ 0.14，随机水平为 0.03：相同的只有一个方向，并不是整个子空间。d90 为几十，说的是在*全部*参数的空间里需要多少个随机方向，
# 与任何一个矩阵的秩无关。“总是”不成立：秩 1 时“pirate”的更新量一题也答不对；高斯因子的乘积（秩 10）取秩 8 时误差仍有 0.4。我的证据只有一个小模型、两个生成的任务和一个种子，
# 而且是训练之后再截断，LoRA 则是在这个秩之内训练的。
# %% [markdown] lang="en"
# ## Where this breaks
#
# - One model of some hundred thousand parameters and tasks from a generator. That updates are nearer to low rank than weights has been
#   reported for large models too; the numbers here are no guide to theirs. Accuracies move by 0.1 and more with the seed.
# - φ ignores the singular values, and is compared for one matrix. Look at others (`sizes.module` in `course/week02/lab.toml`): attention's
#   show less overlap.
# - $d_{90}$ depends on the goal (90 % of what?), the optimizer and the steps. Near the untrained accuracy it is small for a trivial reason.
# - A difference between two bars of one seed is no finding. Week 12 tests differences.
# - With `LAB_PROFILE=full` the same cells tune the attention matrices of one block of Llama-2-7B (an SVD of a 4096 × 4096 matrix takes seconds,
#   so there are fewer matrices and ranks), adapters of rank 8 and 64 as in the paper, and a wider network with ten starts.
#
# To go on: lecture sections [Truncated SVD](../course/week02/lecture.md#truncated-svd), [Similarity](../course/week02/lecture.md#similarity) and
# [Where LoRA goes](../course/week02/lecture.md#where-lora-goes). Sources: Hu et al., arXiv:2106.09685; Li et al., arXiv:1804.08838;
# Aghajanyan et al., arXiv:2012.13255.
# %% [markdown] lang="zh"
# ## 局限
#
# - 这里只有一个几十万参数的模型，任务也由生成器产生。更新量比权重更接近低秩，这一点在大模型上也有报告；但这里的数字不能直接套用到大模型。换一个种子，准确率就会变动 0.1 以上。
# - φ 不考虑奇异值的大小，而且只比较了一个矩阵。可以看看别的矩阵（`course/week02/lab.toml` 中的 `module`）：注意力矩阵的重合较少。
# - $d_{90}$ 取决于目标（谁的 90 %？）、优化器和步数。若起点的准确率已接近目标，它自然就小，并不说明什么。
# - 单个种子下两个结果之间的差别不算发现。第 12 周会检验差别是否显著。
# - 设置 `LAB_PROFILE=full` 后，同样的单元格会微调 Llama-2-7B 中一个块的注意力矩阵（4096 × 4096 矩阵的奇异值分解要几秒到几十秒，所以矩阵和秩都取得少些），
#   按论文取秩 8 与秩 64 的适配器，并换用更宽的网络和十个起点。
#
# 延伸阅读：讲义的[截断奇异值分解](../../course/week02/lecture.zh.md#truncated-svd)、[相似度](../../course/week02/lecture.zh.md#similarity)和
# [LoRA 的插入位置](../../course/week02/lecture.zh.md#where-lora-goes)。文献：Hu 等，arXiv:2106.09685；Li 等，arXiv:1804.08838；Aghajanyan 等，arXiv:2012.13255。
