# %% [markdown] lang="en"
# # Week 8 lab · A chatbot for a Raspberry Pi, and adapters from several clients
#
# A lab for a team of two to four. Afterwards you can
#
# - take a model from a LoRA to a folder that a small board runs: merge, ONNX, int8, a chat in the terminal and over HTTP;
# - say what each step does to the replies, to speed and to memory, from your own measurements;
# - aggregate the adapters of several clients, and tell when averaging the factors is wrong and by how much;
# - have one generator write the adapters of several tasks.
#
# It runs on your own file `exercises/week08/edge_federated.py` (tasks 8.1 to 8.4), in about a minute. The theory is in
# [the lecture](../course/week08/lecture.md): *Fedavg*, *Stacking*, *Generator*, *Generate reply*, *Clip and noise*. Three cells
# are graded: `8.q1`, `8.q2` and a written answer, `8.q3`, 15 points together.
#
# Suggested parts for a team: one picks the instructions that the bot is tuned on, one runs the board, one measures, one does
# the federated part; everybody answers `8.q3` for themselves.
# %% [markdown] lang="zh"
# # 第 8 周实验 · 树莓派上的聊天机器人，以及来自多个客户端的适配器
#
# 本实验由二至四人的小组完成。完成后你将能够
#
# - 把一个带 LoRA 的模型变成小型开发板可以运行的文件夹：合并、ONNX、int8、终端对话和 HTTP 对话；
# - 根据自己的测量，说明每一步对回复、速度和内存的影响；
# - 聚合多个客户端的适配器，并判断何时不能平均因子、误差有多大；
# - 用一个生成器写出多个任务的适配器。
#
# 实验运行在你自己的文件 `exercises/week08/edge_federated.py` 上（任务 8.1 至 8.4），大约需要一分钟。相关理论见
# [讲义](../../course/week08/lecture.zh.md)的“因子平均与残差”“堆叠”“生成器”“生成回复”“裁剪与加噪”各节。计分的单元格有三个：
# `8.q1`、`8.q2` 和书面题 `8.q3`，共 15 分。
#
# 建议的分工：一人选择微调机器人所用的指令，一人负责开发板，一人负责测量，一人负责联邦部分；`8.q3` 由每个人各自作答。
# %%
import numpy as np
import torch
from torch.func import functional_call

from course import labs
from course.labs import adapters, chat, export, plots, text, training

lab = labs.student(8)  # your own file
sizes = labs.sizes(8)  # course/week08/lab.toml

# %% [markdown] lang="en"
# ## 1 · Tune, merge, export
#
# The base model knows a dozen small tasks. The bot shall keep them and learn two that are new: to say each word twice, and to
# rate a review by stars. So its lessons mix conversations of two turns with examples of both. A LoRA on all linear layers learns
# them; `tensorboard --logdir build/runs` shows the run while it lasts. Your team may choose other lessons here.
# %% [markdown] lang="zh"
# ## 1 · 微调、合并、导出
#
# 底座模型会做十来种小任务。机器人要保留这些本领，再学两种新的：把每个词说两遍，以及给影评打星。因此训练样本由两轮对话和这两种
# 任务的例子混合而成，由作用于所有线性层的 LoRA 来学习。训练过程中可以用 `tensorboard --logdir build/runs` 查看曲线。你们小组也可以在这里
# 换用别的训练样本。
# %%
model, tokenizer = text.base_model()


NEW = ("double", "stars")
lessons = text.dialogues(sizes.examples, part="train")
lessons += [item for task in NEW for item in text.examples(task, sizes.examples)]
general = [request.example() for request in text.alpaca(sizes.test, part="test")]
new = [text.examples(task, sizes.test, part="test") for task in NEW]
test = [item for three in zip(general, *new, strict=True) for item in three]  # a third of each, in turn
before = text.exact_match(model, tokenizer, test)

model = text.lora(model, sizes.rank, 2 * sizes.rank, "all-linear")
batches = text.length_batches(lessons, tokenizer, sizes.batch)
history = training.fit(model, batches, sizes.steps, sizes.rate, name="week08-chatbot", warmup=10, schedule="cosine")
after = text.exact_match(model, tokenizer, test)
print(f"right replies: base {before:.2f}, with LoRA {after:.2f}")
labs.record("chatbot", before=before, after=after)
# %%
fig = plots.lines(
    range(10, len(history.loss) + 1), {"loss": np.convolve(history.loss, np.ones(10) / 10, "valid")},
    xlabel="step", ylabel="cross-entropy (nats per token)", title="Tuning the chatbot (mean of 10 steps)",
)  # fmt: skip
plots.show(fig, alt="The loss of the chatbot's tuning falls quickly in the first steps and slowly afterwards.")
# %% [markdown] lang="en"
# Merging writes $W' = W_0 + \frac{\alpha}{r} B A$, so that the board computes no branch. `chat_folder` exports the merged model
# to ONNX and quantises the matrices of the result with onnxruntime's `quantize_dynamic`: weights become int8 codes with one
# scale for each output $j$, fixed in the file; inputs are quantised as they come, with a scale of their own each time
# ("dynamic"), which needs no calibration data:
#
# $$W_{ij} \approx s_j Q_{ij}, \qquad x \approx s_x (q - z), \qquad \sum_i x_i W_{ij} \approx s_x s_j \sum_i (q_i - z)\, Q_{ij}$$
#
# The sum on the right is one of whole numbers.
# %% [markdown] lang="zh"
# 合并得到 $W' = W_0 + \frac{\alpha}{r} B A$ ，开发板上不再有分支要计算。`chat_folder` 把合并后的模型导出为 ONNX，再用 onnxruntime 的
# `quantize_dynamic` 量化其中的矩阵：权重变成 int8 码，每个输出 $j$ 一个缩放系数，写在文件里；输入则在运行时量化，每次各用自己的缩放系数
# （所以叫“动态”），不需要校准数据：
#
# $$W_{ij} \approx s_j Q_{ij}, \qquad x \approx s_x (q - z), \qquad \sum_i x_i W_{ij} \approx s_x s_j \sum_i (q_i - z)\, Q_{ij}$$
#
# 右边的求和全是整数运算。
# %%
merged = model.merge_and_unload().float().cpu()  # the board has no GPU either
folder = export.chat_folder(merged, tokenizer, text.template(tokenizer), export.build("chatbot"))
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size / 1024:10.1f} KiB  {path.name}")
# %% [markdown] lang="en"
# ## 2 · The template is part of the model
#
# Your `generate_reply` now speaks through three engines: PyTorch, onnxruntime with float32 weights, and with int8 weights. Each
# is a function from ids to logits, and your loop is the same for all,
# $x_t = \arg\max_x P(x \mid x_{<t})$ with $P = \text{softmax}(z_t / T)$.
#
# First a prediction. The model was trained on this text and no other:
# %% [markdown] lang="zh"
# ## 2 · 模板是模型的一部分
#
# 现在，你的 `generate_reply` 通过三种引擎说话：PyTorch、使用 float32 权重的 onnxruntime、使用 int8 权重的 onnxruntime。每种引擎都是从
# id 到 logit 的函数，你的循环对三者完全相同： $x_t = \arg\max_x P(x \mid x_{<t})$ ，其中 $P = \text{softmax}(z_t / T)$ 。
#
# 先做预测。模型训练时见到的文本只有下面这一种形式：
# %%
print(repr(text.template(tokenizer)))

share_without_template = ...  # of the bot's right replies with the template, which share is left without it? 0 to 1
### BEGIN SOLUTION
share_without_template = 0.1
### END SOLUTION
predicted_share = labs.predict("8.p1", share_without_template)
# %%
engines = {
    "PyTorch": text.Logits(merged),
    "ONNX fp32": export.runtime(folder / "model.onnx"),
    "ONNX int8": export.runtime(folder / "model.int8.onnx"),
}
asked = test[: sizes.asked]
words = text.Plain(tokenizer)


def answers(engine, template):
    return [lab.generate_reply(engine, words, template, item.prompt, sizes.reply) for item in labs.progress(asked, "asking")]


def share(said, wanted):
    return sum(a.strip() == b.strip() for a, b in zip(said, wanted, strict=True)) / len(wanted)


# %%
whole = text.template(tokenizer)
templates = {"as trained": whole, "no last line break": whole.rstrip("\n"), "none": "{message}"}
right = {
    name: share(answers(engines["ONNX fp32"], form), [item.completion for item in asked]) for name, form in templates.items()
}
bars = {"measured": list(right.values())}
if predicted_share is not None:
    bars["your prediction"] = [float("nan"), float("nan"), predicted_share * right["as trained"]]
fig = plots.bars(
    list(right), bars, xlabel="template at inference", ylabel="share of right replies", title="One model, three prompts"
)
plots.show(
    fig,
    alt="The share of right replies is highest with the template of the training, lower without its last line break, and near zero without a template.",
)
labs.record("template", **{name.replace(" ", "_"): value for name, value in right.items()})
# %% [markdown] lang="en"
# One missing line break costs most of the right replies: nothing in the code fails, the bot is only worse. Keep the
# template in one place (`chat.json` in the folder) and use it for training and inference.
# %% [markdown] lang="zh"
# 少一个换行就丢掉大部分正确回复：代码不报任何错误，机器人只是变差了。请把模板只存放在一处（文件夹中的 `chat.json`），训练和推理都用它。
# %% [markdown] lang="en"
# ## 3 · What int8 costs and what it buys
#
# A reply of int8 may differ from float32 where two logits are close. Speed and memory are measured in a process of its own for
# each engine, with one thread, over the same number of tokens; the memory is the peak of the whole process, packages included,
# as that is what has to fit the board. Predict both ratios first.
# %% [markdown] lang="zh"
# ## 3 · int8 的代价与收益
#
# 当两个 logit 很接近时，int8 的回复可能与 float32 不同。速度和内存是为每种引擎单独开一个进程、用单线程、在相同词元数上测得的；内存是整个
# 进程（包括各个软件包）的峰值，因为开发板要容纳的正是这些。请先预测两个比值。
# %%
speed_ratio = ...  # tokens per second, ONNX int8 over ONNX fp32
memory_ratio = ...  # peak memory of the process, ONNX int8 over ONNX fp32
### BEGIN SOLUTION
speed_ratio, memory_ratio = 1.5, 0.9
### END SOLUTION
speed_guess = labs.predict("8.p2", speed_ratio)
memory_guess = labs.predict("8.p3", memory_ratio)
# %%
said = {name: answers(engine, whole) for name, engine in engines.items()}
agree = {name: share(replies, said["PyTorch"]) for name, replies in said.items()}
ids = torch.tensor([words.encode(whole.format(message=asked[0].prompt))])
with torch.no_grad():
    exact = engines["PyTorch"](ids)
off = {name: ((engine(ids) - exact).norm() / exact.norm()).item() for name, engine in engines.items() if name != "PyTorch"}
for name, error in off.items():
    print(f"{name}: relative error of the logits {error:.1e}, same reply as PyTorch in {agree[name]:.0%}")
labs.record("parity", fp32=off["ONNX fp32"], int8=off["ONNX int8"], fp32_agree=agree["ONNX fp32"], int8_agree=agree["ONNX int8"])
# %%
keys = {"PyTorch": "torch", "ONNX fp32": "fp32", "ONNX int8": "int8"}
measured = {name: export.measure(folder, keys[name], sizes.bench) for name in labs.progress(keys, "measuring")}
panels = {
    "speed (tokens per second)": [measured[name]["tokens_per_second"] for name in keys],
    "peak memory (MiB)": [measured[name]["peak_mib"] for name in keys],
    "file of the weights (MiB)": [export.mib(folder / chat.ENGINES[key]) for key in keys.values()],
}
fig, axes = plots.figure(columns=3)
for ax, (label, values) in zip(axes, panels.items(), strict=True):
    plots.bars(list(keys), {label: values}, xlabel="engine", ylabel=label, ax=ax)
plots.show(
    fig,
    alt="Three bar charts for PyTorch, ONNX fp32 and ONNX int8: tokens per second, peak memory of the process, size of the file.",
)
# %%
ratios = {
    "speed": (speed_guess, panels["speed (tokens per second)"]),
    "memory": (memory_guess, panels["peak memory (MiB)"]),
    "file": (None, panels["file of the weights (MiB)"]),
}
for name, (guess, (_, fp32, int8)) in ratios.items():
    print(f"{name}: int8 over fp32 is {int8 / fp32:.2f}" + ("" if guess is None else f", you predicted {guess}"))
labs.record("measured", **{name: {"torch": t, "fp32": f, "int8": i} for name, (_, (t, f, i)) in ratios.items()})
# %% [markdown] lang="en"
# The file shrinks to about a quarter. The memory of the process hardly moves: with a model of a megabyte the packages are nearly
# all of it, and leaving PyTorch out is what makes the difference. With a billion parameters the weights dominate and int8
# decides whether the model fits. So measure at the size that you will ship.
#
# ## 4 · Chat
#
# `course/labs/chat.py` is what runs on the board. It needs `onnxruntime`, `tokenizers` and `numpy`, no PyTorch and nothing else
# of this course, which is why `chat_folder` has put a copy beside the model. Here its HTTP server answers a real request on this
# machine:
# %% [markdown] lang="zh"
# 文件缩小到大约四分之一，进程内存却几乎不变：模型只有一兆字节时，内存几乎都被软件包占用，真正起作用的是去掉 PyTorch。参数达到十亿级时，
# 权重占主导，能否装得下就取决于 int8。所以要在实际部署的规模上测量。
#
# ## 4 · 对话
#
# 开发板上运行的是 `course/labs/chat.py`。它只需要 `onnxruntime`、`tokenizers` 和 `numpy`，不需要 PyTorch，也不需要本课程的其他文件，
# 因此 `chat_folder` 已经在模型旁边放了一份副本。下面让它的 HTTP 服务器在本机回答一个真实的请求：
# %%
bot = chat.Chatbot(folder, "int8", threads=1)
talk = []
with export.serving(bot) as url:
    for message in ["hello, i am Ann.", "the capital of Norway is", *(item.prompt for item in asked[:4])]:
        answer = export.post(f"{url}/chat", {"message": message, "history": talk[-1:]})
        talk.append([message, answer["reply"]])
        print(f"you: {message!r}\nbot: {answer['reply']!r}   {answer['tokens']} tokens")
labs.record("http", reply=talk[0][1])


# %% [markdown] lang="en"
# In a terminal, from the repository: `python -m course.labs.chat --model build/chatbot`, or with `--http 8000` a page at
# `http://127.0.0.1:8000/`.
#
# **On the board** (Raspberry Pi 4 or 5, Raspberry Pi OS *64 bit*; a 32-bit system has no wheels of onnxruntime):
#
# ```
# scp -r build/chatbot pi@raspberrypi.local:                        # from your machine
# python3 -m venv chat && chat/bin/pip install "onnxruntime==1.19.2" tokenizers numpy     # the rest on the board, Python 3.9 to 3.12
# chat/bin/python chatbot/chat.py --model chatbot                   # in the terminal
# chat/bin/python chatbot/chat.py --model chatbot --http 8000 --host 0.0.0.0   # for the phones in the room
# chat/bin/python chatbot/chat.py --model chatbot --bench 64        # one line of JSON: your figures for the report
# ```
#
# Version 1.19.2 of onnxruntime is the one that ran this path in our emulated ARM test (qemu, not a board; a later one crashed
# there at import). `--host 0.0.0.0` lets everybody in the network in, without a password: stop it after class. No board? Any
# ARM machine, or `qemu-aarch64-static` with an ARM Python, runs the same commands; its speed says nothing about a board.
#
# **GGUF, optional.** For a Llama from the hub, `convert_hf_to_gguf.py` of llama.cpp makes a file of the merged folder and
# `llama-quantize` a 4-bit one for llama.cpp. We have not measured it: compare it with int8 on your board. Our word-level
# tokenizer is not among those that it knows, so the tiny model stays with ONNX.
# %% [markdown] lang="zh"
# 在终端中（位于仓库目录）：`python -m course.labs.chat --model build/chatbot`；加上 `--http 8000`，即可在
# `http://127.0.0.1:8000/` 打开网页。
#
# **在开发板上**（树莓派 4 或 5，*64 位* Raspberry Pi OS；32 位系统没有 onnxruntime 的安装包）：
#
# ```
# scp -r build/chatbot pi@raspberrypi.local:                        # 在你的电脑上
# python3 -m venv chat && chat/bin/pip install "onnxruntime==1.19.2" tokenizers numpy     # 以下在开发板上，Python 3.9 至 3.12
# chat/bin/python chatbot/chat.py --model chatbot                   # 终端对话
# chat/bin/python chatbot/chat.py --model chatbot --http 8000 --host 0.0.0.0   # 供教室里的手机访问
# chat/bin/python chatbot/chat.py --model chatbot --bench 64        # 一行 JSON：报告中要用的数字
# ```
#
# onnxruntime 1.19.2 是在我们的 ARM 模拟测试（qemu，不是真实开发板）中跑通这条流程的版本，更新的一个版本在那里导入时崩溃。
# `--host 0.0.0.0` 会让网络中的任何人不用密码就能访问：下课后请关闭。没有开发板？任何 ARM 机器，或者 `qemu-aarch64-static` 加上 ARM 版
# Python，都能运行同样的命令；模拟器的速度不能代表开发板。
#
# **GGUF（可选）。** 对于模型库中的 Llama，llama.cpp 的 `convert_hf_to_gguf.py` 可以把合并后的文件夹转换成一个文件，再由
# `llama-quantize` 变成供 llama.cpp 运行的 4 位文件。我们没有测量过它：请在你的开发板上与 int8 比较。我们的词级分词器不在它支持之列，
# 所以小模型仍然用 ONNX。
# %% [markdown] lang="en"
# ## 5 · What a cache would save
#
# Your loop calls the model with all ids so far at every step. A real device keeps the keys and values of earlier positions and
# computes each position once. The model below never ends a reply; it only counts the positions that it is asked to compute. Its
# tokenizer has a token for each byte.
#
# **Graded, 8.q1 (5 points).** Answer a list of two whole numbers: the positions that your `generate_reply` computes for the
# request below, and how many it would compute with a cache. (The last token that is chosen is never fed to the model.)
# %% [markdown] lang="zh"
# ## 5 · 缓存能省多少
#
# 你的循环每一步都把到目前为止的全部 id 交给模型。实际设备会保留之前各位置的键和值，每个位置只计算一次。下面的模型永远不会结束回复，
# 它只统计被要求计算的位置数；它的分词器为每个字节设一个词元。
#
# **计分题 8.q1（5 分）。** 请回答由两个整数组成的列表：你的 `generate_reply` 处理下面的请求时计算的位置数，以及使用缓存时会计算的位置数。
# （最后选出的那个词元不会再输入模型。）
# %%
class Bytes:
    eos_id = 256

    def encode(self, message):
        return list(message.encode())

    def decode(self, ids):
        return bytes(ids).decode()


class Counter:
    def __init__(self):
        self.lengths = []

    def __call__(self, ids):
        self.lengths.append(ids.shape[1])
        return torch.nn.functional.one_hot(torch.full(ids.shape, ord("a")), 257).double()  # it says "a", again and again


counter = Counter()
request = {"template": "Q: {message}\nA: ", "message": "and of Italy?", "history": [("the capital of France?", "Paris")]}
lab.generate_reply(counter, Bytes(), max_new_tokens=40, **request)
print("lengths of the first calls:", counter.lengths[:3])
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
answer = ...  # [without a cache, with a cache]
### BEGIN SOLUTION
answer = [sum(counter.lengths), counter.lengths[-1]]
### END SOLUTION
labs.answer("8.q1", answer)


# %% [markdown] lang="en"
# ## 6 · Federated: averages of factors
#
# Clients train adapters on data that they keep. The average of what they learned is $\sum_k w_k B_k A_k$; averaging the
# factors gives $\bar B \bar A$ (both times $\alpha / r$, paper: FedEx-LoRA). Your `fedavg_exact` returns the averaged factors and
# the residual $R$ between the two, which is all that the relative error needs:
#
# $$\text{error} = \frac{\lVert R \rVert}{\lVert \sum_k w_k \Delta W_k \rVert}, \qquad \lVert \cdot \rVert^2 \text{ summed over all layers}$$
# %% [markdown] lang="zh"
# ## 6 · 联邦：因子的平均
#
# 各客户端用自己保留的数据训练适配器。它们共同学到的平均是 $\sum_k w_k B_k A_k$ ，而平均因子给出的是 $\bar B \bar A$ （两者都乘以
# $\alpha / r$ ，见 FedEx-LoRA 论文）。你的 `fedavg_exact` 返回平均后的因子以及两者之间的残差 $R$ ，计算相对误差只需要这些：
#
# $$\text{误差} = \frac{\lVert R \rVert}{\lVert \sum_k w_k \Delta W_k \rVert}, \qquad \lVert \cdot \rVert^2 \text{ 对所有层求和}$$
# %%
def relative_error(clients):
    """Clients: for each, by layer, its Adapter."""
    lacking = total = 0.0
    for layer in clients[0]:
        averaged, residual = lab.fedavg_exact([client[layer] for client in clients], [1] * len(clients))
        lacking += float(residual.square().sum())
        total += float((adapters.update(averaged) + residual).square().sum())
    return (lacking / total) ** 0.5


def stranger(seed, width=64, rank=4):
    """A client whose factors have nothing to do with anybody else's."""
    draw = torch.Generator().manual_seed(seed)
    return {"layer": lab.Adapter(torch.randn(rank, width, generator=draw), torch.randn(width, rank, generator=draw), 8.0)}


error_of_strangers = ...  # your prediction for 4 clients with independent random factors, as a share (0 to 1 or more)
### BEGIN SOLUTION
error_of_strangers = 0.5
### END SOLUTION
predicted_error = labs.predict("8.p4", error_of_strangers)
# %%
counts = [2, 4, 8, 16, 32]
draws = [[relative_error([stranger(count * draw + k) for k in range(count)]) for count in counts] for draw in range(20)]
found = np.mean(draws, axis=0)
theory = [(1 - 1 / count) ** 0.5 for count in counts]
fig = plots.lines(
    counts, {"measured (mean of 20 draws)": found, "√(1 − 1/K)": theory}, xscale="log", predicted=(4, predicted_error),
    xlabel="clients K", ylabel="relative error of averaged factors", title="Independent random factors",
)  # fmt: skip
plots.show(
    fig,
    alt="The relative error of averaged factors of independent clients rises with their number along the square root of 1 minus 1 over K.",
)
labs.record("strangers", measured=found, theory=theory)
# %% [markdown] lang="en"
# Real clients are not strangers: they begin with the same factors. Four clients train on a task each, or on the same mix of
# tasks, and we look at the error while they drift apart. The third setting lets each draw its own starting point.
# %% [markdown] lang="zh"
# 真实的客户端并非毫无关系：它们从相同的因子出发。下面四个客户端分别在各自的任务、或在相同的混合任务上训练，我们观察它们逐渐偏离时的误差。
# 第三种设置让每个客户端各自抽取起点。
# %%
TASKS = ["stars", "pirate", "double", "negate"]


def train(name, examples, start):
    """One client: its own copy of the model, its own data; its factors after each of sizes.local_steps."""
    model, tokenizer = text.base_model()
    model = text.lora(model, sizes.client_rank, 2 * sizes.client_rank, "all-linear", seed=start)
    states = {}
    batches = text.length_batches(examples, tokenizer, sizes.client_batch)
    watched = adapters.snapshots(batches, sizes.local_steps, lambda: adapters.factors(model, lab.Adapter), states)
    training.fit(model, watched, max(sizes.local_steps) + 1, sizes.client_rate, name=f"week08-{name}", log=False)
    return states


def mixed(seed):
    return [request.example() for request in text.alpaca(sizes.client_examples, seed)]


own = {task: text.examples(task, sizes.client_examples) for task in TASKS}
runs = {
    "own tasks, own starts": [train(task, own[task], start) for start, task in enumerate(TASKS)],
    "own tasks, one start": [train(task, own[task], 0) for task in TASKS],
    "one mix of tasks, one start": [train(f"mix-{seed}", mixed(seed), 0) for seed in range(4)],
}
# %%
drift = {
    name: [relative_error([states[step] for states in clients]) for step in sizes.local_steps] for name, clients in runs.items()
}
limit = {"√(1 − 1/4)": [0.75**0.5] * len(sizes.local_steps)}
fig = plots.lines(
    sizes.local_steps, drift | limit, xscale="log", xlabel="local steps before averaging",
    ylabel="relative error of averaged factors", title="Four clients drift apart",
)  # fmt: skip
plots.show(
    fig,
    alt="Error of averaged factors over local steps: near 0.85 from the first steps with own starts, rising from small values with one start, slowest with one mix of tasks.",
)
labs.record("drift", **{name.replace(" ", "_").replace(",", ""): values for name, values in drift.items()})


# %% [markdown] lang="en"
# Now what it means for the model. FedEx-LoRA's residual and FLoRA's stack both give the exact average; the plain average of
# factors does not. The base with each of the updates is scored by its loss on held-out examples of the four tasks, for the
# clients with starts of their own.
# %% [markdown] lang="zh"
# 再看它对模型意味着什么。FedEx-LoRA 的残差和 FLoRA 的堆叠都给出精确的平均，直接平均因子则不然。这里取各有起点的那组客户端，把每种更新量加到
# 底座上，用四个任务的留出样本上的损失来评价。
# %%
def aggregate(clients):
    """The update of each layer in three ways."""
    ways = {"averaged factors": {}, "exact (residual)": {}, "exact (stacked)": {}}
    for layer in clients[0]:
        mine = [client[layer] for client in clients]
        averaged, residual = lab.fedavg_exact(mine, [1] * len(mine))
        ways["averaged factors"][layer] = adapters.update(lab.fedavg_factors(mine, [1] * len(mine)))
        ways["exact (residual)"][layer] = adapters.update(averaged) + residual
        ways["exact (stacked)"][layer] = adapters.update(lab.stack_adapters(mine, [1] * len(mine)))
    return ways


def task_loss(model, task):
    return text.mean_loss(model, tokenizer, text.examples(task, 100, part="test"))


base, tokenizer = text.base_model()
final = {name: [states[sizes.local_steps[-1]] for states in clients] for name, clients in runs.items()}
ways = aggregate(final["own tasks, own starts"])
losses = {"base": [task_loss(base, task) for task in TASKS]}
for name, updates in ways.items():
    model = adapters.added(base, updates)
    losses[name] = [task_loss(model, task) for task in TASKS]
# %%
fig = plots.bars(
    TASKS, losses, xlabel="task (one client each)", ylabel="loss (nats per token)", title="One round, four clients, own starts"
)
fig.axes[0].set_ylim(0, 1.5 * max(losses["base"]))  # room for the legend
plots.show(
    fig,
    alt="Loss on each client's task for the base, averaged factors, and the exact average by residual and by stacking; the two exact ones are equal.",
)
apart = max(
    (ways["exact (residual)"][layer] - ways["exact (stacked)"][layer]).abs().max().item() for layer in ways["exact (stacked)"]
)
print(f"residual and stack differ by at most {apart:.1e}")
labs.record(
    "round", apart=apart, **{name.split(" ")[0] + name.split(" ")[-1].strip("()"): values for name, values in losses.items()}
)


# %% [markdown] lang="en"
# **Graded, 8.q2 (5 points).** The server can send $R$ as a matrix, or as factors of $R$'s own rank. Find that rank for the three
# groups of five clients below (rank 3 each, samples 1 to 5) with your `fedavg_exact` and the function `rank`: clients that are
# independent; clients that share one $A$; and independent clients of which the fifth is a copy of the first. Why are they what
# they are? Compare with $\sum_k w_k (B_k - \bar B)(A_k - \bar A)$.
# %% [markdown] lang="zh"
# **计分题 8.q2（5 分）。** 服务器可以把 $R$ 作为矩阵发送，也可以分解成秩等于 $R$ 的秩的两个因子。请用你的 `fedavg_exact` 和函数 `rank`，
# 求出下面三组客户端（每组五个，秩均为 3，样本数为 1 到 5）的这个秩：各自独立的客户端；共享同一个 $A$ 的客户端；以及第五个是第一个的副本、
# 其余独立的客户端。为什么是这些数？请与 $\sum_k w_k (B_k - \bar B)(A_k - \bar A)$ 对照。
# %%
def rank(matrix):
    return int(torch.linalg.matrix_rank(matrix, atol=1e-9))


draw = torch.Generator().manual_seed(8)
five = [lab.Adapter(*(torch.randn(*shape, generator=draw).double() for shape in ((3, 40), (30, 3))), 6.0) for _ in range(5)]
groups = {"independent": five, "one A": [five[0]._replace(lora_B=one.lora_B) for one in five], "twins": [*five[:4], five[0]]}
samples = [1, 2, 3, 4, 5]
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
answer = ...  # a list of three whole numbers, in the order of `groups`
### BEGIN SOLUTION
answer = [rank(lab.fedavg_exact(clients, samples)[1]) for clients in groups.values()]
### END SOLUTION
labs.answer("8.q2", answer)


# %% [markdown] lang="en"
# ### Privacy noise, in short
#
# Client-level differential privacy clips each client's update to norm $C$ and adds noise of standard deviation $\sigma C / K$ to
# each number of the average (task 8.5, stretch). The factors of one adapter hold many numbers, so the noise as a whole has
# about $\sqrt{n}$ times that norm. Below, one client's trained factors stand for the average of $K$ that agree, with $\sigma = 1$.
# Either both factors are noisy, or only $B$, with $A$ frozen and shared (FFA-LoRA, Sun et al. 2024, arXiv:2403.12313).
# %% [markdown] lang="zh"
# ### 隐私噪声简介
#
# 客户端级差分隐私把每个客户端的更新裁剪到范数 $C$ ，并给平均值中的每个数加上标准差为 $\sigma C / K$ 的噪声（任务 8.5，拓展任务）。
# 一个适配器的因子包含很多数，所以噪声整体的范数大约是它的 $\sqrt{n}$ 倍。下面用一个客户端训练好的因子代表 $K$ 个意见一致的客户端的平均，
# 取 $\sigma = 1$ 。要么两个因子都加噪声，要么冻结并共享 $A$ 、只给 $B$ 加噪声（FFA-LoRA，Sun 等，2024，arXiv:2403.12313）。
# %%
def noisy_error(clients, both, sigma=1.0):
    """Relative error of all updates together when the average of `clients` equal clients is made private."""
    trained, start = final["own tasks, one start"][0], first_state
    moved = {layer: (one.lora_A - start[layer].lora_A, one.lora_B - start[layer].lora_B) for layer, one in trained.items()}
    clip = sum(float(dB.square().sum() + both * dA.square().sum()) for dA, dB in moved.values()) ** 0.5
    draw, off, total = torch.Generator().manual_seed(0), 0.0, 0.0
    for one in trained.values():
        noise = [torch.randn(part.shape, generator=draw).to(part) * sigma * clip / clients for part in (one.lora_A, one.lora_B)]
        noised = lab.Adapter(one.lora_A + both * noise[0], one.lora_B + noise[1], one.alpha)
        off += float((adapters.update(noised) - adapters.update(one)).square().sum())
        total += float(adapters.update(one).square().sum())
    return (off / total) ** 0.5


model, _ = text.base_model()
first_state = adapters.factors(text.lora(model, sizes.client_rank, 2 * sizes.client_rank, "all-linear", seed=0), lab.Adapter)
many = [10, 100, 1000, 10_000, 100_000]
private = {"noise in A and B": [noisy_error(k, True) for k in many], "noise in B alone": [noisy_error(k, False) for k in many]}
fig = plots.lines(
    many,
    private,
    xscale="log",
    yscale="log",
    xlabel="clients in a round",
    ylabel="relative error of the update",
    title="Client-level noise, σ = 1",
)
plots.show(
    fig,
    alt="On logarithmic axes, the relative error by privacy noise falls with the number of clients; it is above 1 for few clients, and larger where both factors are noisy.",
)
labs.record("private", **{name.replace(" ", "_"): values for name, values in private.items()})
# %% [markdown] lang="en"
# With a class of clients the noise is many times the update; the method is for thousands. And noise is only the mechanism: the
# guarantee comes from an accountant. A small error here promises no privacy.
#
# ## 7 · LoRA-Gen, in short
#
# Your `LoRAGenerator` writes the factors of every layer from a description of the task. Here the description $t$ is the mean of
# the base model's own word embeddings over the instruction, and the generator is trained through `reparameterize`,
# $W_l' = W_l + \frac{\alpha}{r} B_l A_l$, on three tasks at once; the base stays frozen. The layers are the up and gate
# projections, which have one shape.
# %% [markdown] lang="zh"
# 只有一个班级那么多的客户端时，噪声比更新量还大；这种方法适用于成千上万的客户端。而且噪声只是机制，隐私保证来自隐私核算；这里误差小，
# 并不表示隐私得到了保证。
#
# ## 7 · LoRA-Gen 简介
#
# 你的 `LoRAGenerator` 由任务描述写出每一层的因子。这里的描述 $t$ 取指令中各词在底座模型自身词嵌入上的平均；生成器通过 `reparameterize`，
# 即 $W_l' = W_l + \frac{\alpha}{r} B_l A_l$ ，同时在三个任务上训练，底座保持冻结。作用的层是形状相同的上投影和门控投影。
# %%
DESCRIPTIONS = {"stars": "how many stars?", "double": "say each word twice.", "negate": "say the opposite."}
base.requires_grad_(False)
layers = {name: w for name, w in base.named_parameters() if "up_proj" in name or "gate_proj" in name}
rows, columns = next(iter(layers.values())).shape
embedding = base.get_input_embeddings().weight


def describe(task):
    ids = tokenizer.encode(DESCRIPTIONS[task], add_special_tokens=False)
    return torch.nn.functional.normalize(embedding[ids].float().mean(0), dim=0) * embedding.shape[1] ** 0.5


torch.manual_seed(0)
shape = (embedding.shape[1], len(layers), sizes.experts, columns, rows, sizes.expert_rank, 2.0 * sizes.expert_rank, 2)
generator = lab.LoRAGenerator(*shape).to(embedding.device)


# %%
def generated(task):
    weights = [w.float() for w in layers.values()]
    return dict(zip(layers, generator.reparameterize(describe(task), weights), strict=True))


def specialised_loss(_, pair):
    (task,), batch = pair
    return functional_call(base, generated(task), (), batch).loss


streams = {task: text.length_batches(text.examples(task, 256), tokenizer, 16) for task in DESCRIPTIONS}
turns = (((task,), next(streams[task])) for _ in range(sizes.gen_steps) for task in DESCRIPTIONS)
learned = training.fit(generator, turns, sizes.gen_steps, sizes.gen_rate, name="week08-generator", loss=specialised_loss)
# %%
table = [[task_loss(base, task) for task in DESCRIPTIONS]]
for task in DESCRIPTIONS:
    with torch.no_grad():
        special = adapters.added(base, {name: new - layers[name].float() for name, new in generated(task).items()})
    table.append([task_loss(special, other) for other in DESCRIPTIONS])
fig = plots.heatmap(
    table, xlabel="scored on", ylabel="description given", label="loss (nats per token)", numbers=True,
    xticks=list(DESCRIPTIONS), yticks=["none (base)", *DESCRIPTIONS], title="One generator, three adapters",
)  # fmt: skip
plots.show(
    fig,
    alt="Heat map of the loss of the base and of three generated models on three tasks: each task has its lowest loss with the model that was generated from its description.",
)
pieces = sum(p.numel() for p in generator.parameters())
each = len(layers) * sizes.expert_rank * (rows + columns)
print(f"generator {pieces} parameters; one LoRA of this rank {each}, three of them {3 * each}; added to the model at run time 0")
labs.record("generator", table=table, parameters=pieces, one_lora=each)
# %% [markdown] lang="en"
# The generator's size does not depend on the number of tasks, which is what a bank is for. But a new task has to be near the old
# ones: a description unlike all that it was trained on gets a mixture of experts that nobody has tried.
#
# ## 8 · Written answer
#
# **Graded, 8.q3 (5 points).** Your bot goes to a hundred boards in a hospital, and each board shall learn from its own
# conversations. Write about 200 words: which engine and format do you ship, and how do the boards' adapters come together?
#
# | Points | For |
# |---|---|
# | 1 | the choice of format rests on your measured speed, memory and agreement, with numbers and the machine named |
# | 1 | says what would change with a model of a billion parameters, and why |
# | 2 | chooses an aggregation by the drift that you measured (starts, local steps) and says what it costs to send |
# | 1 | says what leaves the board and what noise for a hundred clients does to it; does not claim privacy from noise alone |
# %% [markdown] lang="zh"
# 生成器的大小与任务数量无关，这正是专家库的意义。但新任务必须与旧任务相近：如果描述与训练时见过的都不相似，得到的只是一种没人试过的专家混合。
#
# ## 8 · 书面题
#
# **计分题 8.q3（5 分）。** 你的机器人将部署到一家医院的一百块开发板上，每块板要从自己的对话中学习。请写大约 300 字：你选择哪种引擎和格式？
# 各板的适配器如何汇总？
#
# | 分数 | 要求 |
# |---|---|
# | 1 | 格式的选择以你测得的速度、内存和一致率为依据，给出数字并注明机器 |
# | 1 | 说明模型有十亿参数时结论会怎样改变，原因是什么 |
# | 2 | 根据你测得的偏离情况（起点、本地步数）选择聚合方法，并说明发送的代价 |
# | 1 | 说明哪些内容会离开开发板，以及一百个客户端时噪声有什么影响；不把噪声本身当作隐私保证 |
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# (A model answer; figures are those of one run on two cores.) I ship the int8 file: about a quarter of the size of fp32, not
# slower here, and nearly all replies are the same as PyTorch's. Memory does not decide: both ONNX processes take about 75 MiB,
# nearly all of it packages; dropping PyTorch saved about 300 MiB. With a billion parameters fp32 weights are 4 GB and int8 ones
# 1 GB, so on a 4 GB board int8 is then the only choice, and the cache of keys and values becomes necessary too.
#
# All boards start a round from the same factors and train a few steps, where averaged factors were off by some ten per cent;
# with starts of their own they were off by over 80 per cent, so I would never let boards draw their own start. As hospitals'
# wards differ, I use the exact average: the server receives the factors (r (d_in + d_out) numbers for each layer and board),
# merges the weighted sum into the weights and sends the merged difference, which is as large as the weights, once a round. If
# that is too much, A is frozen and shared: then averaging B is exact.
#
# Only factors leave a board, but they can reveal conversations. With a hundred clients, noise at sigma 1 was about as large as the
# update, so it would destroy what was learned; less noise without an accountant promises nothing. I would say so, and keep the
# adapters on the boards until there are more clients or consent.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# （参考答案；数字来自一次双核机器上的运行。）我选择 int8 文件：大小约为 fp32 的四分之一，在这里速度不低于 fp32，几乎所有回复与 PyTorch 相同。
# 内存不是决定因素：两个 ONNX 进程都约为 75 MiB，几乎全是软件包；去掉 PyTorch 才省下约 300 MiB。参数达到十亿时，fp32 权重约 4 GB，int8 约
# 1 GB，在 4 GB 的板上就只能用 int8，键值缓存也变得必要。
#
# 每一轮所有板从相同的因子出发，只训练少量步数，此时平均因子的误差为百分之十几到几十；若各自抽取起点，误差超过 80%，所以绝不能让各板自选起点。
# 各科室的数据不同，我采用精确平均：服务器收集因子（每层每板 r (d_in + d_out) 个数），把加权和合并进权重，每轮发送一次合并后的差，其大小与权重
# 相同。如果太大，就冻结并共享 A，这时平均 B 就是精确的。
#
# 离开开发板的只有因子，但因子也可能泄露对话。一百个客户端、sigma 为 1 时，噪声与更新量差不多大，会毁掉学到的内容；而减小噪声又没有隐私核算，
# 就没有任何保证。我会如实说明，在客户端更多或取得同意之前，适配器留在各板上。
# %% [markdown] lang="en"
# ## Where this breaks
#
# - The model has less than a million parameters. Ratios of speed and memory do not carry over to a billion; the template, the
#   drift and the algebra of averages do.
# - Speed depends on the machine and on what else runs on it: measure twice, and on the board. int8 is faster only where the
#   processor has instructions for it, and small matrices leave little to win.
# - There is no cache, no batching of requests, no filter of what the bot says.
# - The aggregation is one round. Over many rounds, averaged factors bring the clients back to one start each time.
# - `LAB_PROFILE=full` takes the model of LAB_LLAMA. Llama-2-7B fits no board, in int8 neither; a model of one billion parameters
#   (`LAB_LLAMA=TinyLlama/TinyLlama-1.1B-Chat-v1.0`) fits one of 4 GB in int8. This profile has not been run on a board.
# %% [markdown] lang="zh"
# ## 局限
#
# - 这个模型不到一百万参数。速度和内存的比值不能推广到十亿参数；模板、偏离和平均的代数关系则可以。
# - 速度取决于机器和同时运行的其他程序：请测两次，并在开发板上测量。只有处理器有相应指令时 int8 才更快，矩阵小则收益有限。
# - 没有缓存，没有请求批处理，也没有对机器人回复的过滤。
# - 聚合只做了一轮。多轮训练时，平均因子每一轮都会把各客户端带回同一个起点。
# - `LAB_PROFILE=full` 使用 LAB_LLAMA 指定的模型。Llama-2-7B 即使用 int8 也装不进任何一块板；十亿参数的模型
#   （`LAB_LLAMA=TinyLlama/TinyLlama-1.1B-Chat-v1.0`）用 int8 可以装进 4 GB 的板。该配置没有在开发板上运行过。
