"""Checks of week 8: federated averages, stacking, generated factors, replies.

Adapters are made with the stub's given Adapter; every parameter of a generator is written before it is looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, show, tensor


class Client(NamedTuple):
    """One client: A (rank, in_features), B (out_features, rank), alpha, number of samples."""

    A: np.ndarray
    B: np.ndarray
    alpha: float
    samples: int


def client(rng, in_features: int, out_features: int, rank: int, alpha: float, samples: int) -> Client:
    return Client(rng.standard_normal((rank, in_features)), rng.standard_normal((out_features, rank)), alpha, samples)


def hand_over(lib: Session, clients: list[Client], dtype: str = "float64") -> tuple[list[Handle], list[int]]:
    adapters = [lib.keep(lib.Adapter(tensor(c.A, dtype), tensor(c.B, dtype), c.alpha)) for c in clients]
    return adapters, [c.samples for c in clients]


def describe(clients: list[Client]) -> str:
    first = clients[0]
    ranks = [len(c.A) for c in clients]
    alphas = [c.alpha for c in clients]
    rank, alpha = (r[0] if len(set(r)) == 1 else r for r in (ranks, alphas))
    sizes = f"in_features={first.A.shape[1]}, out_features={len(first.B)}, rank={rank}, alpha={alpha}"
    return f"{len(clients)} clients, {sizes}, samples={[c.samples for c in clients]}"


# --- task 8.1 ---

# in_features, out_features, rank, alpha, samples; smallest first, so the first that fails is the smallest that fails
LADDER = ((2, 3, 1, 1.5, (3, 1)), (5, 4, 2, 3.0, (7, 20, 2)), (6, 7, 3, 12.0, (1, 5, 40, 11)))


def alike(rng, in_features, out_features, rank, alpha, samples) -> list[Client]:
    return [client(rng, in_features, out_features, rank, alpha, n) for n in samples]


def averaged(lib: Session, clients: list[Client], dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, float]:
    result = lib.fedavg_factors(*hand_over(lib, clients, dtype))
    A, B = lib.read(result.lora_A, clients[0].A.shape, dtype), lib.read(result.lora_B, clients[0].B.shape, dtype)
    return A, B, lib.number(result.alpha)


def exact(lib: Session, clients: list[Client], dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    result = lib.fedavg_exact(*hand_over(lib, clients, dtype))
    first = clients[0]
    residual = lib.read(result[1], (len(first.B), first.A.shape[1]), dtype)
    A, B = lib.read(result[0].lora_A, first.A.shape, dtype), lib.read(result[0].lora_B, first.B.shape, dtype)
    return A, B, lib.number(result[0].alpha), residual


def compare_average(student: Session, oracle, clients: list[Client]) -> None:
    (A, B, alpha), (want_A, want_B, want_alpha) = averaged(student, clients), oracle(averaged, clients)
    close(A, want_A, "lora_A of fedavg_factors")
    close(B, want_B, "lora_B of fedavg_factors")
    equal(alpha, want_alpha, "alpha of fedavg_factors")


def compare_exact(student: Session, oracle, clients: list[Client]) -> None:
    (A, B, alpha, residual), (want_A, want_B, want_alpha, want) = exact(student, clients), oracle(exact, clients)
    # Both products are of the order of 100 at most and may cancel: some ten operations, each rounding by 1e-16 of that.
    # What is wanted is rounded as well, so that a zero is shown as zero.
    close(residual, want.round(13) + 0.0, "the residual of fedavg_exact", atol=1e-12)
    close(A, want_A, "lora_A of fedavg_exact's averaged factors")
    close(B, want_B, "lora_B of fedavg_exact's averaged factors")
    equal(alpha, want_alpha, "alpha of fedavg_exact's averaged factors")


@check("8.1", weight=4, gate=True)
def test_factors(student, oracle, rng):
    """fedavg_factors weights each client's A and B by its share of the samples, and keeps alpha."""
    for shape in LADDER:
        clients = alike(rng, *shape)
        with at(describe(clients)):
            compare_average(student, oracle, clients)


@check("8.1", weight=4, gate=True)
def test_residual(student, oracle, rng):
    """The residual is the weighted average of the clients' updates minus the update of the averaged factors."""
    for shape in LADDER:
        clients = alike(rng, *shape)
        with at(describe(clients)):
            compare_exact(student, oracle, clients)


@check("8.1", weight=2)
def test_shared_factor(student, oracle, rng):
    """Where all clients share A, or share B, averaging the factors is exact, and the residual is zero."""
    clients = alike(rng, *LADDER[1])
    for name in ("A", "B"):
        shared = [c._replace(**{name: getattr(clients[0], name)}) for c in clients]
        with at(f"{describe(clients)}, one {name} for all"):
            compare_exact(student, oracle, shared)


@check("8.1", weight=1)
def test_idle_clients(student, oracle, rng):
    """A client without samples has weight 0, and a single client gets its own factors back."""
    for samples in ((0, 5, 3), (4,), (0, 9)):
        clients = alike(rng, 3, 4, 2, 5.0, samples)
        with at(describe(clients)):
            compare_average(student, oracle, clients)
            compare_exact(student, oracle, clients)


@check("8.1", weight=1, tier="advanced")
def test_average_dtype(student, oracle, rng):
    """Factors and residual have the clients' dtype."""
    clients = alike(rng, *LADDER[1])
    for dtype in ("float32", "bfloat16"):
        with at(f"adapters of dtype {dtype}"):
            for name, program in (("fedavg_factors", averaged), ("fedavg_exact", exact)):
                got, want = program(student, clients, dtype), oracle(program, clients, dtype)
                # Products below 30, rounded by eps / 2 some dozen times at most: less than 200 eps.
                bound = 200 * (2**-23 if dtype == "float32" else 2**-7)
                for mine, right in zip(got, want, strict=True):
                    close(np.asarray(mine), np.asarray(right), f"a part of {name}", atol=bound)


@check("8.1", weight=1, tier="advanced")
def test_clients_stay(student, oracle, rng):
    """The clients' own factors do not change."""
    clients = alike(rng, *LADDER[1])
    for name in ("fedavg_factors", "fedavg_exact"):
        with at(name):
            adapters, samples = hand_over(student, clients)
            getattr(student, name)(adapters, samples)
            for k, (adapter, c) in enumerate(zip(adapters, clients, strict=True)):
                close(student.read(adapter.lora_A, c.A.shape), c.A, f"client {k}'s lora_A after {name}", rtol=0)
                close(student.read(adapter.lora_B, c.B.shape), c.B, f"client {k}'s lora_B after {name}", rtol=0)


@check("8.1", weight=1)
def test_average_refuses(student, oracle, rng):
    """No client, unequal lengths, no sample at all, other ranks and other alphas are a ValueError."""
    clients = alike(rng, 3, 4, 2, 5.0, (4, 6))
    wrong = {
        "no client": ([], []),
        "two clients and one number of samples": (hand_over(student, clients)[0], [4]),
        "two clients and three numbers of samples": (hand_over(student, clients)[0], [4, 6, 1]),
        "samples=[0, 0]": hand_over(student, [c._replace(samples=0) for c in clients]),
        "ranks 2 and 1": hand_over(student, [clients[0], client(rng, 3, 4, 1, 5.0, 6)]),
        "alphas 5.0 and 7.0": hand_over(student, [clients[0], clients[1]._replace(alpha=7.0)]),
        "ranks 2, 2 and 1": hand_over(student, [*clients, client(rng, 3, 4, 1, 5.0, 6)]),
        "alphas 5.0, 5.0 and 7.0": hand_over(student, [*clients, clients[1]._replace(alpha=7.0)]),
    }
    for name in ("fedavg_factors", "fedavg_exact"):
        for case, args in wrong.items():
            with at(name), at(case):
                student.raises("ValueError", act=lambda name=name, args=args: getattr(student, name)(*args))


# --- task 8.2 ---

# in_features, out_features, then of each client: rank, alpha, samples
STACKS = (
    (3, 2, ((1, 1.5, 4),)),
    (2, 4, ((1, 3.0, 3), (2, 5.0, 1))),
    (5, 6, ((3, 2.0, 7), (1, 16.0, 20), (2, 3.0, 2))),
    (7, 3, ((4, 6.0, 11), (2, 1.0, 0), (4, 6.0, 5), (1, 9.0, 30))),
)


def stack(rng, in_features: int, out_features: int, parts) -> list[Client]:
    return [client(rng, in_features, out_features, *part) for part in parts]


def stacked(lib: Session, clients: list[Client], dtype: str = "float64") -> np.ndarray:
    """The update that the result stands for, as the convention of this course reads an adapter."""
    result = lib.stack_adapters(*hand_over(lib, clients, dtype))
    rank = sum(len(c.A) for c in clients)
    A = lib.read(result.lora_A, (rank, clients[0].A.shape[1]), dtype, free=True)
    B = lib.read(result.lora_B, (len(clients[0].B), rank), dtype, free=True)
    with lib.aside():
        alpha = lib.number(result.alpha)
    update = np.einsum("or,ri->oi", B.astype(np.float64), A.astype(np.float64)) * alpha / rank
    lib.note(update)
    return update


@check("8.2", weight=5, gate=True)
def test_stack(student, oracle, rng):
    """The update of the stacked adapter is the weighted average of the clients' updates, whatever their ranks and alphas."""
    for shape in STACKS:
        clients = stack(rng, *shape)
        with at(describe(clients)):
            close(stacked(student, clients), oracle(stacked, clients), "(alpha / rank) B A of the result")


@check("8.2", weight=2)
def test_stack_equal_clients(student, oracle, rng):
    """Of K clients with the same factors, the stacked adapter's update is that of one of them."""
    one = client(rng, 3, 4, 2, 5.0, 6)
    clients = [one, one._replace(samples=1), one._replace(samples=10)]
    with at(f"{describe(clients)}, all with the same factors"):
        close(stacked(student, clients), oracle(stacked, clients), "(alpha / rank) B A of the result")


@check("8.2", weight=1, tier="advanced")
def test_stack_dtype(student, oracle, rng):
    """The stacked factors have the clients' dtype."""
    clients = stack(rng, *STACKS[2])
    for dtype in ("float32", "bfloat16"):
        with at(f"adapters of dtype {dtype}"):
            got, want = stacked(student, clients, dtype), oracle(stacked, clients, dtype)
            # Sums of six terms, together below 100, whose factors are rounded by eps / 2, once or twice: below 300 eps.
            close(got, want, "(alpha / rank) B A of the result", atol=300 * (2**-23 if dtype == "float32" else 2**-7))


@check("8.2", weight=1, tier="advanced")
def test_stack_leaves_clients(student, oracle, rng):
    """The clients' own factors do not change."""
    clients = stack(rng, *STACKS[2])
    adapters, samples = hand_over(student, clients)
    student.stack_adapters(adapters, samples)
    for k, (adapter, c) in enumerate(zip(adapters, clients, strict=True)):
        close(student.read(adapter.lora_A, c.A.shape), c.A, f"client {k}'s lora_A afterwards", rtol=0)
        close(student.read(adapter.lora_B, c.B.shape), c.B, f"client {k}'s lora_B afterwards", rtol=0)


@check("8.2", weight=1)
def test_stack_refuses(student, oracle, rng):
    """No client, unequal lengths and no sample at all are a ValueError."""
    clients = stack(rng, *STACKS[1])
    adapters, _ = hand_over(student, clients)
    for case, args in {
        "no client": ([], []),
        "two clients and one number of samples": (adapters, [4]),
        "two clients and three numbers of samples": (adapters, [4, 6, 1]),
        "samples=[0, 0]": (adapters, [0, 0]),
    }.items():
        with at(case):
            student.raises("ValueError", act=lambda args=args: student.stack_adapters(*args))


# --- task 8.3 ---


class Bank(NamedTuple):
    """A generator's whole state, a task, and the weights of the layers that it works for."""

    gate: np.ndarray  # layers, experts, task_dim
    A: np.ndarray  # experts, rank, in
    B: np.ndarray  # experts, out, rank
    alpha: float
    top_k: int
    task: np.ndarray
    weights: list[np.ndarray]

    @property
    def rung(self) -> str:
        layers, experts, task_dim = self.gate.shape
        sizes = f"task_dim={task_dim}, num_layers={layers}, num_experts={experts}, in_features={self.A.shape[2]}"
        return f"{sizes}, out_features={self.B.shape[1]}, rank={self.A.shape[1]}, alpha={self.alpha}, top_k={self.top_k}"


# task_dim, layers, experts, in_features, out_features, rank, alpha, top_k
BANKS = ((5, 1, 2, 3, 4, 1, 1.5, 2), (3, 2, 4, 6, 5, 1, 3.0, 2), (7, 4, 3, 5, 6, 2, 9.0, 1), (2, 3, 5, 4, 8, 6, 4.0, 3))


def draw_bank(rng, task_dim, layers, experts, in_features, out_features, rank, alpha, top_k) -> Bank:
    shapes = ((layers, experts, task_dim), (experts, rank, in_features), (experts, out_features, rank))
    gate, A, B = (rng.standard_normal(shape) for shape in shapes)
    weights = [rng.standard_normal((out_features, in_features)) for _ in range(layers)]
    return Bank(gate, A, B, alpha, top_k, rng.standard_normal(task_dim), weights)


def generator(lib: Session, bank: Bank) -> Handle:
    layers, experts, task_dim = bank.gate.shape
    rank, in_features = bank.A.shape[1:]
    made = lib.LoRAGenerator(task_dim, layers, experts, in_features, bank.B.shape[1], rank, bank.alpha, bank.top_k)
    made.double()
    for name, value in (("gate", bank.gate), ("bank_A", bank.A), ("bank_B", bank.B)):
        lib.write(getattr(made, name), value)
    return made


def routed(lib: Session, bank: Bank) -> np.ndarray:
    return lib.read(generator(lib, bank).route(tensor(bank.task)), bank.gate.shape[:2])


def mixed(lib: Session, bank: Bank) -> tuple[np.ndarray, np.ndarray]:
    factors = generator(lib, bank)(tensor(bank.task))
    layers = len(bank.gate)
    return lib.read(factors[0], (layers, *bank.A.shape[1:])), lib.read(factors[1], (layers, *bank.B.shape[1:]))


def specialised(lib: Session, bank: Bank) -> list[np.ndarray]:
    results = generator(lib, bank).reparameterize(tensor(bank.task), [tensor(W) for W in bank.weights])
    return [lib.read(results[layer], W.shape) for layer, W in enumerate(bank.weights)]


@check("8.3", weight=3, gate=True)
def test_route(student, oracle, rng):
    """Each layer's top_k experts share its weight by a softmax over their logits; the others have weight 0."""
    for shape in BANKS:
        bank = draw_bank(rng, *shape)
        with at(bank.rung):
            close(routed(student, bank), oracle(routed, bank), "route(task)")


@check("8.3", weight=3, gate=True)
def test_generated_factors(student, oracle, rng):
    """A and B of each layer are mixed from the bank with that layer's weights."""
    for shape in BANKS:
        bank = draw_bank(rng, *shape)
        with at(bank.rung):
            for name, got, want in zip("AB", mixed(student, bank), oracle(mixed, bank), strict=True):
                close(got, want, f"{name} of generator(task)")


@check("8.3", weight=3, gate=True)
def test_reparameterize(student, oracle, rng):
    """reparameterize gives W_l + (alpha / rank) B_l A_l for each layer."""
    for shape in BANKS:
        bank = draw_bank(rng, *shape)
        with at(bank.rung):
            for layer, (got, want) in enumerate(zip(specialised(student, bank), oracle(specialised, bank), strict=True)):
                close(got, want, f"layer {layer}'s weight")


def gradients(lib: Session, bank: Bank, cotangents: list[np.ndarray]) -> dict[str, np.ndarray]:
    weights, seeds = [tensor(W) for W in bank.weights], [tensor(c) for c in cotangents]
    found = lib.probe("week08.generated_gradients", generator(lib, bank), tensor(bank.task), weights, seeds)
    like = {"gate": bank.gate, "bank_A": bank.A, "bank_B": bank.B, "task": bank.task}
    return {name: lib.array(found.get(name), f"the gradient of {name}", value.shape) for name, value in like.items()}


@check("8.3", weight=2)
def test_generator_learns(student, oracle, rng):
    """Gradients reach gate, bank_A, bank_B and the task through the merged weights."""
    for shape in BANKS:
        bank = draw_bank(rng, *shape)
        cotangents = [rng.standard_normal(W.shape) for W in bank.weights]
        with at(bank.rung):
            got, want = gradients(student, bank, cotangents), oracle(gradients, bank, cotangents)
            for name in want:
                close(got[name], want[name], f"the gradient of {name}", atol=1e-12)  # with top_k=1 the gate's is zero


@check("8.3", weight=1)
def test_base_is_reused(student, oracle, rng):
    """The weights that were passed in do not change, so that a second task starts from the same base."""
    bank = draw_bank(rng, *BANKS[1])
    other = bank._replace(task=rng.standard_normal(bank.task.shape))
    with at(bank.rung):
        made = generator(student, bank)
        weights = student.build("week08.tensors", items=[tensor(W) for W in bank.weights])
        made.reparameterize(tensor(bank.task), weights)
        second = made.reparameterize(tensor(other.task), weights)
        for layer, want in enumerate(oracle(specialised, other)):
            close(student.read(second[layer], want.shape), want, f"layer {layer}'s weight for a second task")
        for layer, W in enumerate(bank.weights):
            close(student.read(weights[layer], W.shape), W, f"the base's weight {layer} afterwards", rtol=0)


def start(lib: Session, sizes: tuple) -> dict[str, list[int]]:
    return lib.probe("week08.shapes", lib.LoRAGenerator(*sizes))


def calls(lib: Session, bank: Bank, other: Bank) -> list[np.ndarray]:
    """route(task) for one task in both modes, and after the parameters have changed: what an earlier call kept shows."""
    made, task = generator(lib, bank), lib.build("week08.tensors", items=[tensor(bank.task)])[0]
    found = []
    for training in (True, False):
        made.train(training)
        found.append(lib.read(made.route(task), bank.gate.shape[:2]))
    for name, value in (("gate", other.gate), ("bank_A", other.A), ("bank_B", other.B)):
        lib.write(getattr(made, name), value)
    found.append(lib.read(made.route(task), bank.gate.shape[:2]))
    factors = made(task)
    return [*found, lib.read(factors[0], (len(bank.gate), *bank.A.shape[1:]))]


@check("8.3", weight=1, tier="advanced")
def test_generator_called_again(student, oracle, rng):
    """Every call computes with what the parameters are then, in training and in evaluation mode alike."""
    bank, other = (draw_bank(rng, *BANKS[1]) for _ in range(2))
    with at(bank.rung):
        what = ("route(task) in training", "route(task) in evaluation mode", "route(task) after the parameters changed")
        found = zip(calls(student, bank, other), oracle(calls, bank, other), strict=True)
        for (got, want), name in zip(found, (*what, "A of generator(task) after the parameters changed"), strict=True):
            close(got, want, name)


@check("8.3", weight=1, tier="advanced")
def test_route_large_logits(student, oracle, rng):
    """Where the logits are in the thousands, the weights are still finite and sum to 1."""
    bank = draw_bank(rng, *BANKS[1])
    routed(student, bank)  # which mistake it is shows where nothing overflows
    for factor in (1000.0, -1000.0):
        big = bank._replace(gate=factor * bank.gate)
        with at(f"{bank.rung}, a gate with large entries"):
            # The logits are thousands, so their rounding, thousands of eps, is the relative error of a weight.
            close(routed(student, big), oracle(routed, big), "route(task)")


@check("8.3", weight=1, tier="advanced")
def test_generator_default_dtype(student, oracle, rng):
    """The parameters have torch's default dtype, whichever that is when the generator is made."""
    for dtype in ("float32", "float64"):
        with at(f"torch.set_default_dtype(torch.{dtype})"):
            found = student.probe("week08.dtypes", student.LoRAGenerator, BANKS[1], dtype)
            equal(found, [dtype], "the dtypes of the parameters")


@check("8.3", weight=2)
def test_generator_start(student, oracle, rng):
    """A new generator has three trainable parameters: bank_B is zero, and the experts' and layers' parts of the others differ."""
    for sizes in BANKS[1:3]:
        _, layers, experts, _, out_features, rank, *_ = sizes
        with at(f"LoRAGenerator{sizes}"):
            equal(start(student, sizes), oracle(start, sizes), "the shapes of the trainable parameters")
            made = student.LoRAGenerator(*sizes)
            B = student.read(made.bank_B, (experts, out_features, rank), "float32", free=True)
            student.note(bool(B.any()))
            close(B, np.zeros_like(B), "bank_B of a new generator", rtol=0)
            parts = (("bank_A", 0, experts, "experts"), ("gate", 1, experts, "experts"), ("gate", 0, layers, "layers"))
            for name, dim, count, what in parts:
                found = student.probe("week08.distinct", made, name, dim)
                wanted = f"{count}, or they get the same gradients and stay equal"
                differ = f"of {count} {what}' parts of {name} in a new generator only {found} differ"
                demand(found == count, f"{differ}\n  expected: {wanted}")


@check("8.3", weight=1)
def test_generator_refuses(student, oracle, rng):
    """top_k below 1 or above num_experts is a ValueError, and so is another number of weights than of layers."""
    for top_k in (0, 4):
        with at(f"num_experts=3, top_k={top_k}"):
            student.raises("ValueError", act=lambda k=top_k: student.LoRAGenerator(4, 2, 3, 5, 6, 2, 3.0, k))
    bank = draw_bank(rng, *BANKS[1])
    for count in (1, 3):
        with at(f"num_layers=2, {count} weights"):
            weights = [tensor(W) for W in (bank.weights * 2)[:count]]
            made = generator(student, bank)
            student.raises("ValueError", act=lambda m=made, w=weights: m.reparameterize(tensor(bank.task), w))


# --- task 8.4 ---

WIDTH, VOCABULARY = 6, 55  # of the toy model; the vocabulary is the alphabet and the token that ends a reply
TEMPLATE = "<user> {message}\n<bot> "
TURNS = [["hi", "good day."], ["who are you?", "a bot"]]


def model(rng, ending: float = -9.0, scale: float = 2.0) -> dict[str, np.ndarray]:
    """The toy model's tables; `ending` is added to the logit of the token that ends a reply."""
    shapes = {"embed": (VOCABULARY, WIDTH), "turn": (WIDTH, WIDTH), "head": (WIDTH, VOCABULARY)}
    tables = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    tables["head"] *= scale
    tables["ending"] = np.where(np.arange(VOCABULARY) == 0, ending, 0.0)
    return tables


def chat(
    lib: Session,
    tables: dict,
    uniforms: list[float],
    settings: dict,
    plain: bool = True,
    training: bool = False,
    grad: bool = True,
) -> dict:
    settings = {"template": TEMPLATE, "message": "hello", "max_new_tokens": 8} | settings
    toy = lib.build("week08.chat_model", tables={name: tensor(value) for name, value in tables.items()})
    found: dict = lib.probe("week08.chat", lib.generate_reply, toy, plain, training, np.array(uniforms), settings, grad)
    return found


def text(lib: Session, tables: dict, uniforms: list[float], settings: dict) -> str:
    with lib.aside():
        reply = chat(lib, tables, uniforms, settings)["reply"]
    lib.note(reply)
    if type(reply) is not str:
        raise CheckFailed(f"generate_reply returned {show(reply)}\n  expected: a str")
    return reply


def compare_replies(student: Session, oracle, tables: dict, uniforms: list[float], **settings) -> None:
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    with at(f"{shown}, max_new_tokens=8" if "max_new_tokens" not in settings else shown):
        equal(text(student, tables, uniforms, settings), oracle(text, tables, uniforms, settings), "the reply")


def numbers(rng, count: int = 24) -> list[float]:
    return [float(u) for u in rng.uniform(0, 1, count)]


@check("8.4", weight=3, gate=True)
def test_greedy(student, oracle, rng):
    """Without top_p each token is the one of the largest logit behind the template with the message in it."""
    for message in ("a", "hello", "do you like {braces}?"):
        compare_replies(student, oracle, model(rng), [0.5], message=message)
    compare_replies(student, oracle, model(rng), [0.5], template="{message}|", message="hello")


@check("8.4", weight=3, gate=True)
def test_top_p(student, oracle, rng):
    """With top_p each token is drawn from the renormalised nucleus, by one uniform number."""
    for top_p in (0.05, 0.3, 0.6, 0.9, 1.0):
        for _ in range(2):
            compare_replies(student, oracle, model(rng, scale=1.0), numbers(rng), top_p=top_p)


@check("8.4", weight=2)
def test_history(student, oracle, rng):
    """Every earlier turn stands in the prompt as in training: template, reply, eos_id."""
    for turns in (TURNS[:1], TURNS):
        compare_replies(student, oracle, model(rng), [0.5], history=turns)
        compare_replies(student, oracle, model(rng), numbers(rng), history=turns, top_p=0.8)


def prompt(lib: Session, tables: dict, settings: dict) -> str:
    """What the ids of the first call stand for."""
    said: str = chat(lib, tables, [0.5], settings | {"max_new_tokens": 1})["prompt"]
    return said


@check("8.4", weight=1)
def test_prompt_is_verbatim(student, oracle, rng):
    """Messages and replies stand in the prompt as they are, blanks and braces included, in earlier turns as well."""
    tables = model(rng)
    turns = (["what is {a}?", "{b}"], ["{message}", "you said {message}"], [" hi\n", " {} "])
    for settings in ({"message": "  hello "}, *({"message": "and {c}?", "history": [turn]} for turn in turns)):
        with at(", ".join(f"{name}={value!r}" for name, value in settings.items())):
            # The prompt itself: a reply may be the same behind another one.
            equal(prompt(student, tables, settings), oracle(prompt, tables, settings), "the text of the prompt")


@check("8.4", weight=2)
def test_temperature(student, oracle, rng):
    """The logits are divided by the temperature before the softmax, so that the nucleus depends on it."""
    for temperature in (0.5, 2.0):
        for _ in range(2):
            compare_replies(student, oracle, model(rng, scale=1.0), numbers(rng), top_p=0.7, temperature=temperature)


@check("8.4", weight=1)
def test_greedy_is_deterministic(student, oracle, rng):
    """Greedy replies do not depend on the temperature."""
    compare_replies(student, oracle, model(rng), [0.9], temperature=3.0)


@check("8.4", weight=2)
def test_end(student, oracle, rng):
    """eos_id ends the reply and is not part of it."""
    endings = 0
    while endings < 3:
        tables, uniforms = model(rng, ending=2.5, scale=1.0), numbers(rng)
        top_p = [None, 0.9, 1.0][endings]
        said = oracle(text, tables, uniforms, {"top_p": top_p})
        if len(said) < 8 and bool(said) == (endings < 2):  # one that ends early; the last is empty
            compare_replies(student, oracle, tables, uniforms, top_p=top_p)
            endings += 1


def use(lib: Session, tables: dict, uniforms: list[float], settings: dict, *mode: bool) -> dict:
    found = chat(lib, tables, uniforms, settings, *mode)
    return {name: found[name] for name in ("reply", "drawn", "recorded", "noisy", "training")}


@check("8.4", weight=1)
def test_length(student, oracle, rng):
    """max_new_tokens limits the reply."""
    tables = model(rng)
    for limit in (1, 2, 5):
        compare_replies(student, oracle, tables, [0.5], max_new_tokens=limit)


@check("8.4", weight=1)
def test_mode(student, oracle, rng):
    """A module is used in evaluation mode without gradients, and afterwards is in the mode that it was in."""
    tables, uniforms = model(rng), numbers(rng)
    for training in (True, False):
        for top_p in (None, 0.7):
            with at(f"a module with training={training}, top_p={top_p}"):
                args = tables, uniforms, {"top_p": top_p}, False, training
                got, want = use(student, *args), oracle(use, *args)
                for name, what in (
                    ("noisy", "whether the model was called in training mode"),
                    ("recorded", "whether gradients were recorded"),
                    ("training", "model.training afterwards"),
                    ("reply", "the reply"),
                ):
                    equal(got[name], want[name], what)


@check("8.4", weight=1, tier="advanced")
def test_grad_mode(student, oracle, rng):
    """After the reply gradients are recorded if they were recorded before it, and not if they were not."""
    tables = model(rng)
    for recorded in (True, False):
        with at(f"torch.set_grad_enabled({recorded}) before the call"):
            found = chat(student, tables, [0.5], {"max_new_tokens": 2}, grad=recorded)
            equal(found["grad"], recorded, "torch.is_grad_enabled() afterwards")


@check("8.4", weight=1, tier="advanced")
def test_one_number_each(student, oracle, rng):
    """uniform is called once for each token of a reply, eos_id included, and never in greedy decoding."""
    for top_p, early in ((None, False), (0.9, False), (0.9, True)):
        while True:
            tables, uniforms = model(rng, ending=2.5 if early else -9.0, scale=1.0), numbers(rng)
            args = tables, uniforms, {"top_p": top_p}
            if (len(oracle(text, *args)) < 8) == early:
                break
        with at(f"top_p={top_p}, max_new_tokens=8, a reply that {'ends early' if early else 'is cut off'}"):
            got, want = use(student, *args), oracle(use, *args)
            equal(got["drawn"], want["drawn"], "how often uniform was called")


def seen(lib: Session, tables: dict, settings: dict) -> list:
    found = chat(lib, tables, [0.5], settings)
    return [found["shapes"], found["dtypes"]]


@check("8.4", weight=1)
def test_model_input(student, oracle, rng):
    """Each call gives the model all ids so far, of shape (1, length) and dtype int64."""
    tables = model(rng)
    for settings in ({}, {"history": TURNS}):
        with at("max_new_tokens=8" + (f", history={TURNS}" if settings else "")):
            got, want = seen(student, tables, settings), oracle(seen, tables, settings)
            equal(got[1], want[1], "the dtypes of the model's inputs")
            equal(got[0], want[0], "the shapes of the model's inputs, call by call")


@check("8.4", weight=1)
def test_reply_refuses(student, oracle, rng):
    """top_p outside of (0, 1] and a temperature that is not greater than 0 are a ValueError."""
    tables = model(rng)
    for settings in ({"top_p": 0.0}, {"top_p": 1.5}, {"top_p": -0.5}, {"top_p": 0.5, "temperature": 0.0}, {"temperature": -1.0}):
        with at(", ".join(f"{name}={value}" for name, value in settings.items())):
            student.raises("ValueError", act=lambda s=settings: chat(student, tables, [0.5], s))
