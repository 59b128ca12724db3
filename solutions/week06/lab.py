# %% [markdown] lang="en"
# # Week 6 lab · What a model is trained on, and how it is judged
#
# After this lab you can
#
# - check a training batch by eye, and say what a model learns when the prompt is trained on or the end-of-sequence token is not;
# - measure perplexity so that neither the batch size nor the stride decides the result;
# - use exact match and F1, and say when their normalisation hides an error;
# - write a dialogue evaluation script: both orders, win rate, bootstrap interval, categories, energy;
# - say when merging an update into 16-bit weights loses it.
#
# **Your file.** `exercises/week06/metrics.py`, tasks 6.1 to 6.4: `sft_collate` makes every batch below, `train_step` does every
# step of training, and all scores are yours. The notebook takes about a minute on two CPU cores. Training is logged: open a
# terminal and run `tensorboard --logdir build/runs`. Lecture: `course/week06/lecture.md`.
# %% [markdown] lang="zh"
# # 第 6 周实验 · 模型学的是什么，又如何评判
#
# 做完本实验，你能够
#
# - 用眼睛检查一个训练批次，并说明学习了提示、或者没有学习结束符时，模型会学成什么样；
# - 测出不受批大小和步幅左右的困惑度；
# - 使用精确匹配和 F1，并说明规范化在什么时候会掩盖错误；
# - 编写对话评测脚本：两种次序、胜率、自助法区间、分类别、能耗；
# - 说明把更新量合并进 16 位权重时，什么情况下更新会丢失。
#
# **你的文件。** `exercises/week06/metrics.py` 的任务 6.1 至 6.4：下面每个批次都由 `sft_collate` 生成，每一步训练都由 `train_step`
# 完成，所有分数也都由你的函数计算。整个笔记本在两个 CPU 核上大约运行一分钟。训练过程有日志：在终端运行
# `tensorboard --logdir build/runs` 即可查看。讲义：`course/week06/lecture.zh.md`。
# %%
import json
from random import Random

import numpy as np
import torch

from course import labs
from course.labs import dialogues, meters, plots, text

metrics = labs.student(6, "6.1", "6.2", "6.3", "6.4")  # your file
sizes = labs.sizes(6)  # course/week06/lab.toml

base, tokenizer = text.base_model()
plain = text.Plain(tokenizer)  # encode() and the two ids that sft_collate may use
# %% [markdown] lang="en"
# ## 1 · Look at a batch before you train on it
#
# Each message gives a header, the content and the end-of-sequence token (lecture, "Training data"). Labels are the ids at the
# assistant's contents and at the end-of-sequence tokens behind them, and $-100$ elsewhere. Here are two rows of a batch of yours;
# brackets are around the tokens that have a label.
# %% [markdown] lang="zh"
# ## 1 · 训练之前，先看一眼批次
#
# 每条消息写成头部、内容和结束符（讲义“训练数据”一节）。助手的内容及其后的结束符处，标签就是 id 本身，其余位置为 $-100$ 。
# 下面是你生成的批次中的两行，方括号标出有标签的词元。
# %%
conversations = text.dialogues(2, seed=1)
batch = metrics.sft_collate(conversations, plain, max_length=128)
for row in range(2):
    print(dialogues.marked(batch, tokenizer, row), "\n")
# %% [markdown] lang="en"
# **Question 1 (5 points).** `dialogues.CONVERSATIONS` holds three conversations, `dialogues.Letters()` is a tokenizer with one id
# for each character, whose padding is the end-of-sequence token. How many tokens of the batch have a label, with `max_length=80`?
# Print the rows first and count one of them by hand.
# %% [markdown] lang="zh"
# **问题 1（5 分）。** `dialogues.CONVERSATIONS` 是三段对话， `dialogues.Letters()` 是每个字符一个 id 的分词器，
# 它的填充符就是结束符。取 `max_length=80` ，批次中有多少个词元带标签？请先把各行打印出来，用手数一行。
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
labelled = ...  # a whole number
### BEGIN SOLUTION
by_letter = metrics.sft_collate(dialogues.CONVERSATIONS, dialogues.Letters(), max_length=80)
labelled = int((by_letter["labels"] != -100).sum())
### END SOLUTION
labs.answer("6.q1", labelled)
# %% [markdown] lang="en"
# ## 2 · Perplexity
#
# $$\text{PPL} = \exp\Bigl(-\frac{1}{N} \sum_{i, t} \log p(y_{i, t+1} \mid y_{i, \le t})\Bigr)$$
#
# The mean is over the $N$ tokens of all batches together. Short and long held-out documents are put into batches of several
# sizes; beside your perplexity stands what people often report, the mean of the batches' perplexities.
# %% [markdown] lang="zh"
# ## 2 · 困惑度
#
# $$\text{PPL} = \exp\Bigl(-\frac{1}{N} \sum_{i, t} \log p(y_{i, t+1} \mid y_{i, \le t})\Bigr)$$
#
# 平均是对所有批次的 $N$ 个词元一起做的。把有长有短的留出文档按不同的批大小分批；除了你的困惑度，再画出常有人报告的另一个数：
# 各批困惑度的平均。
# %%
half = sizes.documents // 2
documents = text.documents(half, seed=1, sentences=2) + text.documents(half, seed=2, sentences=12)
Random(0).shuffle(documents)
together, averaged = [], []
for size in labs.progress(sizes.batch_sizes, "batch sizes"):
    parts = [text.collate(documents[i : i + size], tokenizer, sizes.most_tokens) for i in range(0, len(documents), size)]
    pairs = list(dialogues.predictions(base, parts))
    together.append(metrics.perplexity(pairs))
    averaged.append(np.mean([metrics.perplexity([pair]) for pair in pairs]))
labs.record("batching", together=together, averaged=averaged)
curves = {"all tokens together (yours)": together, "mean of the batches' perplexities": averaged}
fig = plots.lines(sizes.batch_sizes, curves, xlabel="documents in a batch", ylabel="perplexity", xscale="log")
plots.show(
    fig, alt="Your perplexity is flat over the batch size; the mean of batch perplexities falls towards it as batches grow"
)
# %% [markdown] lang="en"
# **A long text.** A text longer than the model's window $L$ is read in windows that begin every $S$ tokens, each scoring only the
# tokens that no earlier window had. The model is the same and so is the text.
#
# **Prediction.** At $S = L - 1$ the perplexity of the text below is printed first. What will it be at the smallest stride?
# %% [markdown] lang="zh"
# **长文本。** 文本比模型的窗口 $L$ 长时，窗口每隔 $S$ 个词元开始一个，每个窗口只对前面的窗口没有包含过的词元计分。模型不变，
# 文本也不变。
#
# **预测。** 下面先打印 $S = L - 1$ 时这段文本的困惑度。步幅最小时会是多少？
# %%
long_text = torch.tensor([i for d in text.documents(sizes.long_text, seed=3) for i in text.encode(d, tokenizer)[0]]).to(
    base.device
)
widest = metrics.sliding_window_perplexity(text.Logits(base), long_text, sizes.window, sizes.window - 1)
print(f"{len(long_text)} tokens, window {sizes.window}, stride {sizes.window - 1}: perplexity {widest:.2f}")
# %%
at_smallest = ...  # a perplexity
### BEGIN SOLUTION
at_smallest = 7.0
### END SOLUTION
guess = labs.predict("6.p1", at_smallest)
# %%
calls = []


def counting(ids):
    calls.append(len(ids))
    return text.Logits(base)(ids)


by_stride, windows = [], []
for stride in labs.progress(sizes.strides, "strides"):
    calls.clear()
    by_stride.append(metrics.sliding_window_perplexity(counting, long_text, sizes.window, stride))
    windows.append(sum(calls))
labs.record("strides", strides=sizes.strides, perplexity=by_stride, windows=windows, tokens=len(long_text))
fig, (left, right_side) = plots.figure(2, figsize=(12, 4))
star = (sizes.strides[0], guess)
plots.lines(sizes.strides, {"perplexity": by_stride}, xlabel="stride (tokens)", ylabel="perplexity", predicted=star, ax=left)
plots.lines(sizes.strides, {"windows": windows}, xlabel="stride (tokens)", ylabel="windows read", ax=right_side)
plots.show(
    fig,
    alt="Perplexity rises with the stride, steeply near the window's length; the number of windows read falls with the stride",
)
# %% [markdown] lang="en"
# With the largest stride a new window's first scored token has a single token before it, and the perplexity is much higher:
# nothing about the model has changed. A few tokens of overlap bring most of the gain; smaller strides cost more windows and
# change little here, where a document is short. So a perplexity without its window and stride says nothing, and a difference
# between two models must not be a difference between two strides.
# %% [markdown] lang="zh"
# 步幅最大时，新窗口里第一个计分的词元前面只有一个词元，困惑度高得多，而模型一点没变。只要重叠少数几个词元，就得到了大部分好处；
# 步幅再小，窗口更多，而这里的文档很短，结果变化不大。所以，不写明窗口和步幅的困惑度没有意义；两个模型之间的差别，
# 不应该是两种步幅之间的差别。
# %% [markdown] lang="en"
# ## 3 · Two small mistakes in the labels
#
# The model has never seen the task "how many stars?": rate a review with one to five stars. It is tuned three times, on the same
# examples for the same number of steps:
#
# - **right**: your labels;
# - **no end**: the end-of-sequence tokens have no label, as when padding is masked by its id and the two ids are equal;
# - **prompt too**: every token has a label but the padding.
#
# **Prediction.** The model did learn to stop in its pretraining. Tuned without the end, which share of its replies will still
# stop by itself (0 to 1)?
# %% [markdown] lang="zh"
# ## 3 · 标签里的两个小错误
#
# 模型从没见过“几颗星”（how many stars?）这个任务：给一条影评打一到五颗星。用同样的样本、同样的步数微调三次：
#
# - **right**：你的标签；
# - **no end**：结束符没有标签；按 id 屏蔽填充、而两个 id 又相同时，就会这样；
# - **prompt too**：除填充以外，每个词元都有标签。
#
# **预测。** 模型在预训练中学过要停下来。不带结束符微调之后，还有多大比例的回答会自己停下（0 到 1）？
# %%
share_stopping = ...  # from 0 to 1
### BEGIN SOLUTION
share_stopping = 0.9
### END SOLUTION
guess = labs.predict("6.p2", share_stopping)


# %%
def right(batch):
    return batch


def no_end(batch):
    return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == plain.eos_token_id, -100)}


def prompt_too(batch):
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def batches(label, seed):
    """Without end: for each step two micro-batches, which your `train_step` makes one step of."""
    train, rng = [dialogues.conversation(e) for e in text.examples("stars", sizes.examples, seed)], Random(seed)
    while True:
        drawn = rng.sample(train, sizes.batch)
        yield [label(metrics.sft_collate(drawn[part::2], plain)) for part in range(2)]


def tuned(label, seed):
    """The model with a new adapter, and the losses of its training."""
    model = text.lora(base, sizes.rank, 2 * sizes.rank, "all-linear", seed=seed)
    name = f"week06/{label.__name__}-{seed}"
    return model, dialogues.tune(metrics.train_step, model, batches(label, seed), sizes.steps, sizes.rate, name)


# %%
held_out = text.examples("stars", sizes.held_out, seed=99, part="test")
targets = [metrics.sft_collate([dialogues.conversation(e) for e in held_out], plain)]


def scores(model):
    said = text.replies(model, tokenizer, [e.prompt for e in held_out], sizes.limit)
    return {
        "right, letter by letter": np.mean([reply == e.completion for reply, e in zip(said, held_out, strict=True)]),
        "your exact_match": np.mean(
            [metrics.exact_match(reply, [e.completion]) for reply, e in zip(said, held_out, strict=True)]
        ),
        "stops by itself": np.mean([len(plain.encode(reply)) < sizes.limit - 1 for reply in said]),
        "perplexity of the right replies": metrics.perplexity(dialogues.predictions(model, targets)),
    }, said[0]


losses, table = {}, {}
with meters.energy() as training_energy:
    for label in (no_end, prompt_too, right):
        name = label.__name__.replace("_", " ")
        losses[name], table[name] = [], []
        for seed in sizes.seeds:
            model, loss = tuned(label, seed)
            row, first_reply = scores(model)
            losses[name].append(loss)
            table[name].append(row)
            if (label, seed) != (right, sizes.seeds[-1]):  # the last one is used below
                model.unload()
        print(f"{name:10}  {held_out[0].prompt.splitlines()[-1]!r} -> {first_reply!r}")
losses = {name: np.mean(runs, axis=0) for name, runs in losses.items()}
table = {name: {key: [float(row[key]) for row in rows] for key in rows[0]} for name, rows in table.items()}
labs.record("labels", losses={name: float(np.mean(loss[-10:])) for name, loss in losses.items()}, scores=table)
# %%
fig, (left, right_side) = plots.figure(2, figsize=(12, 4))
plots.lines(range(1, sizes.steps + 1), losses, xlabel="step", ylabel="training loss (nats per token)", ax=left)
shares = ["right, letter by letter", "your exact_match", "stops by itself"]
plots.bars(
    shares, {name: [np.mean(row[key]) for key in shares] for name, row in table.items()}, xlabel="", ylabel="share", ax=right_side
)
right_side.set(xlabel="on held-out prompts", ylim=(0, 1.35), yticks=np.linspace(0, 1, 6))
right_side.tick_params(axis="x", rotation=0)
plots.show(
    fig,
    alt="Left: training losses; without the end it is lowest. Right: without the end no reply stops or is right",
)
stopping = np.mean(table["no end"]["stops by itself"])
print(f"replies that stop, tuned without the end: {stopping:.2f}; you predicted: {guess}")
for name, row in table.items():
    print(f"{name:10}  perplexity of the right replies {np.mean(row['perplexity of the right replies']):.2f}")
# %% [markdown] lang="en"
# Without the end, the training loss is the *lowest* of the three, near zero, and yet no reply stops. What is there to predict
# after a star? Another star, or the end; and the end has no label. The number of stars was said by the end alone. What the model
# had learnt in pretraining does not protect it. The perplexity of the right replies, measured with the right labels, shows the
# damage; the training loss cannot.
#
# Trained on the prompt as well, the model stops, but at this number of steps fewer replies are right: most labels are now in the
# prompt, whose words cannot be foreseen, and they take most of the gradient. Its loss is higher because it is a mean over *other
# tokens*: losses under different labels cannot be compared. Masking is a choice, though. With long replies or few examples,
# training on the prompt was found to help at times (Shi et al. 2024, [arXiv:2405.14394](https://arxiv.org/abs/2405.14394)).
#
# And your `exact_match` is 1 for all three. Why? Section 4 answers.
# %% [markdown] lang="zh"
# 不带结束符时，训练损失是三者中**最低**的，接近零，可是没有一个回答会停下。一颗星之后要预测什么？再来一颗星，或者结束；
# 而结束没有标签。星的数目恰恰只由结束符来表达。预训练中学到的东西也保护不了它。用正确的标签测量正确回答的困惑度，就能看出损害；
# 训练损失看不出来。
#
# 把提示也拿来学习时，模型会停下，但在这样的步数下，答对的更少：现在大多数标签都在提示里，那里的词无从预料，却占去了大部分梯度。
# 它的损失更高，因为那是**另一些词元**的平均：标签不同，损失就不能比较。不过，屏蔽提示只是一种选择：有研究发现，
# 回答很长或样本很少时，学习提示有时有帮助（Shi 等，2024，[arXiv:2405.14394](https://arxiv.org/abs/2405.14394)）。
#
# 而你的 `exact_match` 对三者都给出 1。为什么？第 4 节回答。
# %% [markdown] lang="en"
# **Forgetting.** Does tuning on one task change the perplexity of other text?
# %% [markdown] lang="zh"
# **遗忘。** 在一个任务上微调，会改变其他文本的困惑度吗？
# %%
text_batch = [text.collate(documents, tokenizer, sizes.most_tokens)]
forgetting = {"base": together[0], "tuned": metrics.perplexity(dialogues.predictions(model, text_batch))}
with model.disable_adapter():
    forgetting["tuned, adapter off"] = metrics.perplexity(dialogues.predictions(model, text_batch))
for name, value in forgetting.items():
    print(f"{name:20} perplexity of the documents {value:.2f}")
labs.record("forgetting", **forgetting)
# %% [markdown] lang="en"
# It does. LoRA does not keep a model from forgetting; its update can be taken away, which is another thing.
#
# ## 4 · Exact match and F1
#
# $$F_1 = \frac{2 P R}{P + R} = \frac{2 s}{m + k}$$
#
# for $m$ tokens in the prediction, $k$ in the reference and $s$ shared. English and Chinese are normalised in different ways.
# What do your functions say here?
# %% [markdown] lang="zh"
# 会的：LoRA 并不能阻止模型遗忘。它的更新可以撤下，那是另一回事。
#
# ## 4 · 精确匹配与 F1
#
# $$F_1 = \frac{2 P R}{P + R} = \frac{2 s}{m + k}$$
#
# 其中预测有 $m$ 个词元，参考答案有 $k$ 个，共享 $s$ 个。英文和中文的规范化方式不同。对下面这些例子，你的函数怎么说？
# %%
pairs = [
    ("The boat is wet!", "the boat is wet.", "en"),
    ("It is wet.", "the boat is wet.", "en"),
    ("the boat is not wet.", "the boat is wet.", "en"),
    ("狗， 猫。", "狗猫", "zh"),
    ("狗， 猫。", "狗猫", "en"),
    ("-5", "5", "en"),
    ("* *", "* * * * *", "en"),
]
for prediction, reference, lang in pairs:
    em, f1 = metrics.exact_match(prediction, [reference], lang), metrics.token_f1(prediction, [reference], lang)
    print(f"{prediction!r:26} {reference!r:20} {lang}  exact match {em:.0f}  F1 {f1:.2f}")


# %% [markdown] lang="en"
# The last two lines are the price of the normalisation: punctuation and symbols are deleted, so −5 equals 5, and two stars equal
# five, or sixteen without an end. The third line says the opposite and has a high F1. A metric is chosen for a task: for ratings
# in stars, or for numbers with a sign, compare letter by letter. Always say which normalisation a score has.
#
# Next: the new task, letter by letter, and tasks of the pretraining, before and after tuning.
# %% [markdown] lang="zh"
# 最后两行是规范化的代价：标点和符号被删去，于是 −5 等于 5，两颗星等于五颗星，也等于没完没了的十六颗。第三行意思正好相反，F1
# 却很高。指标要按任务来选：用星号打分、或带正负号的数，应当逐字比较。报告分数时，总要写明用了哪种规范化。
#
# 接下来看新任务（逐字比较）和预训练过的任务，微调前后各是多少。
# %%
def right_letters(reply, references, lang):
    return float(reply in references)


tasks = {"stars": "en", "greeting": "en", "capital": "en", "opposite": "en", "chinese": "zh"}
results = {"base": {}, "tuned": {}}
for task, lang in labs.progress(tasks.items(), "tasks"):
    asked = text.examples(task, sizes.dialogues, seed=7, part="test")
    match = right_letters if task == "stars" else metrics.exact_match
    tuned_says = text.replies(model, tokenizer, [e.prompt for e in asked], sizes.limit)
    with model.disable_adapter():
        base_says = text.replies(model, tokenizer, [e.prompt for e in asked], sizes.limit)
    for name, said in (("base", base_says), ("tuned", tuned_says)):
        results[name][task] = np.mean([match(reply, [e.completion], lang) for reply, e in zip(said, asked, strict=True)])
labs.record("tasks", **results)
series = {name: [row[task] for task in tasks] for name, row in results.items()}
fig = plots.bars(list(tasks), series, xlabel="task (stars: letter by letter)", ylabel="exact match")
fig.axes[0].set(ylim=(0, 1.3), yticks=np.linspace(0, 1, 6))
plots.show(fig, alt="The tuned model is right on the new task; on tasks that it knew before it has lost much")


# %% [markdown] lang="en"
# ## 5 · A dialogue evaluation script
#
# A judge compares two replies to the same prompt, and judges like the reply that stands first. So each pair is judged twice, with
# the replies exchanged: A wins if it is preferred both times, loses if B is, and anything else is a tie. With $w$ wins, $t$ ties
# and $l$ losses of $n$, the win rate is $(w + t / 2) / n$.
#
# **Question 2 (5 points).** `dialogues.verdicts()` holds what a judge said of 40 pairs: each a pair (verdict with A's reply
# first, verdict with B's reply first) of "first", "second" and "tie". Write `score`, and give A's win rate.
# %% [markdown] lang="zh"
# ## 5 · 对话评测脚本
#
# 评判者比较同一个提示的两个回答，而评判者往往偏爱排在前面的那个。所以每一对都要交换次序评判两次：两次都偏爱 A，A 才算赢；
# 两次都偏爱 B，A 算输；其余都是平局。 $n$ 对中有 $w$ 胜、 $t$ 平、 $l$ 负时，胜率为 $(w + t / 2) / n$ 。
#
# **问题 2（5 分）。** `dialogues.verdicts()` 是一位评判者对 40 对回答的判断：每项为（A 的回答在前时的判断，B
# 的回答在前时的判断），取值 "first"、"second"、"tie"。写出 `score` ，并给出 A 的胜率。
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
def score(with_a_first, with_b_first):
    """1 for a win of A, 0.5 for a tie, 0 for a loss."""
    ### BEGIN SOLUTION
    if with_a_first == "first" and with_b_first == "second":
        return 1
    if with_a_first == "second" and with_b_first == "first":
        return 0
    return 0.5
    ### END SOLUTION


win_rate = ...  # of dialogues.verdicts()
### BEGIN SOLUTION
win_rate = sum(score(*pair) for pair in dialogues.verdicts()) / len(dialogues.verdicts())
### END SOLUTION
labs.answer("6.q2", win_rate)
# %% [markdown] lang="en"
# Now A is the tuned model and B the base, on the new task and on three that both were trained on. The judge is a program that
# knows the reference: it prefers the second reply only if that is clearly better. This makes it biased as real judges are, and
# reproducible as they are not. `score` is your function.
# %% [markdown] lang="zh"
# 现在 A 是微调后的模型，B 是底座，题目取自新任务和两者都训练过的三个任务。评判者是一个知道参考答案的程序：
# 只有第二个回答明显更好时，它才选第二个。这样它像真实的评判者一样有偏，却又可以复现。其中的 `score` 是你的函数。
# %%
categories = ["stars", "greeting", "capital", "opposite"]
asked = [e for task in categories for e in text.examples(task, sizes.dialogues, seed=8, part="test")]
with meters.energy() as evaluation_energy:
    prompts = [e.prompt for e in asked]
    ours = text.replies(model, tokenizer, prompts, sizes.limit)
    with model.disable_adapter():
        theirs = text.replies(model, tokenizer, prompts, sizes.limit)
lines = [
    json.dumps({"category": e.task, "prompt": e.prompt, "reply_a": a, "reply_b": b})
    for e, a, b in zip(asked, ours, theirs, strict=True)
]
print(lines[0])
reference = {e.prompt: e.completion for e in asked}


def judge(prompt, first, second):
    return "second" if second == reference[prompt] != first else "first"


# %%
ways = {
    "only with A first": lambda with_a_first, with_b_first: float(with_a_first == "first"),
    "only with B first": lambda with_a_first, with_b_first: float(with_b_first == "second"),
    "both orders (your score)": score,
}
reports = {name: dialogues.report(lines, judge, way) for name, way in ways.items()}
reports = dict(filter(lambda item: item[1], reports.items()))  # yours may not be written yet
groups = ["overall", *categories]
rates = {name: [report[group]["win_rate"] for group in groups] for name, report in reports.items()}
ends = {
    name: np.array([[row["win_rate"] - row["low"], row["high"] - row["win_rate"]] for row in map(report.get, groups)]).T
    for name, report in reports.items()
}
labs.record("judged", **reports)
fig = plots.bars(groups, rates, xlabel="category of prompts", ylabel="win rate of the tuned model", errors=ends)
fig.axes[0].axhline(0.5, color="black", linewidth=0.8, linestyle="--")
fig.axes[0].set(ylim=(0, 1.45), yticks=np.linspace(0, 1, 6))
plots.show(
    fig,
    alt="Win rates by category: near 1 on the new task, below a half on old ones; one order alone shifts them",
)
for name, report in reports.items():
    row = report["overall"]
    print(f"{name:25} n {row['n']}  win rate {row['win_rate']:.2f}  95 % [{row['low']:.2f}, {row['high']:.2f}]")
# %% [markdown] lang="en"
# One order alone decides much of the figure: where both models say the same, the judge takes the first. Asked in both orders,
# these are ties. The overall rate is a mixture whose weights come from the choice of categories: more prompts of the new task
# would raise it. The interval knows nothing of that, and nothing of the judge's taste; it covers only the choice of prompts.
# Where all prompts are won or lost it has no width: the bootstrap cannot see what did not occur. The rule of three can: with 0
# losses in $n$ prompts, a rate of up to about $3 / n$ is still likely enough.
#
# If your stretch tasks 6.5 and 6.6 are written, your `DialogueEvaluator` says the same:
# %% [markdown] lang="zh"
# 只用一种次序，数字很大程度上由次序决定：两个模型说得一样时，评判者就选前面的。两种次序都问，这些就是平局。总胜率是混合而成的，
# 权重取决于选了哪些类别：新任务的题目多一些，它就更高。区间不知道这一点，也不知道评判者的偏好；它只反映抽到了哪些题目。
# 全胜或全败时，区间宽度为零：自助法看不到没有发生的事。可以用“三法则”： $n$ 题中 0 败，负率仍可能高达约 $3 / n$ 。
#
# 如果你写完了拓展任务 6.5 和 6.6，你的 `DialogueEvaluator` 应当给出同样的结果：
# %%
try:
    overall = metrics.DialogueEvaluator(judge).evaluate(lines)["overall"]
    print({key: round(value, 3) for key, value in overall.items()})
except NotImplementedError as error:
    print(error)
# %% [markdown] lang="en"
# **What it used.** The trainings of section 3 with their scores, and the replies above:
# %% [markdown] lang="zh"
# **用了多少能量。** 第 3 节的各次训练及其评分，以及上面的全部回答：
# %%
used = {f"{3 * len(sizes.seeds)} trainings, with scores": training_energy, f"{2 * len(asked)} replies": evaluation_energy}
for name, energy in used.items():
    print(f"{name:34} {energy.seconds:7.1f} s  {1000 * energy.kwh:9.5f} Wh  {1000 * energy.kg_co2e:9.5f} g CO2e  ({energy.cpu})")
labs.record("energy", training=training_energy.kwh, evaluation=evaluation_energy.kwh)
# %% [markdown] lang="en"
# Where power cannot be read, as in most containers, codecarbon multiplies a nominal power of the processor by time: an estimate,
# and a report must say so. The carbon figure further assumes the mean intensity of a country's grid.
#
# ## 6 · Merging into 16 bits
#
# $$M = \text{round}(W + \Delta W), \qquad e = \frac{\lVert (M - W) - \Delta W \rVert_F}{\lVert \Delta W \rVert_F}$$
#
# An entry's update is *lost* where $\Delta W \ne 0$ and $M = W$. Weights are drawn from $N(0, 0.02^2)$, updates from $N(0, s^2)$.
#
# **Prediction.** For $s = 10^{-4}$ and bfloat16: which share of the entries is lost?
# %% [markdown] lang="zh"
# 在读不到功率的环境里（多数容器都是这样），codecarbon 用处理器的标称功率乘以时间：这是估计值，报告中必须写明。
# 碳排放的数字还假设了某个国家电网的平均强度。
#
# ## 6 · 合并进 16 位权重
#
# $$M = \text{round}(W + \Delta W), \qquad e = \frac{\lVert (M - W) - \Delta W \rVert_F}{\lVert \Delta W \rVert_F}$$
#
# 若 $\Delta W \ne 0$ 而 $M = W$ ，这个元素的更新就**丢失**了。权重取自 $N(0, 0.02^2)$ ，更新量取自 $N(0, s^2)$ 。
#
# **预测。** $s = 10^{-4}$ 、bfloat16：丢失的元素占多大比例？
# %%
share_lost = ...  # from 0 to 1
### BEGIN SOLUTION
share_lost = 0.05
### END SOLUTION
guess = labs.predict("6.p3", share_lost)
# %%
rng = np.random.default_rng(0)
W = torch.from_numpy(rng.standard_normal(sizes.entries) * 0.02)
update = torch.from_numpy(rng.standard_normal(sizes.entries))
update_sizes = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
errors = {name: [metrics.merge_error(W, s * update, dtype) for s in update_sizes] for name, dtype in dtypes.items()}
lost = {name: [error["lost"] for error in row] for name, row in errors.items()}
relative = {name: [error["relative_error"] for error in row] for name, row in errors.items()}
labs.record("merge", sizes=update_sizes, lost=lost, relative=relative)
fig, (left, right_side) = plots.figure(2, figsize=(12, 4))
axis = {"xlabel": "standard deviation of the update", "xscale": "log"}
plots.lines(update_sizes, lost, ylabel="share of entries lost", predicted=(1e-4, guess), ax=left, **axis)
plots.lines(update_sizes, relative, ylabel="relative error e", ax=right_side, **axis)
plots.show(
    fig,
    alt="Share lost and relative error against the size of the update: both fall, those of float16 at smaller updates",
)
for name in dtypes:
    print(f"{name:9} s = 1e-4: {lost[name][2]:.1%} of the entries lost; s = 1e-5: {lost[name][1]:.1%}")
# %% [markdown] lang="en"
# What does this mean for the adapter that was just trained? Its updates are measured by your function, and then it is merged for
# good.
# %% [markdown] lang="zh"
# 对刚刚训练好的适配器，这意味着什么？先用你的函数测量它的更新量，再真正合并。
# %%
layers = dialogues.updates(model)
typical = float(np.mean([delta.float().std().item() for _, delta in layers]))
own = {name: np.mean([metrics.merge_error(w, d, dtype)["lost"] for w, d in layers]) for name, dtype in dtypes.items()}
beside = text.exact_match(model, tokenizer, held_out)
merged = model.merge_and_unload().to(torch.bfloat16)
after = text.exact_match(merged, tokenizer, held_out)
print(f"updates of about {typical:.1e}; lost: bfloat16 {own['bfloat16']:.1%}, float16 {own['float16']:.1%}")
print(f"right replies: {beside:.2f} with the adapter beside the base, {after:.2f} merged and rounded to bfloat16")
labs.record("merged", typical=typical, lost=own, beside=beside, after=after)
# %% [markdown] lang="en"
# A small model tuned at a high rate has large updates, so little is lost and the replies hardly change. A large model tuned with
# a rate of $10^{-4}$ or less may have updates near the spacing of bfloat16: measure before you throw the adapter away.
#
# ## 7 · Your project
#
# The proposal of the final project is due this week. Its scaffold is `exercises/week12/experiment.py`, released now:
# `run_experiment` repeats an experiment for a list of seeds, `paired_test` and `bootstrap_ci` compare two systems on the same
# items, `render_report` and `model_card` write down no more than the intervals show. Section 3 of this notebook as its
# configuration would be
#
# ```python
# config = {
#     "seeds": [0, 1, 2, 3, 4],
#     "data": lambda: text.examples("stars", 256, seed=0),
#     "model": lambda data, rank: ...,  # tune on the data, return the model
#     "options": {"rank": 8},
#     "metrics": {"right": lambda model, data: text.exact_match(model, tokenizer, held_out)},
# }
# ```
#
# Write your proposal around it: one question, the two systems that you compare, the metric and its normalisation, the number of
# items and seeds, and what the run may cost.
#
# ## 8 · Written question (5 points)
#
# Write the evaluation paragraph of a report on the tuned model of this notebook, 120 to 200 words, for a reader who must decide
# whether to use it.
#
# Rubric: a win rate with its interval, the number of prompts, and how the judge was asked (2 points); what was gained and what
# was lost, by category, with figures (1); the normalisation or the window and stride of each further score that you give (1); one
# limit of this evaluation that the interval does not cover, and the energy as an estimate (1).
# %% [markdown] lang="zh"
# 小模型用较大的学习率微调，更新量很大，所以丢失得很少，回答几乎不变。大模型的学习率在 $10^{-4}$ 或更小，更新量可能接近 bfloat16
# 的间隔：扔掉适配器之前，先测一测。
#
# ## 7 · 你的项目
#
# 本周提交期末项目的开题报告。项目框架是现在发布的 `exercises/week12/experiment.py`： `run_experiment` 按一组种子重复实验，
# `paired_test` 和 `bootstrap_ci` 在相同的题目上比较两个系统， `render_report` 和 `model_card` 只写下区间能支持的结论。
# 把本笔记本第 3 节写成它的配置，就是
#
# ```python
# config = {
#     "seeds": [0, 1, 2, 3, 4],
#     "data": lambda: text.examples("stars", 256, seed=0),
#     "model": lambda data, rank: ...,  # 在数据上微调，返回模型
#     "options": {"rank": 8},
#     "metrics": {"right": lambda model, data: text.exact_match(model, tokenizer, held_out)},
# }
# ```
#
# 开题报告就围绕它来写：一个问题，要比较的两个系统，指标及其规范化方式，题目和种子的数量，以及运行的代价。
#
# ## 8 · 书面问题（5 分）
#
# 为本笔记本微调出的模型写一段评测报告，200 至 350 字，读者要据此决定用不用它。
#
# 评分标准：胜率及其区间、题目数量、怎样询问评判者（2 分）；按类别写出得与失，并引用数字（1 分）；其余每个分数的规范化方式，
# 或窗口与步幅（1 分）；本次评测中区间没有覆盖的一个局限，以及作为估计值的能耗（1 分）。
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# On 160 held-out prompts, 40 for each of four tasks, the tuned model (A) was compared with its base (B) by a program that knows
# the right reply and was asked in both orders; a win counts if both verdicts agree. The overall win rate and its 95 % bootstrap
# interval are those of "both orders" above, below one half, but the mixture hides opposite results. On the new task "stars" A
# wins nearly always: about 85 % of its replies are right letter for letter, of the base's none. On the tasks of the pretraining
# it does not win: greetings mostly tie, "capital" and "opposite" are mostly lost. Exact match (lower case, punctuation and
# symbols removed, hence not for stars) says the same. So: use it for this one task, with the adapter off elsewhere.
#
# The interval covers the choice of prompts only: not the choice of tasks, which decides the overall rate, nor the seed of the
# training. The energy, a fraction of a watt-hour, is an estimate from nominal power.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 在 160 个留出题目上（四个任务各 40 个），由一个知道正确回答的程序比较微调模型（A）与底座（B），两种次序各问一次，
# 两次判断一致才算赢。总胜率及其 95 % 自助法区间见上面 “both orders” 一行，低于一半，但这个混合数字掩盖了相反的结果。在新任务
# “stars” 上，A 几乎全胜：约 85 % 的回答逐字正确，而底座一个也没有。在预训练过的任务上它没有赢：问候大多打平，“capital” 和
# “opposite” 大多落败。精确匹配（转小写，删去标点和符号，因此不用于星级）的结论相同。因此：只把它用在这一个任务上，
# 其他场合关掉适配器。
#
# 区间只覆盖题目的抽取，不覆盖任务的选择（它决定总胜率），也不覆盖训练的种子。能耗不到一瓦时，是按标称功率估计的。
# %% [markdown] lang="en"
# ## Where this breaks
#
# - The judge is a program with a reference. Real judges, people or models, also prefer long replies, perhaps their own style, and
#   have no reference; two orders mend the position only.
# - Tasks and texts are generated. That a model without labels at the ends does not stop is general; how much training on the
#   prompt costs is not: it depends on the length of prompt and reply, the number of steps and the data.
# - Two seeds; intervals here are over prompts, with the model fixed. Week 12 repeats over seeds.
# - Perplexity is comparable only between models with the same tokenizer.
# - In the full profile the same cells tune Llama-2-7B on the same task and read WikiText-2 in windows of 1,024; energy is then
#   measured on the GPU where its counter can be read.
#
# Lecture sections: Training data, Perplexity, Answers, Dialogue evaluation, Bootstrap, Merge error.
# %% [markdown] lang="zh"
# ## 局限
#
# - 这里的评判者是一个知道参考答案的程序。真实的评判者，无论人还是模型，还偏爱长回答，也许还偏爱自己的风格，而且没有参考答案；
#   交换次序只能纠正位置偏差。
# - 任务和文本都是生成的。“不学结束符就停不下来”是普遍的；学习提示的代价则不是：它取决于提示和回答的长度、步数和数据。
# - 只有两个种子；这里的区间是在模型固定时对题目而言的。第 12 周会按种子重复实验。
# - 只有分词器相同的模型，困惑度才能比较。
# - 完整配置下，同样的单元格会在同一任务上微调 Llama-2-7B，并以 1,024 的窗口读 WikiText-2；能读到 GPU 计数器时，能耗由测量得到。
#
# 对应讲义：训练数据、困惑度、答案的比较、对话评测、自助法、合并误差。
