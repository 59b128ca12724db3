# %% [markdown] lang="en"
# # Week 12 lab · A dry run of the final project
#
# A project ends in a report that others can check. This notebook takes a small real comparison through all of it, with your own tools: an
# experiment over seeds, intervals, a test, a report, a model card. Before that it asks the tools themselves how often they are wrong.
# When you are done you will be able to
#
# - run a comparison over seeds from one configuration, and pair what belongs together;
# - say how many seeds a question needs before you spend them;
# - say how often "significant" happens where nothing differs, and correct for it;
# - write a report that claims what was shown.
#
# **Your file.** Everything runs on your `exercises/week12/experiment.py` (tasks 12.1 to 12.4). With the small profile it takes about a
# minute on one core, most of it in section 4. Replace the configuration in section 4 by your own, and it is your project's notebook.
# %% [markdown] lang="zh"
# # 第 12 周实验 · 期末项目预演
#
# 项目以一份他人可以核对的报告结束。本笔记本用你自己的工具，把一个小而真实的比较从头到尾做一遍：多个种子的实验、区间、检验、报告、模型卡。在此之前，
# 先看看这些工具本身有多常出错。完成本实验后，你将能够：
#
# - 用一份配置在多个种子上完成比较，并把应当配对的结果配成对；
# - 在花费算力之前，说出一个问题需要多少个种子；
# - 说出在没有任何差别时，“显著”出现得有多频繁，并作校正；
# - 写出一份只主张已被证实之事的报告。
#
# **你的文件。** 全部内容都运行在你的 `exercises/week12/experiment.py`（任务 12.1 至 12.4）上。小型配置下单核约需一分钟，主要花在第 4 节。
# 把第 4 节的配置换成你自己的，它就是你的项目笔记本。
# %%
import itertools
import random

import numpy as np
import torch
from IPython.display import Markdown, display

from course import labs
from course.labs import meters, plots, training, vision

experiment = labs.student(12, "12.1", "12.2", "12.3", "12.4")
sizes = labs.sizes(12)
torch.set_num_threads(1)
# %% [markdown] lang="en"
# ## 1. What a few seeds can show
#
# Lecture: *Paired comparison*. Two systems are run with the same $n$ seeds; $d_i = a_i - b_i$. Your `paired_test` counts the vectors of signs
# that are as extreme as what was seen:
#
# $$p = 2^{-n} \, \#\{ s : |\sum_i s_i d_i| \ge |\sum_i d_i| \}$$
#
# **Predict.** System A beats system B with every one of five seeds, by ten points each time. What is p?
# %% [markdown] lang="zh"
# ## 1. 几个种子能说明什么
#
# 讲义：*配对比较*。两个系统用同样的 $n$ 个种子运行， $d_i = a_i - b_i$ 。你的 `paired_test` 数出与观测值同样极端的符号向量：
#
# $$p = 2^{-n} \, \#\{ s : |\sum_i s_i d_i| \ge |\sum_i d_i| \}$$
#
# **预测。** 五个种子中，系统 A 每次都比系统 B 高十个百分点。p 是多少？
# %%
p_of_five_wins = ...  # from 0 to 1
### BEGIN SOLUTION
p_of_five_wins = 0.0625
### END SOLUTION
guess = labs.predict("12.p1", p_of_five_wins)
# %%
least = {n: experiment.paired_test(np.full(n, 0.9), np.full(n, 0.8))["p"] for n in range(2, 13)}
print(f"n = 5: p = {least[5]:.4f}; you predicted {guess}")
fig = plots.lines(
    list(least),
    {"smallest p that n seeds can give": list(least.values()), "level 0.05": [0.05] * len(least)},
    xlabel="number of seeds n",
    ylabel="p",
    yscale="log",
    predicted=(5, guess),
)
plots.show(fig, alt="The smallest possible p halves with every seed and crosses the level 0.05 between five and six seeds.")
labs.record("least", p=list(least.values()), n=list(least))
# %% [markdown] lang="en"
# With five seeds a two-sided sign-flip test cannot reach 5 %, however large the difference is. That is known before the first run.
#
# **Question 1 (4 points).** Your plan has three comparisons, corrected together by Holm's method (lecture: *Holm*), and the test above. What is
# the smallest number of seeds with which *all three* could have an adjusted p of at most 0.05?
# %% [markdown] lang="zh"
# 只有五个种子时，无论差别多大，双侧符号翻转检验都达不到 5 %。这在第一次运行之前就已经知道。
#
# **问题 1（4 分）。** 你的计划中有三个比较，用 Holm 方法一起校正（讲义：*Holm 校正*），检验方法同上。要使*全部三个*比较校正后的 p 都有可能不超过 0.05，
# 最少需要多少个种子？
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
seeds_needed = ...  # a whole number
### BEGIN SOLUTION
seeds_needed = min(n for n, p in least.items() if 3 * p <= 0.05)
### END SOLUTION
labs.answer("12.q1", seeds_needed)
# %% [markdown] lang="en"
# ## 2. How often is nothing called something?
#
# A study compares 20 variants with a baseline, with ten seeds each, and none of them differs: every $d_i$ is noise. We run many such
# studies and let your `paired_test` judge.
#
# **Predict.** In what share of these studies does at least one of the 20 comparisons come out "significant" at 5 %?
# %% [markdown] lang="zh"
# ## 2. 没有差别时，有多常被说成有差别？
#
# 一项研究把 20 个变体与基线比较，每个用十个种子，而且没有一个真有差别：每个 $d_i$ 都是噪声。我们运行许多项这样的研究，由你的 `paired_test` 判断。
#
# **预测。** 其中有多大比例的研究，20 个比较中至少有一个在 5 % 水平上“显著”？
# %%
share_with_a_find = ...  # from 0 to 1
### BEGIN SOLUTION
share_with_a_find = 0.6
### END SOLUTION
guess = labs.predict("12.p2", share_with_a_find)
# %%
rng = np.random.default_rng(0)


def p_value(d):
    """Of differences d, as two systems would give them."""
    return experiment.paired_test(d, np.zeros(len(d)))["p"]


studies = [
    [p_value(rng.normal(size=10)) for _ in range(sizes.comparisons)] for _ in labs.progress(range(sizes.studies), desc="studies")
]
smallest = np.array([min(p_values) for p_values in studies])
found, corrected = (smallest <= 0.05).mean(), (sizes.comparisons * smallest <= 0.05).mean()
single = np.mean(np.concatenate(studies) <= 0.05)
labs.record("nothing", single=single, found=found, corrected=corrected)
# %%
fig = plots.bars(
    ["one comparison", "any of 20", "any of 20, Holm"],
    {"share": [single, found, corrected]},
    xlabel="what is called significant at p ≤ 0.05",
    ylabel="share of the studies (of the comparisons)",
    title=f"{sizes.studies} studies in which nothing differs",
)
plots.show(
    fig,
    alt="About 5 % of single comparisons, well over half of the studies with 20, and at most about 5 % after Holm's correction.",
)
print(f"you predicted {guess}; independent comparisons would give {1 - 0.95**20:.2f}")
# %% [markdown] lang="en"
# One comparison in twenty is wrong, as the level promises, and so most studies find something. Holm's method multiplies the smallest p by the
# number of comparisons, so it finds anything at all only if $20 \, p_{\min} \le 0.05$, and keeps its promise for the study as a whole. It can
# only count what you count: comparisons that were tried and left out belong to the 20.
#
# **Looking while it runs.** Another way to find something: add seeds until p is small enough. Again nothing differs; we look after each
# new seed and stop at the first $p \le 0.05$.
# %% [markdown] lang="zh"
# 正如水平所承诺的，二十个比较中约有一个出错，于是大多数研究都会“发现”点什么。Holm 方法把最小的 p 乘以比较的个数，只有当 $20 \, p_{\min} \le 0.05$ 时才会有所发现，
# 因此对整项研究守住了承诺。但它只能校正你计入的比较：试过而没有写进报告的，也属于这 20 个。
#
# **边跑边看。** 另一种“发现”的办法：不断增加种子，直到 p 足够小。仍然没有任何差别；每增加一个种子看一次，一旦 $p \le 0.05$ 就停下。
# %%
runs = rng.normal(size=(sizes.repeats, max(sizes.peeks)))
looks = np.array([[p_value(d[:n]) <= 0.05 for n in sizes.peeks] for d in labs.progress(runs, desc="looks")])
once, stopped = looks.mean(0), np.logical_or.accumulate(looks, axis=1).mean(0)
labs.record("peeking", once=once, stopped=stopped)
fig = plots.lines(
    sizes.peeks,
    {"looked once, at the end": once, "looked after each seed": stopped, "level 0.05": [0.05] * len(once)},
    xlabel="number of seeds n",
    ylabel="share called significant, nothing differs",
)
plots.show(fig, alt="Looking once stays near or below 5 %; looking after each seed rises with every look.")
# %% [markdown] lang="en"
# ## 3. Power, and intervals that are too narrow
#
# Now something does differ: the differences have the mean $\delta$ and the standard deviation $\sigma$. The power of a plan is the
# probability that it finds this.
#
# **Predict.** How many seeds are needed to find a difference as large as its standard deviation ($\delta = \sigma$) in 80 % of the cases?
# %% [markdown] lang="zh"
# ## 3. 检验功效，以及偏窄的区间
#
# 现在确有差别：差的均值为 $\delta$ ，标准差为 $\sigma$ 。方案的检验功效，就是它发现这一差别的概率。
#
# **预测。** 要在 80 % 的情形中发现与标准差一样大的差别（ $\delta = \sigma$ ），需要多少个种子？
# %%
seeds_for_power = ...  # a whole number
### BEGIN SOLUTION
seeds_for_power = 10
### END SOLUTION
guess = labs.predict("12.p3", seeds_for_power)
# %%
counts = [4, 5, 6, 7, 8, 10, 12]
effects = {"δ = 0.5 σ": 0.5, "δ = σ": 1.0, "δ = 2 σ": 2.0}
power = {name: [] for name in effects}
for (name, effect), n in labs.progress(list(itertools.product(effects.items(), counts)), desc="power"):
    finds = [p_value(rng.normal(effect, 1, size=n)) <= 0.05 for _ in range(sizes.repeats)]
    power[name].append(np.mean(finds))
labs.record("power", counts=counts, **{f"effect_{effect}": power[name] for name, effect in effects.items()})
fig = plots.lines(
    counts, power, xlabel="number of seeds n", ylabel="power at level 0.05", predicted=(guess, 0.8) if guess else None
)
plots.show(
    fig,
    alt="Power is 0 up to five seeds for every effect, then rises: at once for two standard deviations, slowly for half of one.",
)
# %% [markdown] lang="en"
# Up to five seeds the power is 0, however large the difference is: section 1 again. With few seeds only large differences have a chance, and a
# result of "inconclusive" says little. Estimate $\sigma$ from a pilot, choose the smallest difference that would matter to you, and read off $n$.
#
# **The interval.** Your `bootstrap_ci` promises to hold the true mean in 95 % of the cases. We draw values whose mean we know, and count.
# %% [markdown] lang="zh"
# 种子不超过五个时，无论差别多大，功效都是 0：这正是第 1 节的结论。种子少时，只有很大的差别才有机会被发现，“无法定论”说明不了多少。
# 先用小规模试验估计 $\sigma$ ，选定对你有意义的最小差别，再读出 $n$ 。
#
# **区间。** 你的 `bootstrap_ci` 承诺在 95 % 的情形中包含真实的均值。我们抽取均值已知的数值，数一数。
# %%
sample_sizes = [4, 7, 10, 20, 50]
coverage = []
for n in labs.progress(sample_sizes, desc="coverage"):
    resamples = rng.integers(n, size=(500, n))
    intervals = [experiment.bootstrap_ci(rng.normal(size=n), resamples) for _ in range(sizes.repeats)]
    coverage.append(np.mean([low <= 0 <= high for low, high in intervals]))
labs.record("coverage", n=sample_sizes, share=coverage)
fig = plots.lines(
    sample_sizes,
    {"percentile bootstrap": coverage, "promised": [0.95] * len(coverage)},
    xlabel="number of values n",
    ylabel="share of intervals with the true mean",
    xscale="log",
)
plots.show(fig, alt="With 4 values far fewer than 95 % of the intervals hold the true mean; with 50 nearly 95 %.")
# %% [markdown] lang="en"
# With few values the percentile interval is too narrow: it knows only the spread among those few. A report on seven seeds has to say so.
#
# ## 4. The experiment
#
# Lecture: *Run experiment*. The question: **when a vision transformer that reads upright digits is adapted to slanted ones by LoRA, does the
# rank matter?** Three systems: rank 1, 2 and 8 on the query and value projections. A configuration is all that `run_experiment` gets.
# `data` draws its own seed from the generator that you seeded, so a run's number depends on its seed, and the same seed gives the
# systems the same pictures: they are paired. Two metrics: accuracy on slanted digits, and on plain ones, which the model knew before.
#
# **Predict.** Rank 8 will be above rank 1 on slanted digits by how much?
# %% [markdown] lang="zh"
# 数值少时，百分位区间偏窄：它只知道这几个数之间的离散程度。只有七个种子的报告必须说明这一点。
#
# ## 4. 实验
#
# 讲义：*可复现的实验*。问题：**用 LoRA 把一个会认正体数字的视觉 Transformer 适配到斜体数字，秩是否重要？** 三个系统：在 query 与 value 投影上取秩 1、2、8。
# `run_experiment` 得到的只有一份配置。`data` 从你设定了种子的生成器中抽取自己的种子，所以一次运行的结果取决于它的种子；相同的种子让各系统得到相同的图片：
# 它们是配对的。两个指标：斜体数字上的准确率，以及模型原来就会的正体数字上的准确率。
#
# **预测。** 在斜体数字上，秩 8 会比秩 1 高多少？
# %%
rank_8_minus_rank_1 = ...  # a difference of accuracies, such as 0.05
### BEGIN SOLUTION
rank_8_minus_rank_1 = 0.05
### END SOLUTION
guess = labs.predict("12.p4", rank_8_minus_rank_1)
# %%
slanted, plain = (vision.digits("test", style) for style in ("slanted", "plain"))


def data():
    seed = random.randrange(2**31)
    return *vision.digits("train", "slanted", sizes.pictures, seed), seed


def model(drawn, rank):
    images, labels, seed = drawn
    net = vision.lora(vision.classifier(), rank, 2 * rank, "qv", seed=seed)
    batches = vision.batches(images, labels, sizes.batch, seed)
    name = f"week12/rank {rank}, {seed}"
    training.fit(net, batches, sizes.steps, sizes.rate, name=name, loss=vision.classification_loss, seed=seed)
    return net


def config(rank):
    metrics = {
        "slanted": lambda net, _: vision.accuracy(net, *slanted),
        "plain": lambda net, _: vision.accuracy(net, *plain),
    }
    return {"seeds": sizes.seeds, "data": data, "model": model, "options": {"rank": rank}, "metrics": metrics}


ranks = (1, 2, 8)
with meters.stopwatch() as watch:
    results = {f"rank {rank}": experiment.run_experiment(config(rank)) for rank in ranks}
# %%
metrics = ("slanted", "plain")
scores = {
    metric: {name: np.array([run["metrics"][metric] for run in result["runs"]]) for name, result in results.items()}
    for metric in metrics
}
before = {"slanted": vision.accuracy(vision.classifier(), *slanted), "plain": vision.accuracy(vision.classifier(), *plain)}
labs.record("experiment", before=before, **{f"{metric} {name}": v for metric in metrics for name, v in scores[metric].items()})
fig, axes = plots.figure(2)
for ax, metric in zip(axes, metrics, strict=True):
    by_seed = {f"seed {seed}": [scores[metric][name][i] for name in results] for i, seed in enumerate(sizes.seeds)}
    plots.lines(range(len(ranks)), by_seed, xlabel="LoRA rank", ylabel="accuracy", title=f"{metric} digits", ax=ax)
    ax.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    ax.get_legend().remove()
plots.show(
    fig, alt="Accuracy over the rank, a line for each seed: on slanted digits mostly rising, on plain ones mostly falling."
)
print(f"before training: slanted {before['slanted']:.3f}, plain {before['plain']:.3f}")
# %% [markdown] lang="en"
# Each line is one seed, that is, one set of training pictures. TensorBoard has the losses: `tensorboard --logdir build/runs`.
#
# ## 5. The report
#
# Lecture: *Report*. Means with intervals over the seeds, and the three pairs of systems on both metrics: six comparisons, which are counted
# together. The text around the numbers is part of the program, so a second run cannot keep an old sentence beside a new number.
# %% [markdown] lang="zh"
# 每条线是一个种子，也就是一组训练图片。损失曲线可在 TensorBoard 中查看：`tensorboard --logdir build/runs`。
#
# ## 5. 实验报告
#
# 讲义：*实验报告*。各均值附上种子之间的区间；三对系统、两个指标，共六个比较，一并计数。数值周围的文字也是程序的一部分，因此再次运行时，不会把旧的句子留在新的数值旁边。
# %%
resamples = np.random.default_rng(12).integers(len(sizes.seeds), size=(sizes.resamples, len(sizes.seeds)))


def result_row(metric, name):
    values = scores[metric][name]
    low, high = experiment.bootstrap_ci(values, resamples)
    return {"system": name, "metric": metric, "mean": values.mean(), "low": low, "high": high, "n": len(values)}


def comparison_row(metric, first, second):
    a, b = scores[metric][first], scores[metric][second]
    low, high = experiment.bootstrap_ci(a - b, resamples)
    test = experiment.paired_test(a, b)
    return {"first": first, "second": second, "metric": metric, "low": low, "high": high} | test


pairs = [("rank 8", "rank 1"), ("rank 8", "rank 2"), ("rank 2", "rank 1")]
comparisons = [comparison_row(metric, *pair) for metric in metrics for pair in pairs]
report = {
    "title": "Does the rank of a LoRA matter for slanted digits?",
    "question": "Accuracy on slanted and on plain digits after adapting the query and value projections at rank 1, 2 and 8.",
    "level": 0.95,
    "results": [result_row(metric, name) for metric in metrics for name in results],
    "comparisons": comparisons,
    "limitations": [
        f"{len(sizes.seeds)} seeds: percentile intervals from so few are too narrow; six comparisons, p not corrected.",
        "The test pictures are the same in every run: nothing is said of other test sets.",
        "One learning rate and one number of steps for all ranks.",
    ],
    "cost": f"{len(ranks) * len(sizes.seeds)} runs, {watch.seconds:.0f} s in all on this machine.",
}
display(Markdown(experiment.render_report(report)))
print("your prediction for rank 8 minus rank 1:", guess)
# %% [markdown] lang="en"
# Intervals and p-values may disagree at the border: an interval of few seeds is too narrow, and the test of few seeds has a floor. With six
# comparisons together the p-values have to be corrected; with your own `holm` (task 12.5) if it is there, else by Bonferroni's method.
# Seven seeds and six comparisons: what is the smallest adjusted p that this plan could have given? And what did the pairing bring? Compare the
# spread of the differences with that of two unrelated runs.
# %% [markdown] lang="zh"
# 在临界处，区间与 p 值可能不一致：种子少时区间偏窄，而检验的 p 值又有下限。六个比较放在一起，p 值必须校正；若你写了 `holm`（任务 12.5）就用它，否则用 Bonferroni 方法。
# 七个种子、六个比较：这个方案能得到的校正后的 p，最小是多少？配对又带来了什么？把差的离散程度与两次互不相关的运行之差作比较。
# %%
try:
    holm = labs.student(12, "12.5").holm
except labs.LabStop as stop:
    print(stop)

    def holm(p_values):
        return [min(1.0, p * len(p_values)) for p in p_values]  # Bonferroni


adjusted = holm([row["p"] for row in comparisons])
for row, corrected_p in zip(comparisons, adjusted, strict=True):
    a, b = scores[row["metric"]][row["first"]], scores[row["metric"]][row["second"]]
    unpaired = np.sqrt(a.var(ddof=1) + b.var(ddof=1))
    print(
        f"{row['metric']:8} {row['first']} - {row['second']}: {row['difference']:+.3f}  p {row['p']:.3f}  adjusted {corrected_p:.3f}"
        f"  standard deviation of the differences {(a - b).std(ddof=1):.3f}, were they unrelated {unpaired:.3f}"
    )
labs.record(
    "comparisons", p=[row["p"] for row in comparisons], adjusted=adjusted, difference=[r["difference"] for r in comparisons]
)
# %% [markdown] lang="en"
# After the correction nothing is left, and nothing could have been: $6 \cdot 2 / 2^7 = 0.094$. The intervals had promised more. A dry run is
# there to find this out before the expensive runs: eight seeds, or fewer questions. As for the rank, the picture is a hint and no more:
# more rank, better on slanted digits and worse on plain ones. Pairing by seed helped where the seed decides much of both scores, and
# hardly where it does not.
#
# **Question 2 (4 points).** Seeds are one unit to pair by, test items are another. Two models answer the same 400 items. On 388 both are right
# or both are wrong; on 10 only the first is right, on 2 only the second. Give `[difference, p]`: the difference of the two accuracies,
# first minus second, and the exact two-sided p of the sign-flip test. (Your `paired_test` refuses more than 16 items without `signs`. Which
# items do not matter for p?)
# %% [markdown] lang="zh"
# 校正之后什么也没有剩下，而且本来就不可能剩下： $6 \cdot 2 / 2^7 = 0.094$ 。区间原先许诺得更多。预演的意义正在于此：在昂贵的运行之前就发现需要八个种子，或者应当少问几个问题。
# 至于秩，图中只是一个提示：秩越高，斜体数字上越好，正体数字上越差。按种子配对，在种子对两边的得分都有很大影响时有用，否则作用不大。
#
# **问题 2（4 分）。** 配对可以按种子，也可以按测试样本。两个模型回答同样的 400 个样本：388 个上同对或同错；10 个上只有第一个对，2 个上只有第二个对。给出
# `[difference, p]`：两个准确率之差（第一个减第二个），以及符号翻转检验的精确双侧 p 值。（没有 `signs` 时，你的 `paired_test` 不接受多于 16 个样本。哪些样本对 p 没有影响？）
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
difference_and_p = ...  # [difference, p]
### BEGIN SOLUTION
undecided = experiment.paired_test(np.array([1.0] * 10 + [0.0] * 2), np.array([0.0] * 10 + [1.0] * 2))
difference_and_p = [(10 - 2) / 400, undecided["p"]]
### END SOLUTION
labs.answer("12.q2", difference_and_p)
# %% [markdown] lang="en"
# ## 6. The model card
#
# Lecture: *Model card*. The adapter of rank 8, as its `README.md` would describe it. What is not known is not invented: the card says so. (No
# optional fact is given on training data here. What would you write?)
# %% [markdown] lang="zh"
# ## 6. 模型卡
#
# 讲义：*模型卡*。这是秩为 8 的适配器的 `README.md`。不知道的事不编造，卡片会如实写明。（这里没有给出训练数据这一项，你会怎么写？）
# %%
card = experiment.model_card(
    {
        "name": "LoRA for slanted digits, rank 8",
        "license": "apache-2.0",
        "base_model": "digits-vit",
        "library_name": "peft",
        "tags": ["lora", "digits"],
        "metrics": {f"accuracy, {metric} digits": float(scores[metric]["rank 8"].mean()) for metric in metrics},
        "language": ["en"],
        "intended_use": "A classroom example.",
        "limitations": "Slanted digits of one data set; accuracy on plain ones is lower than before.",
    }
)
print(card)
# %% [markdown] lang="en"
# ## 7. Question 3 (7 points, written)
#
# Write the conclusion of this dry run, in at most 200 words, as it would stand in your report.
#
# | criterion | points |
# |---|---|
# | for each decided and each undecided comparison on slanted digits: the verdict with its interval and n; no "equal" where it is inconclusive | 2 |
# | two limitations that belong to *this* experiment, each with what it might hide | 2 |
# | the next experiment: what you would run, with how many seeds, derived from a measured standard deviation and section 3 | 2 |
# | says how many comparisons were made and what the correction changed | 1 |
# %% [markdown] lang="zh"
# ## 7. 问题 3（7 分，书面）
#
# 写出这次预演的结论，如同写进你的报告，不超过 300 字。
#
# | 评分点 | 分值 |
# |---|---|
# | 斜体数字上，对每个已有定论和尚无定论的比较：写出结论、区间和 n；无法定论时不写“相等” | 2 |
# | 两条属于*本*实验的局限，各说明它可能掩盖了什么 | 2 |
# | 下一个实验：做什么，用多少个种子，由测得的标准差和第 3 节推出 | 2 |
# | 写明做了多少个比较，以及校正改变了什么 | 1 |
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# (The numbers are those of one run.) Rank 8 was above rank 1 on slanted digits by 0.039, interval [0.017, 0.065], n = 7 seeds; rank 2 above
# rank 1 by 0.027 [0.011, 0.043]; rank 8 above rank 2 by 0.013 [0.003, 0.023]. By their intervals all three are decided.
# But six comparisons were made, on two metrics, and after correction the smallest p is 0.094: at the level of the whole report none is. With
# seven seeds none could be, since $6 \cdot 2 / 2^7 = 0.094$: the plan was too small, and this was known beforehand. Not being shown is not being equal.
#
# Limitations: percentile intervals from seven values held the mean in under 90 % of the cases in section 3, so the verdicts above are too bold. One learning
# rate served all ranks: rank 8 may have trained faster, which would also explain its larger loss on plain digits.
#
# Next: only rank 8 against rank 1 on slanted digits, one comparison, with the rate tuned for each. The differences had a mean of 0.039 and a
# standard deviation of about 0.03, so $\delta$ is a little above $\sigma$, and about ten seeds give a power of 80 %.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# （数值取自某一次运行。）在斜体数字上，秩 8 比秩 1 高 0.039，区间 [0.017, 0.065]，n = 7 个种子；秩 2 比秩 1 高 0.027 [0.011, 0.043]；
# 秩 8 比秩 2 高 0.013 [0.003, 0.023]。只看区间，三者都已有定论。但在两个指标上共做了六个比较，校正后最小的 p 是 0.094：对整份报告而言，一个也没有定论。
# 七个种子本来就不可能有，因为 $6 \cdot 2 / 2^7 = 0.094$ ：方案太小，而这一点事先就知道。没有得到证实，不等于相等。
#
# 局限：在第 3 节中，由七个数得到的百分位区间只在不到 90 % 的情形中包含均值，所以上面的结论过于大胆。各个秩共用一个学习率：秩 8 可能训练得更快，
# 这也能解释它在正体数字上损失更大。
#
# 下一步：只在斜体数字上比较秩 8 与秩 1，即一个比较，并为两者分别调学习率。差的均值为 0.039，标准差约 0.03， $\delta$ 略大于 $\sigma$ ，约十个种子可达到 80 % 的功效。
# %% [markdown] lang="en"
# ## 8. Checklist for your project
#
# - [ ] One question, written down before the first run, and the difference that would matter.
# - [ ] The number of seeds follows from that difference and a pilot (section 3); the runs are paired.
# - [ ] One configuration for each result; a fresh clone reproduces a number of the report by one command.
# - [ ] The test set chose nothing: no epoch, no rate, no prompt.
# - [ ] Baselines: the base model, full fine-tuning or another adapter, tuned with the same care.
# - [ ] Every mean with its interval and n; every comparison counted, the failed ones too.
# - [ ] Limitations and cost in the report; licences of model and data checked; a model card without invented facts.
# - [ ] Deliverables: report, public repository, demonstration video, review of a peer's code.
#
# ## Where this breaks
#
# - Sections 2 and 3 draw normal, independent differences. Accuracies are skewed near 1, and items of one dialogue depend on each other.
# - Seven seeds of one small model say nothing of another model. In the full profile (`LAB_PROFILE=full`) the same cells adapt ViT-Base to
#   slanted MNIST digits, with a new classification head, so "before training" is chance there.
# - The seed decides the training pictures, the factors and the order together. Which of them causes the spread is another experiment.
# - A test of means does not see that one system fails on one class. Look at the errors, too.
# %% [markdown] lang="zh"
# ## 8. 项目检查清单
#
# - [ ] 第一次运行之前就写下一个问题，以及多大的差别才算有意义。
# - [ ] 种子数由这个差别和小规模试验推出（第 3 节）；各次运行是配对的。
# - [ ] 每个结果对应一份配置；新克隆的仓库用一条命令就能复现报告中的一个数。
# - [ ] 测试集没有用来挑选任何东西：轮次、学习率、提示都没有。
# - [ ] 基线：底座模型、全量微调或另一种适配器，并以同样的用心调参。
# - [ ] 每个均值都附有区间和 n；每个比较都计入，失败的也不例外。
# - [ ] 报告写明局限与成本；核对过模型与数据的许可证；模型卡没有编造的内容。
# - [ ] 交付物：报告、公开仓库、演示视频、对同学代码的评审。
#
# ## 何时不成立
#
# - 第 2、3 节抽取的差服从正态分布且相互独立。准确率接近 1 时分布是偏的，同一段对话中的样本也相互依赖。
# - 一个小模型的七个种子，说明不了另一个模型。full 配置（`LAB_PROFILE=full`）下，同样的单元格把 ViT-Base 适配到斜体的 MNIST 数字，分类头是新的，
#   所以那里的“训练之前”只是随机水平。
# - 种子同时决定训练图片、因子和样本次序。离散究竟来自哪一个，是另一个实验的问题。
# - 对均值的检验看不出某个系统在某一类上失败。也要看一看具体的错误。
