# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Week 1 lab · What fine-tuning costs, from 7B to 175B
#
# Afterwards you can
#
# - set up a cost table for any model: what trains, what it takes in memory, which card holds it;
# - place a method in its family: additive, selective, reparameterised;
# - say what LoRA saves and what it does not: memory, hardly any arithmetic in the forward pass;
# - report the energy of a run with the assumptions behind it.
#
# **Your file.** The numbers come from your `exercises/week01/cost_model.py`, tasks 1.1 to 1.4. Where they are not finished, the next code
# cell says so. Models stand on PyTorch's *meta device*: all shapes, no memory, so that even GPT-3 can be counted here. The notebook takes
# about a minute on one CPU core. Lecture: `course/week01/lecture.md`.
#
# Write each prediction *before* you run the cell below it. Predictions bear no marks. The questions 1.q1 to 1.q3 do.
# %% [markdown] lang="zh"
# # 第 1 周实验 · 微调的代价：从 7B 到 175B
#
# 完成后你应当能够：
#
# - 为任意模型编制成本表：训练多少参数，占多少显存，哪种显卡装得下；
# - 判断一种方法属于哪一类：加法类、选择类、重参数化类；
# - 说清 LoRA 省什么、不省什么：省的是显存，前向计算几乎不省；
# - 报告一次训练的能耗，并写明所用假设。
#
# **你的代码。** 所有数字都由你的 `exercises/week01/cost_model.py`（任务 1.1 至 1.4）算出。若有未完成的任务，下一个代码单元格会给出提示。模型放在 PyTorch 的 *meta
# 设备*上：形状齐全而不占内存，因此在这里连 GPT-3 也数得过来。整个笔记本在单个 CPU 核上约需一分钟。讲义：`course/week01/lecture.zh.md`。
#
# 请在运行单元格*之前*写下预测。预测不计分，计分的是 1.q1 至 1.q3 三道题。
# %%
from course import labs
from course.labs import architectures, meters, plots, text, training

cost = labs.student(1)
sizes = labs.sizes(1)
# %% [markdown] lang="en"
# ## 1 · Cost tables
#
# For each matrix $W_0$ of shape $d_{\text{out}} \times d_{\text{in}}$ LoRA trains $r (d_{\text{out}} + d_{\text{in}})$ numbers, and training keeps
#
# $$M = M_{\text{weights}} + M_{\text{LoRA}} + M_{\text{gradients}} + M_{\text{optimizer}}$$
#
# **Grouped-query attention.** Llama-2-70B has 64 query heads and only 8 key and value heads of the same width. So k and v are matrices of
# 1024 × 8192 where q is 8192 × 8192. Read shapes off the model; do not assume that they are square.
#
# **4.127 bits.** QLoRA stores a weight in 4 bits, plus 8 bits for each block of 64, plus 32 bits for each 256 of those: 4.127 bits together.
# That holds for the matrices in the blocks. Embedding, head and norms stay at 16 bits.
#
# **Prediction 1.p1.** How many of the four models can be fine-tuned *in full*, in mixed precision, on one card of 80 GB?
# %% [markdown] lang="zh"
# ## 1 · 成本表
#
# 对每个形状为 $d_{\text{out}} \times d_{\text{in}}$ 的矩阵 $W_0$ ，LoRA 训练 $r (d_{\text{out}} + d_{\text{in}})$ 个数；训练时显存中有
#
# $$M = M_{\text{weights}} + M_{\text{LoRA}} + M_{\text{gradients}} + M_{\text{optimizer}}$$
#
# **分组查询注意力。** Llama-2-70B 有 64 个查询头，而键头和值头各只有 8 个，每个头的宽度相同。因此 q 是 8192 × 8192，k 和 v 只是 1024 × 8192。形状要从模型中读取，不要想当然地当成方阵。
#
# **4.127 位。** QLoRA 用 4 位存一个权重，每 64 个权重为一块另加 8 位，每 256 个这样的常数再加 32 位，合计 4.127 位。这只适用于各块中的矩阵；嵌入层、输出头和归一化层仍是 16 位。
#
# **预测 1.p1。** 四个模型中，有几个可以在一块 80 GB 的显卡上做混合精度的*全量*微调？
# %%
fit_in_80_gb = ...  # 0 to 4
### BEGIN SOLUTION
fit_in_80_gb = 1
### END SOLUTION
guess_1 = labs.predict("1.p1", fit_in_80_gb)


# %%
def cost_table(name, rank):
    """Parameters, and memory in GB by recipe, with LoRA on all matrices of the blocks."""
    model = architectures.blueprint(name)
    shapes = architectures.matrices(model)
    total = cost.count_parameters(model)["total"]
    lora = cost.lora_parameter_count(shapes, rank)
    in_blocks = sum(d_out * d_in for d_out, d_in in shapes)
    return {
        "total": total,
        "lora": lora,
        "full": cost.training_memory(total, total, "full_mixed", unit="GB"),
        "LoRA": cost.training_memory(total, lora, "lora", unit="GB"),
        "QLoRA": cost.training_memory(total, lora, "qlora", in_blocks, unit="GB"),
    }


recipes = ["full", "LoRA", "QLoRA"]
tables = {name: cost_table(name, sizes.rank) for name in labs.progress(architectures.NAMES, "models")}
print(f"{'model':12}{'parameters':>17}{'LoRA trains':>14}" + "".join(f"{recipe + ', GB':>12}" for recipe in recipes))
for name, table in tables.items():
    print(f"{name:12}{table['total']:17,}{table['lora']:14,}" + "".join(f"{table[recipe]['total']:12,.1f}" for recipe in recipes))
labs.record("tables", **tables)
# %%
fig, axes = plots.figure(2, figsize=(10.5, 3.8))
totals = {recipe: [table[recipe]["total"] for table in tables.values()] for recipe in recipes}
plots.bars(
    list(tables), totals, xlabel="model", ylabel="memory without activations, GB", yscale="log",
    title="Training, by recipe", ax=axes[0],
)  # fmt: skip
for gigabytes in (24, 80):
    axes[0].axhline(gigabytes, color="black", linestyle="--", linewidth=1)
    axes[0].text(1.01, gigabytes, f"{gigabytes} GB", va="center", transform=axes[0].get_yaxis_transform())
parts = ["weights", "lora", "gradients", "optimizer"]
small = tables["Llama-2-7B"]
plots.bars(
    recipes, {part: [small[recipe][part] for recipe in recipes] for part in parts},
    xlabel="recipe", ylabel="memory, GB", title="Llama-2-7B, part by part", ax=axes[1],
)  # fmt: skip
plots.show(
    fig,
    alt="Left: memory of four models by recipe, and cards of 24 and 80 GB. Right: for 7B in full the optimizer takes the most",
)
fits = {recipe: sum(memory <= 80 for memory in values) for recipe, values in totals.items()}
print("models that fit into 80 GB:", fits, "| you predicted for full:", guess_1)
# %% [markdown] lang="en"
# In full not even 7B fits: 16 bytes a parameter are 108 GB. LoRA takes away gradients and optimizer states but keeps the weights at two
# bytes; below that only a quantised base goes. And all of this is without activations, which grow with batch and length.
#
# **Prediction 1.p2.** As models grow, does the *share* of parameters that LoRA of a fixed rank trains grow (`True`) or fall (`False`)?
# %% [markdown] lang="zh"
# 全量微调连 7B 也装不下：每个参数 16 字节，共 108 GB。LoRA 省去了梯度和优化器状态，权重仍是每个两字节；要再往下，只能量化底座。以上都不含激活值，激活值随批大小和序列长度增长。
#
# **预测 1.p2。** 秩固定时，模型越大，LoRA 训练的参数*占比*是上升（`True`）还是下降（`False`）？
# %%
share_grows = ...  # True or False
### BEGIN SOLUTION
share_grows = False
### END SOLUTION
guess_2 = labs.predict("1.p2", share_grows)
# %%
billions = [round(table["total"] / 1e9, 1) for table in tables.values()]
share = {f"all matrices, r = {sizes.rank}": [100 * table["lora"] / table["total"] for table in tables.values()]}
share["q and v, r = 4"] = [
    100 * cost.lora_parameter_count(architectures.matrices(architectures.blueprint(name), "q_proj", "v_proj"), 4) / table["total"]
    for name, table in tables.items()
]
fig = plots.lines(
    billions, share, xlabel="parameters of the model, billions", ylabel="share that trains, %", xscale="log", yscale="log",
    title="The same rank is a smaller share of a larger model",
)  # fmt: skip
plots.show(fig, alt="The share that LoRA trains falls from 0.6 to 0.2 percent between 7B and 175B, for q and v from 0.03 to 0.01")
print("you predicted that it", {True: "grows", False: "falls", None: "..."}[guess_2])
labs.record("share", **share)
# %% [markdown] lang="en"
# A matrix has $d^2$ entries and its factors $2 r d$: the share is about $2 r / d$, and $d$ grows with the model.
#
# **Question 1.q1.** LoRA of rank 64 on q, k, v and o of `Llama-2-70B`. By how many trainable parameters would the adapter grow if the model had
# *no* grouped-query attention, that is 64 key and value heads instead of 8? `architectures.matrices(model, "q_proj", ...)` gives shapes.
# %% [markdown] lang="zh"
# 一个矩阵有 $d^2$ 个元素，两个因子共有 $2 r d$ 个：占比约为 $2 r / d$ ，而 $d$ 随模型增大。
#
# **问题 1.q1。** 在 `Llama-2-70B` 的 q、k、v、o 上使用秩 64 的 LoRA。假如这个模型*没有*分组查询注意力，即键头和值头也各有 64 个而不是 8 个，适配器会多出多少个可训练参数？
# `architectures.matrices(model, "q_proj", ...)` 给出形状。
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
more_parameters = ...  # a whole number
### BEGIN SOLUTION
attention = architectures.matrices(architectures.blueprint("Llama-2-70B"), "q_proj", "k_proj", "v_proj", "o_proj")
ungrouped = [(8192, 8192) for _ in attention]
more_parameters = cost.lora_parameter_count(ungrouped, 64) - cost.lora_parameter_count(attention, 64)
### END SOLUTION
labs.answer("1.q1", more_parameters)
# %% [markdown] lang="en"
# **Question 1.q2.** QLoRA of `Llama-2-70B` with LoRA on all matrices of the blocks. What is the largest rank whose memory (weights, factors,
# gradients, optimizer; no activations) stays below 48 GB, that is $48 \cdot 10^9$ bytes?
# %% [markdown] lang="zh"
# **问题 1.q2。** 用 QLoRA 微调 `Llama-2-70B`，LoRA 放在各块的全部矩阵上。要使显存（权重、因子、梯度、优化器，不含激活值）低于 48 GB，即 $48 \cdot 10^9$ 字节，秩最大可以取多少？
# %% nbgrader={"grade_id": "q2", "grade": true, "solution": true}
largest_rank = ...  # a whole number
### BEGIN SOLUTION
largest_rank = max(rank for rank in range(1, 129) if cost_table("Llama-2-70B", rank)["QLoRA"]["total"] < 48)
### END SOLUTION
labs.answer("1.q2", largest_rank)
# %% [markdown] lang="en"
# ## 2 · Three families
#
# Lialin et al. (2023) sort methods by *what* trains: new parts (additive), some of the old parameters (selective), or an update in a form
# with few parameters (reparameterised). Each row below is `Llama-2-7B` prepared by one method; the counts are those of your
# `count_parameters`.
# %% [markdown] lang="zh"
# ## 2 · 三类方法
#
# Lialin 等（2023）按“训练*什么*”给方法分类：新增的部分（加法类）、原有参数中的一部分（选择类）、用少量参数表示的更新量（重参数化类）。下面每一行都是用一种方法处理过的
# `Llama-2-7B`，参数量由你的 `count_parameters` 统计。
# %%
counted = []
for family, method, model in labs.progress(architectures.families("Llama-2-7B"), "methods", total=8):
    counted.append((family, method, cost.count_parameters(model)))
for family, method, count in counted:
    print(f"{family:17}{method:24}{count['trainable']:13,}  {count['percent']:8.4f} %")

names = [method for _, method, _ in counted]
groups = {
    family: [count["percent"] if own == family else 0 for own, _, count in counted]
    for family in ("additive", "selective", "reparameterised")
}
labs.record("families", **{method: count["trainable"] for _, method, count in counted})
# %%
fig, ax = plots.figure(figsize=(7.5, 3.8))
for place, (family, percents) in enumerate(groups.items()):
    ax.barh(names, percents, color=plots.COLOURS[place], label=family)
ax.set(xscale="log", xlabel="share of the parameters that trains, % of Llama-2-7B", ylabel="method")
ax.invert_yaxis()
ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
plots.show(fig, alt="Shares on a log scale: prompt tuning 0.001 percent, the last block 3 percent, BitFit without a bar")
# %% [markdown] lang="en"
# BitFit has no bar: Llama has no biases, and a method that trains them trains nothing. A small share is not a merit in itself: it says
# nothing yet of how well the method learns (week 3), nor of what it costs *after* training: adapters and prefixes stay in the way
# of every call, LoRA can be merged.
#
# ## 3 · What LoRA does not save
#
# Memory is one cost, arithmetic another. One training step is a forward pass, the gradient by the activations, and the gradient by the
# weights; for one matrix each of the three costs the same. LoRA needs the first two in full and the third only for its factors.
# PyTorch can count the operations of a step on the meta device, without doing them.
#
# **Prediction 1.p3.** LoRA with $r = 16$ trains 0.59 % of `Llama-2-7B`. What share of a full step's *operations* does its step take (0 to 1)?
# %% [markdown] lang="zh"
# BitFit 没有条形：Llama 没有偏置，只训练偏置就等于什么也不训练。占比小本身并不是优点：它没有说明方法学得好不好（第 3 周），也没有说明训练*之后*的代价——适配器和前缀在每次调用时都要经过，
# LoRA 则可以合并。
#
# ## 3 · LoRA 不省什么
#
# 显存是一种代价，计算量是另一种。一步训练包括前向计算、对激活值求梯度、对权重求梯度；就一个矩阵而言，三者的计算量相同。LoRA 的前两项一点不少，第三项只需对它的因子计算。PyTorch
# 可以在 meta 设备上统计一步的运算次数，而不必真的去算。
#
# **预测 1.p3。** $r = 16$ 的 LoRA 训练 `Llama-2-7B` 0.59 % 的参数。它一步的*运算量*占全量微调一步的多大比例（0 到 1）？
# %%
share_of_operations = ...  # from 0 to 1
### BEGIN SOLUTION
share_of_operations = 0.3
### END SOLUTION
guess_3 = labs.predict("1.p3", share_of_operations)
# %%
full = architectures.step_flops(architectures.blueprint("Llama-2-7B"), sizes.tokens)
lora = architectures.step_flops(architectures.lora_of("Llama-2-7B", sizes.rank), sizes.tokens)
rule = 6 * tables["Llama-2-7B"]["total"] * sizes.tokens  # the rule of thumb for a full step: 6 operations, parameter, token
names = ["6 N × tokens", "full step", "LoRA step"]
fig = plots.bars(
    names, {"counted": [rule / 1e12, full / 1e12, lora / 1e12]},
    xlabel="step", ylabel="operations, 10¹²", title=f"One sequence of {sizes.tokens} tokens, Llama-2-7B",
)  # fmt: skip
plots.show(fig, alt="Operations of a step: the rule of thumb and the full step agree, the LoRA step takes about two thirds")
print(f"LoRA step / full step = {lora / full:.2f}, you predicted {guess_3}")
labs.record("operations", full=full, lora=lora, rule=rule)
# %% [markdown] lang="en"
# Two thirds, for 0.59 % of the parameters: the whole frozen model is still gone through forwards and backwards. LoRA is a way to save
# *memory*. What it saves in time and energy comes mostly from what the memory then allows: fewer cards, larger batches.
#
# ## 4 · The energy of one run
#
# $$E = \frac{t \, w}{1000} \, \text{PUE}, \qquad C = \frac{E \, i}{1000}$$
#
# We train LoRA on a small task and let codecarbon watch. **The result is an estimate**: where a machine has no power counters that we may
# read, codecarbon multiplies a nominal power by the time. Your `training_energy` should give the same from time, mean power and intensity. The
# run's curves: `tensorboard --logdir build/runs`.
# %% [markdown] lang="zh"
# 只训练 0.59 % 的参数，却要三分之二的运算量：整个冻结的模型仍要前向、反向各走一遍。LoRA 省的是*显存*。时间和能耗上的节省，主要来自省下显存之后的可能：用更少的显卡，或更大的批。
#
# ## 4 · 一次训练的能耗
#
# $$E = \frac{t \, w}{1000} \, \text{PUE}, \qquad C = \frac{E \, i}{1000}$$
#
# 我们在一个小任务上训练 LoRA，用 codecarbon 记录。**结果是估计值**：如果机器没有可读取的功率计数器，codecarbon 就用标称功率乘以时间。你的 `training_energy` 由时间、平均功率和碳强度应得到同样的结果。
# 训练曲线：`tensorboard --logdir build/runs`。
# %%
model, tokenizer = text.base_model()
model = text.lora(model, sizes.rank, 2 * sizes.rank, "all-linear")
batches = text.length_batches(text.examples("stars", sizes.examples), tokenizer, sizes.batch)
with meters.energy("USA") as used:
    history = training.fit(model, batches, sizes.steps, sizes.lr, name="week01-energy")

hours = used.seconds / 3600
watts = 1000 * used.kwh / hours
kwh, kg = cost.training_energy(hours, watts, pue=1.0, intensity=architectures.intensity("USA"))
print(f"{sizes.steps} steps in {used.seconds:.1f} s at {watts:.0f} W on average ({used.cpu})")
print(f"loss {history.loss[0]:.2f} at first, {history.final_loss:.2f} at the end")
print(f"codecarbon, an estimate: {1000 * used.kwh:.4f} Wh, {1000 * used.kg_co2e:.4f} g CO2e")
print(f"your training_energy:    {1000 * kwh:.4f} Wh, {1000 * kg:.4f} g CO2e")
labs.record("energy", codecarbon=[used.kwh, used.kg_co2e], own=[kwh, kg], losses=[history.loss[0], history.final_loss])
# %% [markdown] lang="en"
# The same run elsewhere, and beside larger ones. The table of intensities is codecarbon's (yearly averages). LLaMA-7B is as its paper counts
# it (Touvron et al. 2023: 82,432 GPU hours at 400 W, PUE 1.1). The QLoRA paper's abstract gives 24 hours on one GPU for a model of 65B; the
# 300 W and the PUE of 1.1 are *our* assumption, so that bar is one too.
# %% [markdown] lang="zh"
# 换个地方运行，以及与更大的训练相比。碳强度取自 codecarbon 的表（年平均值）。LLaMA-7B 按其论文计算（Touvron 等，2023：82,432 个 GPU 小时，400 W，PUE 1.1）。QLoRA 论文摘要说 65B 模型在一块 GPU 上训练
# 24 小时；300 W 和 PUE 1.1 是*我们*的假设，因此这一条也只是假设。
# %%
fig, axes = plots.figure(2)
grams = [1000 * cost.training_energy(hours, watts, 1.0, architectures.intensity(country))[1] for country in sizes.countries]
plots.bars(sizes.countries, {"run": grams}, xlabel="country", ylabel="emissions, g CO2e", title="This run, elsewhere", ax=axes[0])
runs = {
    "this run": (hours, watts, 1.0),
    "QLoRA 65B\n(assumed power)": (24, 300, 1.1),
    "LLaMA-7B\npretraining": (82432, 400, 1.1),
}
energy = [cost.training_energy(*run, intensity=0)[0] for run in runs.values()]
plots.bars(list(runs), {"run": energy}, xlabel="run", ylabel="energy, kWh", yscale="log", title="Beside other runs", ax=axes[1])
axes[1].tick_params(axis="x", rotation=0)
plots.show(
    fig,
    alt="Left: the same run emits ten times more in some countries. Right: pretraining takes thousands of times a fine-tuning",
)
labs.record("grams", **dict(zip(sizes.countries, grams, strict=True)))
labs.record("kwh", pretraining=energy[2], fine_tuning=energy[1])
# %% [markdown] lang="en"
# The place matters as much as any method: the same run emits about ten times as much on one grid as on another. Fine-tuning costs thousands of
# times less than pretraining did. But it is done thousands of times, and a search over rates, ranks and targets multiplies it: report the
# hours of *all* runs, not of the last one.
#
# ## 5 · Written answer (1.q3, 7 points): a speed reading of the LoRA paper
#
# Take 20 minutes for Hu et al., [arXiv:2106.09685](https://arxiv.org/abs/2106.09685): abstract, figures and tables with their captions, section 4, section 7's first
# paragraphs, the conclusion. Then write about 200 words, in your own sentences.
#
# | points | for |
# |---|---|
# | 1 | the problem, with one number of the paper |
# | 1 | the idea: the equation, with shapes, and what trains |
# | 1 | how A and B start, and why |
# | 1 | the evidence that convinces you most: which table or figure, what it compares |
# | 1 | a limit that the authors state |
# | 1 | a limit that you see and they do not state |
# | 1 | one of the paper's numbers recomputed with your functions: does it agree? |
# %% [markdown] lang="zh"
# 地点的影响不亚于任何方法：同一次训练，在不同电网上的排放可以相差约十倍。一次微调的能耗只有预训练的几千分之一；但微调会做成千上万次，再加上对学习率、秩、目标模块的搜索，又要翻上许多倍。
# 请报告*所有*训练的时数，而不只是最后一次的。
#
# ## 5 · 书面题（1.q3，7 分）：速读 LoRA 论文
#
# 用 20 分钟读 Hu 等的论文，[arXiv:2106.09685](https://arxiv.org/abs/2106.09685)：摘要、图表及其说明、第 4 节、第 7 节各小节的开头、结论。然后用自己的话写约 350 字。
#
# | 分值 | 要点 |
# |---|---|
# | 1 | 要解决的问题，并引用论文中的一个数字 |
# | 1 | 思路：写出公式和形状，说明训练的是什么 |
# | 1 | A 和 B 怎样初始化，为什么 |
# | 1 | 最有说服力的证据：哪个表或图，比较的是什么 |
# | 1 | 作者自己说明的一个局限 |
# | 1 | 你看到而作者没有说明的一个局限 |
# | 1 | 用你的函数重算论文中的一个数字：与论文一致吗？ |
# %% [markdown] lang="en" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# Each fine-tuned copy of a large model is as large as the model: for GPT-3 a checkpoint of 350 GB for every task. LoRA freezes $W_0$
# ($d \times k$) and adds an update of low rank, $h = W_0 x + \frac{\alpha}{r} B A x$ with $B$ of $d \times r$ and $A$ of $r \times k$; only $A$ and $B$ train. $A$ starts
# Gaussian and $B$ at zero, so that the model starts unchanged, while a gradient still reaches $B$; with both at zero nothing would
# ever move. What convinces me most is table 6: for q and v the accuracy on WikiSQL moves by half a point at most between ranks 1 and 64,
# which is what one expects if the update needs few directions. The authors say that, once merged, inputs of different tasks cannot share a
# batch. Not stated: activations are not reduced, so that for long sequences the saving is much less than the paper's factor of three,
# which holds where weights and Adam's states dominate. Recomputed: r = 4 on q and v of 96 layers, 192 matrices of 12288 × 12288, gives 18,874,368
# parameters, 37.7 MB in 16 bits. The paper prints 35 MB; its factor of 10,000 is rounded.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q3", "grade": true, "solution": true}
# 大模型每微调一次，就多出一份与模型一样大的副本：GPT-3 每个任务的检查点有 350 GB。LoRA 冻结 $W_0$ （ $d \times k$ ），加上一个低秩的更新量：
# $h = W_0 x + \frac{\alpha}{r} B A x$ ，其中 $B$ 为 $d \times r$ ， $A$ 为 $r \times k$ ，只训练 $A$ 和 $B$ 。 $A$ 用高斯初始化， $B$ 从零开始：起点上模型不变，而 $B$ 仍有梯度；若两者都为零，就永远不会动。最有说服力的是表
# 6：只适配 q 和 v 时，秩从 1 到 64，WikiSQL 上的准确率最多相差半个百分点，这正是“更新量只需要少数几个方向”时应有的现象。作者说明的局限：合并之后，不同任务的输入不能放在同一批里。作者没有说明的：
# 激活值并没有减少，所以序列很长时，显存的节省远不及论文所说的三倍；那个倍数只在权重和 Adam 状态占大头时成立。重算：96 层的 q 和 v，秩 4，共 192 个 12288 × 12288 的矩阵，得 18,874,368 个参数，以 16 位存储为 37.7 MB；
# 论文写的是 35 MB，其中的一万倍是取整的说法。
# %% [markdown] lang="en"
# ## Where this breaks
#
# - The tables leave out activations, the framework's own memory and fragmentation. For long sequences activations outweigh the rest (week 4).
# - Operations are not seconds. A small LoRA step can be *slower* than a full one: more and smaller kernels are launched.
# - Energy here is an estimate from a nominal power; a machine shared with others is charged for their time too. Making and cooling the
#   hardware is not in it, and averages of a country hide the hour of the day.
# - GPT-3's weights are not public: its row is GPT-2's architecture in the published size.
# - With `LAB_PROFILE=full` the tables are the same; the energy is that of a LoRA run of Llama-2-7B on your GPU, which codecarbon can measure.
#
# To go on: lecture sections [Memory](../course/week01/lecture.md#memory), [Energy](../course/week01/lecture.md#energy) and
# [From full fine-tuning to LoRA](../course/week01/lecture.md#from-full-fine-tuning-to-lora). Sources: Lialin et al., arXiv:2303.15647; Dettmers et al.,
# arXiv:2305.14314; Touvron et al., arXiv:2302.13971 (LLaMA), arXiv:2307.09288 (Llama 2); Patterson et al., arXiv:2104.10350.
# %% [markdown] lang="zh"
# ## 局限
#
# - 成本表不含激活值、框架自身占用的显存和碎片。序列很长时，激活值会超过其余各项之和（第 4 周）。
# - 运算量不等于时间。小模型上 LoRA 的一步可能比全量微调*更慢*：启动的算子更多、更零碎。
# - 这里的能耗是按标称功率估计的；机器若与别人共用，别人的时间也会算进来。硬件的制造和冷却不在其内，一国的平均值也掩盖了一天中不同时段的差别。
# - GPT-3 的权重没有公开：表中这一行是按公布的规模搭建的 GPT-2 架构。
# - 设置 `LAB_PROFILE=full` 后，成本表不变；能耗则是你的 GPU 上一次 Llama-2-7B 的 LoRA 训练，codecarbon 可以实测。
#
# 延伸阅读：讲义的[显存](../../course/week01/lecture.zh.md#memory)、[能耗](../../course/week01/lecture.zh.md#energy)和[从全量微调到 LoRA](../../course/week01/lecture.zh.md#from-full-fine-tuning-to-lora)。
# 文献：Lialin 等，arXiv:2303.15647；Dettmers 等，arXiv:2305.14314；Touvron 等，arXiv:2302.13971（LLaMA）、arXiv:2307.09288（Llama 2）；Patterson 等，arXiv:2104.10350。
