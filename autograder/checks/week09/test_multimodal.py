"""Checks of week 9: LoRA of a convolution, the loss of a diffusion model and a DDIM step, blended styles, fused projections."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograder.judge.check import Handle, Session, at, check, close, demand, equal, tensor

# --- task 9.1 ---


class Conv(NamedTuple):
    """A layer's whole state: base.weight (out, in, kh, kw), base.bias or None, A (rank, in, kh, kw), B (out, rank), alpha."""

    weight: np.ndarray
    bias: np.ndarray | None
    A: np.ndarray
    B: np.ndarray
    alpha: float
    options: dict[str, Any]

    @property
    def rung(self) -> str:
        _, in_channels, kh, kw = self.A.shape
        sizes = f"in_channels={in_channels}, out_channels={len(self.B)}, kernel_size=({kh}, {kw}), rank={len(self.A)}"
        more = "".join(f", {name}={value}" for name, value in self.options.items())
        said = f"{sizes}, alpha={self.alpha}{more}"
        return said if self.bias is not None else f"{said}, no bias"


# in, out, kernel, rank, alpha, bias, options; smallest first
CONVS: tuple[tuple[int, int, tuple[int, int], int, float, bool, dict[str, Any]], ...] = (
    (2, 3, (1, 1), 1, 1.5, False, {}),
    (3, 5, (2, 3), 2, 3.0, True, {}),
    (2, 4, (3, 3), 3, 12.0, True, {"padding": 1}),
    (3, 4, (3, 2), 2, 5.0, False, {"stride": (2, 1), "padding": (0, 1)}),
    (2, 5, (2, 2), 4, 2.0, True, {"dilation": (1, 2)}),
    (1, 6, (2, 3), 5, 2.5, True, {"stride": 2, "padding": (2, 1), "dilation": 2}),
    (2, 3, (3, 3), 2, 7.0, True, {"padding": "same", "dilation": 2}),
)


def draw_conv(rng, in_channels, out_channels, kernel, rank, alpha, bias, options) -> Conv:
    weight, A = rng.standard_normal((out_channels, in_channels, *kernel)), rng.standard_normal((rank, in_channels, *kernel))
    B = rng.standard_normal((out_channels, rank, 1, 1))
    return Conv(weight, rng.standard_normal(out_channels) if bias else None, A, B, alpha, options)


def new_conv(lib: Session, case: Conv, dtype: str = "float64") -> tuple[Handle, Handle]:
    bias = None if case.bias is None else tensor(case.bias, dtype)
    base = lib.build("week09.conv", weight=tensor(case.weight, dtype), bias=bias, **case.options)
    return base, lib.LoRAConv2d(base, len(case.A), case.alpha)


def make_conv(lib: Session, case: Conv, dtype: str = "float64") -> Handle:
    _, layer = new_conv(lib, case, dtype)
    layer.to(lib.build("dtype", name=dtype))  # a factor of another dtype is a check of its own
    lib.write(layer.lora_A, case.A, dtype)
    lib.write(layer.lora_B, case.B, dtype)
    return layer


def conv_output(lib: Session, case: Conv, x: np.ndarray, shape: tuple[int, ...], *calls: str) -> np.ndarray:
    layer = make_conv(lib, case)
    for call in calls:
        getattr(layer, call)()
    return lib.read(layer(tensor(x)), shape)


def conv_shape(lib: Session, case: Conv, x: np.ndarray) -> tuple[int, ...]:
    base, _ = new_conv(lib, case)
    return tuple(lib.probe("week09.look", base(tensor(x))).data.shape)


@check("9.1", weight=4, gate=True)
def test_conv_forward(student, oracle, rng):
    """The output is base(x) + (alpha / rank) B * (A * x), for any stride, padding and dilation of the base."""
    for rung in CONVS:
        case = draw_conv(rng, *rung)
        x = rng.standard_normal((2, rung[0], 6, 7))
        shape = oracle(conv_shape, case, x)
        with at(f"{case.rung}, x of shape {x.shape}"):
            close(conv_output(student, case, x, shape), oracle(conv_output, case, x, shape), "layer(x)")


def conv_weight(lib: Session, case: Conv, *calls: str, dtype: str = "float64") -> np.ndarray:
    """base.weight, the Parameter that it was at first, after some calls of merge and unmerge."""
    layer = make_conv(lib, case, dtype)
    weight = lib.keep(layer.base.weight)
    for call in calls:
        getattr(layer, call)()
    return lib.read(weight, case.weight.shape, dtype)


@check("9.1", weight=3, gate=True)
def test_conv_merge(student, oracle, rng):
    """merge() adds (alpha / rank) sum_r B[o, r] A[r, i, h, w] to base.weight, in place."""
    for rung in CONVS:
        case = draw_conv(rng, *rung)
        with at(case.rung):
            close(conv_weight(student, case, "merge"), oracle(conv_weight, case, "merge"), "base.weight after merge()")


@check("9.1", weight=2)
def test_conv_merged_output(student, oracle, rng):
    """The output is the same before merge(), after it and after unmerge(): a merged layer leaves the branch out."""
    for rung in CONVS[1:4]:
        case = draw_conv(rng, *rung)
        x = rng.standard_normal((2, rung[0], 6, 7))
        shape = oracle(conv_shape, case, x)
        want = oracle(conv_output, case, x, shape)
        for calls in (("merge",), ("merge", "unmerge"), ("merge", "unmerge", "merge")):
            with at(f"{case.rung}, after {', '.join(calls)}"):
                close(conv_output(student, case, x, shape, *calls), want, "layer(x)")


@check("9.1", weight=1)
def test_conv_unmerge(student, oracle, rng):
    """merge() then unmerge() brings each weight back within 4 eps (|W0| + |dW|), in float32."""
    eps = float(np.finfo(np.float32).eps)
    for rung in CONVS[:4]:
        case = draw_conv(rng, *rung)
        # Of one sign: where terms of B A cancel, a correct fused product rounds by more than |dW| tells.
        case = case._replace(A=np.abs(case.A), B=1e3 * np.abs(case.B))
        before = case.weight.astype(np.float32)
        bound = 4 * eps * (np.abs(before) + np.abs(oracle(conv_weight, case, "merge") - case.weight))
        with at(f"{case.rung}, B of size 1000"):
            after = conv_weight(student, case, "merge", "unmerge", dtype="float32")
            close(after, before, "base.weight after merge() and unmerge()", rtol=0, atol=bound)


def flags_of(lib: Session, layer: Handle, calls: tuple[str, ...]) -> list[bool]:
    """`merged` at first and after each of the calls."""
    found = [lib.flag(layer.merged)]
    for call in calls:
        getattr(layer, call)()
        found.append(lib.flag(layer.merged))
    return found


def flags_after(lib: Session, case: Conv, calls: tuple[str, ...]) -> list[bool]:
    return flags_of(lib, make_conv(lib, case), calls)


@check("9.1", weight=1)
def test_conv_twice_is_once(student, oracle, rng):
    """A second merge() or unmerge() does nothing, unmerge() before merge() neither; `merged` tells the state."""
    case = draw_conv(rng, *CONVS[2])
    for calls in (("unmerge",), ("merge", "merge"), ("merge", "unmerge", "unmerge"), ("merge", "merge", "unmerge")):
        with at(f"{case.rung}, the calls {', '.join(calls)}"):
            close(conv_weight(student, case, *calls), oracle(conv_weight, case, *calls), "base.weight", atol=1e-12)
            equal(flags_after(student, case, calls), oracle(flags_after, case, calls), "merged, at first and after each call")


@check("9.1", weight=1, tier="advanced")
def test_conv_modes(student, oracle, rng):
    """train() and eval() merge nothing and unmerge nothing: only merge() and unmerge() change `merged` and the weight."""
    case = draw_conv(rng, *CONVS[2])
    for calls in (("eval",), ("train",), ("merge", "train"), ("eval", "merge", "unmerge", "eval")):
        with at(f"{case.rung}, the calls {', '.join(calls)}"):
            close(conv_weight(student, case, *calls), oracle(conv_weight, case, *calls), "base.weight", atol=1e-12)
            equal(flags_after(student, case, calls), oracle(flags_after, case, calls), "merged, at first and after each call")


def conv_state(lib: Session, case: Conv, *calls: str) -> dict[str, Any]:
    """The numbers that the layer tells, and what must not move: the bias and the factors."""
    layer = make_conv(lib, case)
    for call in calls:
        getattr(layer, call)()
    numbers = [lib.number(layer.rank), lib.number(layer.alpha), lib.number(layer.scaling)]
    parts = [lib.read(layer.lora_A, case.A.shape), lib.read(layer.lora_B, case.B.shape)]
    if case.bias is not None:
        parts.append(lib.read(layer.base.bias, case.bias.shape))
    return {"numbers": numbers, "parts": parts, "trainable": lib.names_of("trainable_names", layer)}


@check("9.1", weight=1)
def test_conv_attributes(student, oracle, rng):
    """rank, alpha and scaling are those of the contract, lora_A and lora_B alone are trainable, and merging moves neither."""
    for rung in CONVS[:3]:
        case = draw_conv(rng, *rung)
        for calls in ((), ("merge",)):
            with at(case.rung + "".join(f", after {call}()" for call in calls)):
                got, want = conv_state(student, case, *calls), oracle(conv_state, case, *calls)
                close(np.array(got["numbers"]), np.array(want["numbers"]), "[rank, alpha, scaling]")
                for name, mine, right in zip(("lora_A", "lora_B", "base.bias"), got["parts"], want["parts"], strict=False):
                    close(mine, right, name, rtol=0)
                equal(got["trainable"], want["trainable"], "the list of trainable parameters")


def conv_start(lib: Session, case: Conv, x: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, layer = new_conv(lib, case)
    layer.double()
    A, B = lib.read(layer.lora_A, case.A.shape, free=True), lib.read(layer.lora_B, case.B.shape, free=True)
    return A, B, lib.read(layer(tensor(x)), shape, free=True)


@check("9.1", weight=1)
def test_conv_start(student, oracle, rng):
    """A new layer computes what its base does: B is zero, while the kernels of A are random and independent."""
    for rung in CONVS[:4]:
        case = draw_conv(rng, *rung)
        x = rng.standard_normal((2, rung[0], 6, 7))
        shape = oracle(conv_shape, case, x)
        with at(case.rung):
            A, B, y = conv_start(student, case, x, shape)
            _, zero, base_only = oracle(conv_start, case, x, shape)
            found = int(np.linalg.matrix_rank(A.reshape(len(A), -1)))
            student.note([bool(B.any()), found])
            close(B, zero, "lora_B of a new layer", rtol=0)
            demand(found == len(A), f"lora_A has {found} linearly independent kernels\n  expected: {len(A)}")
            close(y, base_only, "layer(x) of a new layer")


def conv_gradients(lib: Session, case: Conv, x: np.ndarray, g: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    result = lib.probe("vjp", make_conv(lib, case), tensor(x), tensor(g))
    found = result["parameters"]
    arrays = [
        lib.array(found.get(name), f"the gradient of {name}", like.shape)
        for name, like in (("lora_A", case.A), ("lora_B", case.B))
    ]
    return sorted(found), [*arrays, lib.array(result["x"], "the gradient of x", x.shape)]


@check("9.1", weight=2)
def test_conv_gradients(student, oracle, rng):
    """Back-propagation gives lora_A, lora_B and x their exact gradients, and the base none."""
    for rung in CONVS[1:4]:
        case = draw_conv(rng, *rung)
        x = rng.standard_normal((2, rung[0], 6, 7))
        g = rng.standard_normal(oracle(conv_shape, case, x))
        with at(case.rung):
            names, got = conv_gradients(student, case, x, g)
            want_names, want = oracle(conv_gradients, case, x, g)
            for what, mine, right in zip(("lora_A", "lora_B", "x"), got, want, strict=True):
                close(mine, right, f"the gradient of {what}")
            equal(names, want_names, "the list of parameters that got a gradient")


@check("9.1", weight=1, tier="advanced")
def test_conv_dtype(student, oracle, rng):
    """The factors and the output have the dtype of the base layer."""
    case = draw_conv(rng, *CONVS[2])
    x = rng.standard_normal((2, 2, 6, 7))
    for dtype in ("float32", "float64", "bfloat16"):
        with at(f"a base layer of dtype {dtype}"):
            _, layer = new_conv(student, case, dtype)
            student.read(layer.lora_A, case.A.shape, dtype, free=True)
            student.read(layer.lora_B, case.B.shape, dtype, free=True)
            student.read(layer(tensor(x, dtype)), (2, 4, 6, 7), dtype, free=True)


@check("9.1", weight=1, tier="advanced")
def test_conv_base_is_kept(student, oracle, rng):
    """`base` is the very layer that was passed in: a change of its weight changes the output, and unmerge() comes back to it."""
    case = draw_conv(rng, *CONVS[1])
    x = rng.standard_normal((2, 3, 6, 7))
    shape = oracle(conv_shape, case, x)
    other = case._replace(weight=rng.standard_normal(case.weight.shape))
    with at(case.rung):
        base, layer = new_conv(student, case)
        layer.double()
        student.write(layer.lora_A, case.A)
        student.write(layer.lora_B, case.B)
        student.write(base.weight, other.weight)
        want = oracle(conv_output, other, x, shape)
        close(student.read(layer(tensor(x)), shape), want, "layer(x) after base.weight was changed")
        layer.merge()
        layer.unmerge()
        after = student.read(base.weight, other.weight.shape)
        close(after, other.weight, "base.weight after a change, merge() and unmerge()", atol=1e-12)
        equal(student.probe("same", layer.base, base), True, "whether layer.base is the layer that was passed in")


@check("9.1", weight=1, tier="advanced")
def test_conv_refuses(student, oracle, rng):
    """A rank out of range, groups other than 1, or a padding mode other than zeros is a ValueError."""
    # weight's shape, rank, options; the largest ranks that are allowed come first
    for shape, rank in (((3, 2, 2, 2), 3), ((9, 2, 2, 1), 4)):
        with at(f"a kernel of shape {shape}, rank={rank}"):
            base = student.build("week09.conv", weight=tensor(rng.standard_normal(shape)), bias=None)
            student.read(student.LoRAConv2d(base, rank, 1.0).lora_B, (shape[0], rank, 1, 1), free=True)
    for shape, rank, options in (
        ((3, 2, 2, 2), 4, {}),
        ((9, 2, 2, 1), 5, {}),
        ((3, 2, 2, 2), 0, {}),
        ((3, 2, 2, 2), -1, {}),
        ((4, 2, 2, 2), 1, {"groups": 2}),
        ((4, 1, 3, 3), 1, {"groups": 4}),
        ((3, 2, 3, 3), 1, {"padding": 1, "padding_mode": "circular"}),
        ((3, 2, 3, 3), 1, {"padding": 1, "padding_mode": "reflect"}),
    ):
        with at(f"a kernel of shape {shape}, rank={rank}" + "".join(f", {k}={v}" for k, v in options.items())):
            base = student.build("week09.conv", weight=tensor(rng.standard_normal(shape)), bias=None, **options)
            student.raises("ValueError", act=lambda base=base, rank=rank: student.LoRAConv2d(base, rank, 1.0))


# --- task 9.2 ---


class Noised(NamedTuple):
    """What a loss is made of."""

    x0: np.ndarray
    timesteps: np.ndarray
    noise: np.ndarray
    alphas_cumprod: np.ndarray
    seed: int


# the shape of x0, the timesteps of its samples, how many timesteps there are; smallest first
NOISED = (((1, 2), (1,), 3), ((2, 3), (4, 0), 5), ((3, 4, 2), (6, 0, 2), 7), ((4, 2, 5, 3), (1, 8, 8, 3), 9))


def schedule(rng, timesteps: int) -> np.ndarray:
    """abar of each timestep, falling from near one to near zero."""
    return np.cumprod(rng.uniform(0.6, 0.95, timesteps))


def draw_noised(rng, shape, timesteps, total) -> Noised:
    x0, noise = rng.standard_normal(shape), rng.standard_normal(shape)
    return Noised(x0, np.array(timesteps), noise, schedule(rng, total), int(rng.integers(2**31)))


def loss_of(lib: Session, case: Noised, dtype: str) -> tuple[Handle, Handle]:
    model = lib.build("week09.denoiser", seed=case.seed, width=case.x0.shape[-1], timesteps=len(case.alphas_cumprod), dtype=dtype)
    sent = tensor(case.x0, dtype), tensor(case.timesteps), tensor(case.noise, dtype), tensor(case.alphas_cumprod)
    return model, lib.keep(lib.diffusion_loss(model, *sent))


def loss(lib: Session, case: Noised, dtype: str = "float64") -> np.ndarray:
    return lib.read(loss_of(lib, case, dtype)[1], (), dtype)


@check("9.2", weight=3, gate=True)
def test_loss(student, oracle, rng):
    """The loss is the mean of (noise - model(x_t, timesteps))^2 over all elements, each sample at its own timestep."""
    for rung in NOISED:
        case = draw_noised(rng, *rung)
        with at(f"x0 of shape {rung[0]}, timesteps={list(rung[1])} of {rung[2]}"):
            close(loss(student, case), oracle(loss, case), "the loss")


def model_calls(lib: Session, case: Noised, dtype: str) -> list[Any]:
    model, value = loss_of(lib, case, dtype)
    lib.read(value, (), dtype)
    return lib.probe("week09.calls", model)


@check("9.2", weight=2)
def test_model_is_called(student, oracle, rng):
    """The model is called once, with x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise and the timesteps as they were given."""
    # float32: some ten roundings, relative to the largest value
    for rung, dtype, rtol in (*((r, "float64", 1e-9) for r in NOISED), (NOISED[2], "float32", 1e-6)):
        case = draw_noised(rng, *rung)
        with at(f"x0 of shape {rung[0]} and dtype {dtype}, timesteps={list(rung[1])} of {rung[2]}"):
            got, want = model_calls(student, case, dtype), oracle(model_calls, case, dtype)
            equal(len(got), len(want), "how often the model was called")
            close(student.array(got[0][0], "x_t", rung[0], dtype), want[0][0].data, "x_t", rtol=rtol)
            sent = student.array(got[0][1], "the timesteps that the model got", case.timesteps.shape, "int64")
            close(sent, case.timesteps, "the timesteps that the model got", rtol=0)


def loss_gradients(lib: Session, case: Noised) -> dict[str, Any]:
    return lib.probe("week09.learned", *loss_of(lib, case, "float64"))


@check("9.2", weight=1)
def test_loss_gradients(student, oracle, rng):
    """The loss gives the model's parameters their exact gradients."""
    for rung in NOISED[1:3]:
        case = draw_noised(rng, *rung)
        with at(f"x0 of shape {rung[0]}, timesteps={list(rung[1])} of {rung[2]}"):
            got, want = loss_gradients(student, case), oracle(loss_gradients, case)
            for name, value in want.items():
                mine = student.array(got.get(name), f"the gradient of {name}", value.data.shape)
                close(mine, value.data, f"the gradient of {name}")


class Step(NamedTuple):
    """One step of DDIM."""

    x_t: np.ndarray
    eps: np.ndarray
    t: int
    t_prev: int
    alphas_cumprod: np.ndarray
    eta: float
    noise: np.ndarray | None

    @property
    def rung(self) -> str:
        noise = "" if self.noise is not None else ", noise=None"
        return f"x_t of shape {self.x_t.shape}, t={self.t}, t_prev={self.t_prev}, eta={self.eta}{noise}"


def draw_step(rng, shape, t, t_prev, total, eta, noisy=True) -> Step:
    x_t, eps, noise = (rng.standard_normal(shape) for _ in range(3))
    return Step(x_t, eps, t, t_prev, schedule(rng, total), eta, noise if noisy else None)


def step(lib: Session, case: Step, dtype: str = "float64") -> np.ndarray:
    x_t, eps, noise = (None if a is None else tensor(a, dtype) for a in (case.x_t, case.eps, case.noise))
    options = {} if noise is None else {"eta": case.eta, "noise": noise}  # an eta of 0 is the default
    result = lib.ddim_step(x_t, eps, case.t, case.t_prev, tensor(case.alphas_cumprod), **options)
    return lib.read(result, case.x_t.shape, dtype)


def compare_steps(student, oracle, rng, rungs) -> None:
    for rung in rungs:
        case = draw_step(rng, *rung)
        with at(case.rung):
            # What cancels in x_t - sqrt(1 - abar_t) eps is divided by sqrt(abar_t), which is above 0.1 here.
            close(step(student, case), oracle(step, case), "x_prev")


@check("9.2", weight=3, gate=True)
def test_deterministic_step(student, oracle, rng):
    """With eta = 0 the step is equation (12) without noise, for neighbouring and for distant timesteps."""
    compare_steps(
        student,
        oracle,
        rng,
        (((2,), 1, 0, 3, 0.0, False), ((2, 3), 3, 2, 4, 0.0, False), ((2, 1, 4), 5, 1, 6, 0.0, False), ((3, 2), 4, 1, 5, 0.0)),
    )


@check("9.2", weight=2, gate=True)
def test_noisy_step(student, oracle, rng):
    """With eta > 0 sigma scales the noise, and what it adds is taken from the direction to x_t."""
    compare_steps(
        student,
        oracle,
        rng,
        (((2,), 1, 0, 3, 1.0), ((2, 3), 3, 2, 4, 0.5), ((2, 1, 4), 5, 1, 6, 0.3), ((3, 2), 4, 1, 5, 1.0)),
    )


@check("9.2", weight=2)
def test_last_step(student, oracle, rng):
    """With t_prev = -1 the result is the predicted clean sample, as abar is 1 before the first timestep; nothing is clipped."""
    compare_steps(
        student,
        oracle,
        rng,
        (((2,), 0, -1, 3, 0.0, False), ((2, 3), 2, -1, 4, 0.0, False), ((3, 2), 0, -1, 5, 1.0), ((40,), 4, -1, 5, 0.5)),
    )


@check("9.2", weight=1, tier="advanced")
def test_diffusion_dtypes(student, oracle, rng):
    """float32 samples give a float32 loss and a float32 step, although alphas_cumprod is float64."""
    noised = draw_noised(rng, *NOISED[2])
    with at("x0 of dtype float32"):
        close(loss(student, noised, "float32"), oracle(loss, noised, "float32"), "the loss", rtol=1e-5)
    for eta, noisy in ((0.0, False), (0.7, True)):
        case = draw_step(rng, (2, 3), 3, 1, 5, eta, noisy)
        with at(f"{case.rung}, dtype float32"):
            close(step(student, case, "float32"), oracle(step, case, "float32"), "x_prev", rtol=1e-5)


@check("9.2", weight=1, tier="advanced")
def test_diffusion_changes_nothing(student, oracle, rng):
    """x0, x_t, eps, noise, the timesteps and alphas_cumprod are as they were after both calls."""
    noised, stepped = draw_noised(rng, *NOISED[1]), draw_step(rng, (2, 3), 3, 1, 5, 0.5)
    model = student.build("week09.denoiser", seed=noised.seed, width=3, timesteps=5, dtype="float64")
    values = (noised.x0, noised.timesteps, noised.noise, noised.alphas_cumprod)
    kept = student.build("held", value=[tensor(value) for value in values])
    student.read(student.diffusion_loss(model, *(kept[i] for i in range(4))), ())
    for i, name in enumerate(("x0", "timesteps", "noise", "alphas_cumprod")):
        close(student.read(kept[i], values[i].shape, values[i].dtype.name), values[i], f"{name} after diffusion_loss", rtol=0)
    values = (stepped.x_t, stepped.eps, stepped.alphas_cumprod, stepped.noise)
    kept = student.build("held", value=[tensor(value) for value in values])
    student.read(student.ddim_step(kept[0], kept[1], 3, 1, kept[2], eta=0.5, noise=kept[3]), (2, 3))
    for i, name in enumerate(("x_t", "eps", "alphas_cumprod", "noise")):
        close(student.read(kept[i], values[i].shape), values[i], f"{name} after ddim_step", rtol=0)


@check("9.2", weight=1, tier="advanced")
def test_loss_refuses(student, oracle, rng):
    """Shapes that do not fit, and timesteps that do not exist, are a ValueError before the model is called."""
    case = draw_noised(rng, *NOISED[1])  # x0 (2, 3), five timesteps
    for name, wrong in (
        ("timesteps of -1 and 0", case._replace(timesteps=np.array([-1, 0]))),
        ("timesteps of 5 and 0, of 5", case._replace(timesteps=np.array([5, 0]))),
        ("one timestep for two samples", case._replace(timesteps=np.array([1]))),
        ("timesteps of shape (2, 1)", case._replace(timesteps=np.array([[1], [2]]))),
        ("noise of shape (1, 3) for x0 of shape (2, 3)", case._replace(noise=case.noise[:1])),
        ("noise of shape (3,) for x0 of shape (2, 3)", case._replace(noise=case.noise[0])),
    ):
        with at(name):
            model = student.build("week09.denoiser", seed=case.seed, width=3, timesteps=7, dtype="float64")
            sent = [tensor(a) for a in (wrong.x0, wrong.timesteps, wrong.noise, wrong.alphas_cumprod)]
            student.raises("ValueError", act=lambda model=model, sent=sent: student.diffusion_loss(model, *sent))
            equal(len(student.probe("week09.calls", model)), 0, "how often the model was called")


@check("9.2", weight=1, tier="advanced")
def test_step_refuses(student, oracle, rng):
    """Steps that do not exist, an eta outside [0, 1], and a missing noise are a ValueError."""
    case = draw_step(rng, (2, 3), 3, 1, 5, 0.0, False)
    noise = rng.standard_normal((2, 3))
    for wrong in (
        case._replace(t=1),
        case._replace(t=1, t_prev=2),
        case._replace(t=5),
        case._replace(t_prev=-2),
        case._replace(t=-1, t_prev=-1),
        case._replace(eta=0.5),
        case._replace(eta=0.5, t_prev=-1),
        case._replace(eta=-0.1, noise=noise),
        case._replace(eta=1.1, noise=noise),
    ):
        with at(f"{wrong.rung}, five timesteps"):
            sent = {"noise": None if wrong.noise is None else tensor(wrong.noise), "eta": wrong.eta}
            args = tensor(wrong.x_t), tensor(wrong.eps), wrong.t, wrong.t_prev, tensor(wrong.alphas_cumprod)
            student.raises("ValueError", act=lambda args=args, sent=sent: student.ddim_step(*args, **sent))


# --- task 9.3 ---

# The Linear layers of the model "week09.picture" by the shape (out, in) of their weights, for width 4 and hidden 2.
WIDTH, HIDDEN = 4, 2
LAYERS = {
    "head": (6, 4),
    "blocks.0.attn.qkv": (6, 4),
    "blocks.0.attn.proj": (4, 6),
    "blocks.0.aqkv": (5, 4),
    "blocks.1.attn.qkv": (6, 4),
    "blocks.1.aqkv": (5, 4),
}
Styles = dict[str, dict[str, tuple[np.ndarray, np.ndarray, float]]]
# of each style the layers that it adapts, with rank and alpha
PLANS: dict[str, dict[str, tuple[int, float]]] = {
    "ink": {"head": (1, 3.0), "blocks.0.attn.proj": (3, 2.0)},
    "oil": {"head": (2, 5.0), "blocks.1.aqkv": (3, 8.0), "blocks.0.attn.qkv": (1, 1.5)},
    "pop": {"blocks.1.attn.qkv": (2, 7.0), "head": (3, 4.0)},
}


def draw_styles(rng, *names: str) -> Styles:
    return {
        name: {
            layer: (rng.standard_normal((rank, LAYERS[layer][1])), rng.standard_normal((LAYERS[layer][0], rank)), alpha)
            for layer, (rank, alpha) in PLANS[name].items()
        }
        for name in names
    }


def sent_styles(styles: Styles, dtype: str = "float64") -> dict[str, Any]:
    return {
        name: {
            layer: {"lora_A": tensor(A, dtype), "lora_B": tensor(B, dtype), "alpha": alpha}
            for layer, (A, B, alpha) in style.items()
        }
        for name, style in styles.items()
    }


def blended(lib: Session, seed: int, styles: Styles, calls: tuple[dict[str, float], ...], dtype: str = "float64") -> dict:
    """The model's state, after a StyleBlender was made and some blends."""
    model = lib.build("week09.picture", seed=seed, width=WIDTH, hidden=HIDDEN, dtype=dtype)
    before = lib.build("week09.parameters_of", model=model)
    blender = lib.StyleBlender(model, sent_styles(styles, dtype))
    for scales in calls:
        blender.blend_styles(scales)
    return lib.probe("week09.state", model, before)


def original(lib: Session, seed: int, dtype: str) -> dict:
    model = lib.build("week09.picture", seed=seed, width=WIDTH, hidden=HIDDEN, dtype=dtype)
    return lib.probe("week09.state", model, lib.build("week09.parameters_of", model=model))


def compare_values(student: Session, got: dict, want: dict, rtol: float = 1e-9, dtype: str = "float64") -> None:
    for name, value in want["values"].items():
        mine = student.array(got["values"].get(name), name, value.data.shape, dtype)
        close(mine, value.data, name, rtol=rtol)


SINGLE = (("ink", 1.0), ("oil", -0.5), ("pop", 2.5))


@check("9.3", weight=3, gate=True)
def test_one_style(student, oracle, rng):
    """One style changes the weights of its layers by scale (alpha / rank) B A, and nothing else."""
    for name, scale in SINGLE:
        styles, seed = draw_styles(rng, name), int(rng.integers(2**31))
        case = seed, styles, ({name: scale},)
        with at(f"the style {name!r} with {PLANS[name]} (rank, alpha), scale {scale}"):
            compare_values(student, blended(student, *case), oracle(blended, *case))


@check("9.3", weight=3, gate=True)
def test_several_styles(student, oracle, rng):
    """Several styles add up, each with its own scale, alpha and rank; one without a scale has none."""
    for scales in ({"ink": 1.0, "oil": 0.5}, {"pop": 0.25, "ink": -1.5}, {"oil": 0.3, "pop": 1.2, "ink": 0.7}, {"oil": 0.0}):
        case = int(rng.integers(2**31)), draw_styles(rng, *PLANS), (scales,)
        with at(f"the styles {list(PLANS)}, scales={scales}"):
            compare_values(student, blended(student, *case), oracle(blended, *case))


@check("9.3", weight=3)
def test_blends_do_not_pile_up(student, oracle, rng):
    """Every call starts from the original weights: what was blended before leaves no trace."""
    for calls in (
        ({"ink": 1.0}, {"ink": 1.0}),
        ({"ink": 1.0, "oil": 2.0}, {"pop": 0.5}),
        ({"oil": 1.0}, {"oil": 0.25, "ink": 0.5}, {"ink": 2.0}),
    ):
        case = int(rng.integers(2**31)), draw_styles(rng, *PLANS), calls
        with at(f"the blends {list(calls)}, one after the other"):
            compare_values(student, blended(student, *case), oracle(blended, *case))


@check("9.3", weight=2)
def test_restored_exactly(student, oracle, rng):
    """blend_styles({}) restores every weight bit for bit, and so does a blend whose scales are all 0."""
    for dtype in ("float64", "float32", "bfloat16"):
        for calls in (
            (),
            ({"ink": 1.0, "oil": 3.0}, {}),
            ({"pop": 0.7}, {"pop": -0.7}, {"oil": 0.0, "ink": 0.0}),
            ({"ink": 300.0}, {"pop": 0.1}, {}),
        ):
            seed, styles = int(rng.integers(2**31)), draw_styles(rng, *PLANS)
            with at(f"weights of dtype {dtype}, the blends {list(calls)}, one after the other"):
                got, want = blended(student, seed, styles, calls, dtype), oracle(original, seed, dtype)
                compare_values(student, got, want, rtol=0, dtype=dtype)


@check("9.3", weight=1)
def test_parameters_are_kept(student, oracle, rng):
    """Each weight stays the same Parameter and keeps its requires_grad."""
    for calls in ((), ({"ink": 1.0, "oil": 0.5},), ({"ink": 1.0}, {})):
        case = int(rng.integers(2**31)), draw_styles(rng, *PLANS), calls
        with at(f"the blends {list(calls)}"):
            got, want = blended(student, *case), oracle(blended, *case)
            equal(got["replaced"], want["replaced"], "the list of parameters that are other objects than before")
            equal(got["trainable"], want["trainable"], "the list of trainable parameters")


def rounding(lib: Session, seed: int, A: np.ndarray, B: np.ndarray, names: list[str], dtype: str, value: float) -> np.ndarray:
    """head.weight, all of `value` at first, after a blend of equal styles of scale 1."""
    model = lib.build("week09.picture", seed=seed, width=WIDTH, hidden=HIDDEN, dtype=dtype)
    lib.write(model.head.weight, np.full(LAYERS["head"], value), dtype)
    styles: Styles = {name: {"head": (A, B, 2.0)} for name in names}
    blender = lib.StyleBlender(model, sent_styles(styles, dtype))
    blender.blend_styles(dict.fromkeys(names, 1.0))
    return lib.read(model.head.weight, LAYERS["head"], dtype)


@check("9.3", weight=1, tier="advanced")
def test_rounded_once(student, oracle, rng):
    """In half precision the sum is taken in float32 or wider and rounded once, so small updates do not get lost."""
    # All powers of two, so that float32 is exact: the updates are a quarter of the spacing of the dtype at the weight, and
    # four of them make up one step of it. Rank 2 and alpha 2, so the scaling is 1; equal rows of A.
    for dtype, spacing in (("bfloat16", 2.0**-7), ("float16", 2.0**-10)):
        names = ["a", "b", "c", "d"]
        A, B = np.full((2, 4), 0.25), np.full((6, 2), spacing / 2)
        value = float(rng.choice([1.0, 1.5, 1.25]))
        with at(f"weights of dtype {dtype} that are {value}, four updates of {spacing / 4}"):
            case = int(rng.integers(2**31)), A, B, names, dtype, value
            close(rounding(student, *case), oracle(rounding, *case), "head.weight", rtol=0)


def products(lib: Session, seed: int, dtype: str, spacing: float) -> np.ndarray:
    """head.weight, zero at first, after a blend of the updates 1 + spacing / 4 and -1."""
    model = lib.build("week09.picture", seed=seed, width=WIDTH, hidden=HIDDEN, dtype=dtype)
    lib.write(model.head.weight, np.zeros(LAYERS["head"]), dtype)
    A, first, second = np.ones((2, 4)), np.tile([1.0, spacing / 4], (6, 1)), np.tile([-1.0, 0.0], (6, 1))
    blender = lib.StyleBlender(model, sent_styles({"a": {"head": (A, first, 2.0)}, "b": {"head": (A, second, 2.0)}}, dtype))
    blender.blend_styles({"a": 1.0, "b": 1.0})
    return lib.read(model.head.weight, LAYERS["head"], dtype)


@check("9.3", weight=1, tier="advanced")
def test_products_are_wide(student, oracle, rng):
    """In half precision the products are taken in float32 or wider as well: the sum is rounded, not each update."""
    # Powers of two again, so that float32 is exact; the first update lies between two numbers of the dtype.
    for dtype, spacing in (("bfloat16", 2.0**-7), ("float16", 2.0**-10)):
        with at(f"weights of dtype {dtype} that are 0, updates of 1 + {spacing / 4} and of -1"):
            case = int(rng.integers(2**31)), dtype, spacing
            close(products(student, *case), oracle(products, *case), "head.weight", rtol=0)


def written(lib: Session, seed: int, styles: Styles, values: dict[str, np.ndarray], *calls: dict[str, float]) -> dict:
    """The model's state after `values` were written into its parameters and a blend followed; once for each of the calls."""
    model = lib.build("week09.picture", seed=seed, width=WIDTH, hidden=HIDDEN)
    before = lib.build("week09.parameters_of", model=model)
    blender = lib.keep(lib.StyleBlender(model, sent_styles(styles)))
    for scales in calls:
        for name, value in values.items():
            lib.write(model.get_parameter(name), value)
        blender.blend_styles(scales)
    return lib.probe("week09.state", model, before)


@check("9.3", weight=1, tier="advanced")
def test_originals_are_those_of_the_start(student, oracle, rng):
    """W0 is what the weights were when the blender was made, whatever is written later; biases and other layers are left."""
    shapes = {"head.weight": LAYERS["head"], "blocks.1.aqkv.bias": LAYERS["blocks.1.aqkv"][:1], "blocks.0.aqkv.weight": (5, 4)}
    for calls in (({},), ({"ink": 1.0},), ({"oil": 0.5}, {}), ({}, {"pop": 2.0})):
        values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        case = int(rng.integers(2**31)), draw_styles(rng, *PLANS), values, *calls
        with at(f"{', '.join(values)} overwritten before each of the blends {list(calls)}"):
            compare_values(student, written(student, *case), oracle(written, *case))


@check("9.3", weight=1, tier="advanced")
def test_styles_are_kept(student, oracle, rng):
    """The tensors of the styles are as they were after blending, and so are the scales."""
    styles = draw_styles(rng, *PLANS)
    model = student.build("week09.picture", seed=int(rng.integers(2**31)), width=WIDTH, hidden=HIDDEN)
    kept = student.build("held", value=sent_styles(styles))
    given = {"ink": 2.0, "pop": 0.5}
    scales = student.build("held", value=given)
    blender = student.StyleBlender(model, kept)
    blender.blend_styles(scales)
    blender.blend_styles({})
    left = student.probe("week09.look", kept)
    equal(sorted(left), sorted(styles), "the names of the styles after the blends")
    for name, style in styles.items():
        equal(sorted(left[name]), sorted(style), f"the layers of the style {name!r} after the blends")
        for layer, (A, B, _) in style.items():
            for key, value in (("lora_A", A), ("lora_B", B)):
                what = f"the factor {key} of the style {name!r} in {layer}"
                close(student.array(left[name][layer].get(key), what, value.shape), value, f"{what} after the blends", rtol=0)
    equal(student.probe("week09.look", scales), given, "the scales after the blend")


@check("9.3", weight=1, tier="advanced")
def test_unknown_style(student, oracle, rng):
    """A scale for a style that does not exist is a ValueError, and nothing is changed."""
    seed = int(rng.integers(2**31))
    for scales in ({"tempera": 1.0}, {"ink": 1.0, "tempera": 0.0}, {"oil": 1.0, "Ink": 1.0}):
        with at(f"the styles {list(PLANS)}, scales={scales}"):
            model = student.build("week09.picture", seed=seed, width=WIDTH, hidden=HIDDEN)
            before = student.build("week09.parameters_of", model=model)
            blender = student.keep(student.StyleBlender(model, sent_styles(draw_styles(rng, *PLANS))))
            student.raises("ValueError", act=lambda b=blender, s=scales: b.blend_styles(s))
            compare_values(student, student.probe("week09.state", model, before), oracle(original, seed, "float64"), rtol=0)


@check("9.3", weight=1, tier="advanced")
def test_layers_must_fit(student, oracle, rng):
    """A style for a layer that is missing or no Linear, or whose factors do not fit, is a ValueError."""
    wrong = {
        "a layer that the model does not have": ("blocks.2.attn.qkv", (2, 4), (6, 2)),
        "the end of a layer's name": ("attn.qkv", (2, 4), (6, 2)),
        "a convolution": ("qkv", (2, 4), (3, 2)),
        "a container": ("blocks.0.attn", (2, 4), (6, 2)),
        "lora_A for another number of input features": ("head", (2, 6), (6, 2)),
        "lora_B for another number of output features": ("head", (2, 4), (1, 2)),
        "factors of two ranks": ("head", (1, 4), (6, 2)),
        "lora_A and lora_B exchanged": ("blocks.0.attn.proj", (4, 2), (2, 6)),
    }
    for what, (layer, shape_A, shape_B) in wrong.items():
        with at(f"{what}, {layer!r}, lora_A of shape {shape_A}, lora_B of shape {shape_B}"):
            model = student.build("week09.picture", seed=1, width=WIDTH, hidden=HIDDEN)
            styles = draw_styles(rng, "ink")
            styles["bad"] = {layer: (rng.standard_normal(shape_A), rng.standard_normal(shape_B), 2.0)}
            student.raises("ValueError", act=lambda m=model, s=styles: student.StyleBlender(m, sent_styles(s)))


# --- task 9.4 ---


class Fused(NamedTuple):
    """A layer's whole state: base.weight (q + k + v, in), base.bias or None, (A, B) of each named slice, alpha, sizes."""

    weight: np.ndarray
    bias: np.ndarray | None
    factors: dict[str, tuple[np.ndarray, np.ndarray]]
    alpha: float
    sizes: tuple[int, int, int] | None

    @property
    def rank(self) -> int:
        return len(next(iter(self.factors.values()))[0])

    @property
    def rung(self) -> str:
        out_features, in_features = self.weight.shape
        sizes = f"in_features={in_features}, out_features={out_features}, slices={list(self.factors)}, rank={self.rank}"
        said = f"{sizes}, alpha={self.alpha}, sizes={self.sizes}"
        return said if self.bias is not None else f"{said}, no bias"


# in_features, sizes, whether they are told, slices, rank, alpha, bias; smallest first
FUSED: tuple[tuple[int, tuple[int, int, int], bool, str, int, float, bool], ...] = (
    (2, (3, 3, 3), False, "q", 1, 1.5, False),
    (3, (2, 2, 2), False, "k", 2, 3.0, True),
    (5, (4, 4, 4), False, "v", 3, 12.0, False),
    (4, (3, 3, 3), False, "vq", 2, 5.0, True),
    (5, (6, 2, 3), True, "k", 2, 7.0, True),
    (4, (5, 3, 1), True, "kv", 1, 2.5, False),
    (3, (4, 2, 5), True, "qvk", 2, 8.0, True),
)


def draw_fused(rng, in_features, sizes, told, slices, rank, alpha, bias) -> Fused:
    size = dict(zip("qkv", sizes, strict=True))
    weight = rng.standard_normal((sum(sizes), in_features))
    factors = {s: (rng.standard_normal((rank, in_features)), rng.standard_normal((size[s], rank))) for s in slices}
    return Fused(weight, rng.standard_normal(sum(sizes)) if bias else None, factors, alpha, sizes if told else None)


def new_fused(lib: Session, case: Fused, dtype: str = "float64") -> tuple[Handle, Handle]:
    bias = None if case.bias is None else tensor(case.bias, dtype)
    base = lib.build("linear", weight=tensor(case.weight, dtype), bias=bias)
    options = {} if case.sizes is None else {"sizes": case.sizes}
    return base, lib.LoRAFusedQKV(base, list(case.factors), case.rank, case.alpha, **options)


def write_factors(lib: Session, layer: Handle, case: Fused) -> None:
    for name, (A, B) in case.factors.items():
        lib.write(getattr(layer.lora_A, name), A)
        lib.write(getattr(layer.lora_B, name), B)


def make_fused(lib: Session, case: Fused) -> Handle:
    _, layer = new_fused(lib, case)
    layer.double()  # a factor of another dtype is a check of its own
    write_factors(lib, layer, case)
    return layer


def fused_output(lib: Session, case: Fused, x: np.ndarray, *calls: str) -> np.ndarray:
    layer = make_fused(lib, case)
    for call in calls:
        getattr(layer, call)()
    return lib.read(layer(tensor(x)), (*x.shape[:-1], len(case.weight)))


@check("9.4", weight=4, gate=True)
def test_fused_forward(student, oracle, rng):
    """The output is base(x), plus (alpha / rank) B_s A_s x in the output features of each named slice and nowhere else."""
    for rung in FUSED:
        case = draw_fused(rng, *rung)
        for leading in ((2, 3), ()):
            x = rng.standard_normal((*leading, rung[0]))
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(fused_output(student, case, x), oracle(fused_output, case, x), "layer(x)")


def fused_weight(lib: Session, case: Fused, *calls: str) -> np.ndarray:
    """base.weight, the Parameter that it was at first, after some calls."""
    layer = make_fused(lib, case)
    weight = lib.keep(layer.base.weight)
    for call in calls:
        getattr(layer, call)()
    return lib.read(weight, case.weight.shape)


@check("9.4", weight=3, gate=True)
def test_fused_merge(student, oracle, rng):
    """merge() adds (alpha / rank) B_s A_s to the rows of each named slice, and the other rows stay bit for bit."""
    for rung in FUSED:
        case = draw_fused(rng, *rung)
        with at(case.rung):
            got, want = fused_weight(student, case, "merge"), oracle(fused_weight, case, "merge")
            close(got, want, "base.weight after merge()")
            kept = (want == case.weight).all(axis=1)
            close(got[kept], case.weight[kept], "the rows of base.weight that no slice names", rtol=0)


@check("9.4", weight=1)
def test_fused_merged_output(student, oracle, rng):
    """The output is the same after merge(), and a second merge() does nothing."""
    for rung in FUSED[3:]:
        case = draw_fused(rng, *rung)
        x = rng.standard_normal((2, rung[0]))
        want = oracle(fused_output, case, x)
        for calls in (("merge",), ("merge", "merge")):
            with at(f"{case.rung}, after {', '.join(calls)}"):
                close(fused_output(student, case, x, *calls), want, "layer(x)")


def fused_flags(lib: Session, case: Fused, calls: tuple[str, ...]) -> list[bool]:
    return flags_of(lib, make_fused(lib, case), calls)


@check("9.4", weight=1, tier="advanced")
def test_fused_modes(student, oracle, rng):
    """train() and eval() merge nothing: only merge() changes `merged` and the weight."""
    case = draw_fused(rng, *FUSED[4])
    for calls in (("eval",), ("train",), ("merge", "train"), ("merge", "eval")):
        with at(f"{case.rung}, the calls {', '.join(calls)}"):
            close(fused_weight(student, case, *calls), oracle(fused_weight, case, *calls), "base.weight", atol=1e-12)
            equal(fused_flags(student, case, calls), oracle(fused_flags, case, calls), "merged, at first and after each call")


def fused_gradients(lib: Session, case: Fused, x: np.ndarray, g: np.ndarray) -> tuple[list[str], dict[str, np.ndarray]]:
    result = lib.probe("vjp", make_fused(lib, case), tensor(x), tensor(g))
    found = result["parameters"]
    arrays = {"x": lib.array(result["x"], "the gradient of x", x.shape)}
    for name, pair in case.factors.items():
        for key, value in zip((f"lora_A.{name}", f"lora_B.{name}"), pair, strict=True):
            arrays[key] = lib.array(found.get(key), f"the gradient of {key}", value.shape)
    return sorted(found), arrays


@check("9.4", weight=2)
def test_fused_gradients(student, oracle, rng):
    """Back-propagation gives x and the factors of the named slices their exact gradients, and nothing else one."""
    for rung in FUSED[1:]:
        case = draw_fused(rng, *rung)
        x, g = rng.standard_normal((4, rung[0])), rng.standard_normal((4, sum(rung[1])))
        with at(case.rung):
            names, got = fused_gradients(student, case, x, g)
            want_names, want = oracle(fused_gradients, case, x, g)
            for name, value in want.items():
                close(got[name], value, f"the gradient of {name}")
            equal(names, want_names, "the list of parameters that got a gradient")


def fused_start(lib: Session, case: Fused, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    _, layer = new_fused(lib, case)
    layer.double()
    A = [lib.read(getattr(layer.lora_A, name), pair[0].shape, free=True) for name, pair in case.factors.items()]
    B = [lib.read(getattr(layer.lora_B, name), pair[1].shape, free=True) for name, pair in case.factors.items()]
    return A, B, lib.read(layer(tensor(x)), (len(x), len(case.weight)), free=True)


@check("9.4", weight=1)
def test_fused_start(student, oracle, rng):
    """A new layer computes what its base does: each B is zero, and each A has random, independent rows of its own."""
    for rung in (FUSED[1], FUSED[3], FUSED[6]):
        case = draw_fused(rng, *rung)
        x = rng.standard_normal((4, rung[0]))
        with at(case.rung):
            As, Bs, y = fused_start(student, case, x)
            base_only = oracle(fused_start, case, x)[2]
            ranks = [int(np.linalg.matrix_rank(A)) for A in As]
            alike = any(np.array_equal(As[0], A) for A in As[1:])
            student.note([any(bool(B.any()) for B in Bs), ranks, alike])
            for name, B in zip(case.factors, Bs, strict=True):
                close(B, np.zeros_like(B), f"lora_B of {name} in a new layer", rtol=0)
            demand(ranks == [case.rank] * len(As), f"lora_A has {ranks} independent rows\n  expected: {case.rank} in each slice")
            demand(not alike, "two slices begin with equal lora_A\n  expected: each is drawn anew")
            close(y, base_only, "layer(x) of a new layer")


def fused_state(lib: Session, case: Fused) -> dict[str, Any]:
    layer = make_fused(lib, case)
    numbers = [lib.number(layer.rank), lib.number(layer.alpha), lib.number(layer.scaling)]
    trainable, before = lib.names_of("trainable_names", layer), lib.flag(layer.merged)
    layer.merge()
    parts = {}
    for name, (A, B) in case.factors.items():
        parts[f"lora_A.{name}"] = lib.read(getattr(layer.lora_A, name), A.shape)
        parts[f"lora_B.{name}"] = lib.read(getattr(layer.lora_B, name), B.shape)
    if case.bias is not None:
        parts["base.bias"] = lib.read(layer.base.bias, case.bias.shape)
    after = lib.names_of("trainable_names", layer)
    flags = [before, lib.flag(layer.merged)]
    return {"numbers": numbers, "trainable": trainable, "merged": flags, "parts": parts, "afterwards": after}


@check("9.4", weight=1)
def test_fused_attributes(student, oracle, rng):
    """rank, alpha, scaling and merged are as said, the named slices' factors alone are trainable, and merge() leaves them so."""
    for rung in FUSED[3:]:
        case = draw_fused(rng, *rung)
        with at(case.rung):
            got, want = fused_state(student, case), oracle(fused_state, case)
            close(np.array(got["numbers"]), np.array(want["numbers"]), "[rank, alpha, scaling]")
            equal(got["trainable"], want["trainable"], "the list of trainable parameters")
            equal(got["merged"], want["merged"], "merged, at first and after merge()")
            for name, value in want["parts"].items():
                close(got["parts"][name], value, f"{name} after merge()", rtol=0)
            equal(got["afterwards"], want["afterwards"], "the list of trainable parameters after merge()")


@check("9.4", weight=1, tier="advanced")
def test_fused_dtype_and_base(student, oracle, rng):
    """The factors and the output have the base's dtype, and `base` is the very layer that was passed in."""
    case = draw_fused(rng, *FUSED[4])
    x = rng.standard_normal((2, 5))
    for dtype in ("float32", "float64", "bfloat16"):
        with at(f"a base layer of dtype {dtype}"):
            base, layer = new_fused(student, case, dtype)
            for name, (A, B) in case.factors.items():
                student.read(getattr(layer.lora_A, name), A.shape, dtype, free=True)
                student.read(getattr(layer.lora_B, name), B.shape, dtype, free=True)
            student.read(layer(tensor(x, dtype)), (2, 11), dtype, free=True)
            equal(student.probe("same", layer.base, base), True, "whether layer.base is the layer that was passed in")


@check("9.4", weight=1, tier="advanced")
def test_fused_refuses(student, oracle, rng):
    """Slices, sizes or a rank that do not fit the layer are a ValueError."""
    # in_features, out_features, slices, rank, sizes; those that are allowed come first
    for in_features, out_features, slices, rank, sizes in ((5, 9, ("q", "v"), 3, None), (5, 9, ("q",), 4, (4, 2, 3))):
        with at(f"in_features={in_features}, out_features={out_features}, slices={slices}, rank={rank}, sizes={sizes}"):
            base = student.build("linear", weight=tensor(rng.standard_normal((out_features, in_features))), bias=None)
            layer = student.LoRAFusedQKV(base, student.build("generator", items=list(slices)), rank, 1.0, sizes=sizes)
            student.read(layer.lora_A.q, (rank, in_features), "float64", free=True)
    for in_features, out_features, slices, rank, sizes in (
        (5, 9, ("q",), 4, None),
        (5, 9, ("q", "k"), 3, (4, 2, 3)),
        (2, 9, ("q",), 3, None),
        (5, 9, ("q",), 0, None),
        (5, 9, (), 1, None),
        (5, 9, ("q", "o"), 1, None),
        (5, 9, ("Q",), 1, None),
        (5, 9, ("qk",), 1, None),
        (5, 10, ("q",), 1, None),
        (5, 9, ("q",), 1, (3, 3, 4)),
        (5, 9, ("q",), 1, (3, 3, 2)),
        (5, 9, ("q",), 1, (5, 4)),
        (5, 9, ("q",), 1, (9, 0, 0)),
        (5, 9, ("q",), 1, (3, 8, -2)),
    ):
        with at(f"in_features={in_features}, out_features={out_features}, slices={slices}, rank={rank}, sizes={sizes}"):
            base = student.build("linear", weight=tensor(rng.standard_normal((out_features, in_features))), bias=None)
            act = lambda b=base, s=slices, r=rank, z=sizes: student.LoRAFusedQKV(b, list(s), r, 1.0, sizes=z)  # noqa: E731
            student.raises("ValueError", act=act)


# width, hidden, targets, slices, rank, alpha, sizes, of the model "week09.picture"
INJECTIONS: tuple[tuple[int, int, tuple[str, ...], tuple[str, ...], int, float, tuple[int, int, int] | None], ...] = (
    (4, 2, ("head",), ("q",), 1, 3.0, None),
    (4, 2, ("qkv",), ("q", "v"), 2, 5.0, None),
    (4, 2, ("blocks.0.attn.qkv", "head"), ("k",), 2, 3.0, None),
    (4, 3, ("head", "blocks.1.attn.qkv"), ("k",), 3, 2.0, None),
    (5, 3, ("attn.qkv", "qkv"), ("v", "k"), 2, 7.0, (5, 2, 2)),
)


def injection(lib: Session, seed: int, case: tuple) -> tuple[list[str], dict[str, Any]]:
    width, hidden, targets, slices, rank, alpha, sizes = case
    model = lib.build("week09.picture", seed=seed, width=width, hidden=hidden)
    before = lib.build("week09.parameters_of", model=model)
    once = [lib.build("generator", items=list(items)) for items in (targets, slices)]
    options = {} if sizes is None else {"sizes": sizes}
    names = lib.names(lib.inject_fused_qkv(model, *once, rank, alpha, **options))
    return names, lib.probe("week09.injected", model, lib.LoRAFusedQKV, before)


def injected_output(lib: Session, seed: int, case: tuple, factors: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """The model's output once the factors of all its new layers are set."""
    width, hidden, targets, slices, rank, alpha, sizes = case
    model = lib.build("week09.picture", seed=seed, width=width, hidden=hidden)
    lib.inject_fused_qkv(model, list(targets), list(slices), rank, alpha, sizes)
    model.double()
    for name, pairs in factors.items():
        layer = lib.keep(model.get_submodule(name))
        for s, (A, B) in pairs.items():
            lib.write(getattr(layer.lora_A, s), A)
            lib.write(getattr(layer.lora_B, s), B)
    return lib.read(model(tensor(x)), (len(x), 3 * hidden))


@check("9.4", weight=3, gate=True)
def test_injected_model(student, oracle, rng):
    """After the injection the model computes with the branches of the targeted layers."""
    for case in INJECTIONS:
        width, hidden, targets, slices, rank, _, sizes = case
        size = dict(zip("qkv", sizes or (hidden,) * 3, strict=True))
        seed, x = int(rng.integers(2**31)), rng.standard_normal((2, width))
        with at(f"targets {list(targets)}, slices {list(slices)}, rank={rank}, sizes={sizes}"):
            factors = {
                name: {s: (rng.standard_normal((rank, width)), rng.standard_normal((size[s], rank))) for s in slices}
                for name in oracle(injection, seed, case)[0]
            }
            got = injected_output(student, seed, case, factors, x)
            close(got, oracle(injected_output, seed, case, factors, x), "model(x)")


@check("9.4", weight=2)
def test_injection(student, oracle, rng):
    """Each Linear whose dotted name is a target, or ends with one behind a dot, is replaced, and no other module."""
    for case in INJECTIONS:
        seed = int(rng.integers(2**31))
        with at(f"targets {list(case[2])}, slices {list(case[3])}"):
            (names, got), (want_names, want) = injection(student, seed, case), oracle(injection, seed, case)
            equal(got["layers"], want["layers"], "the list of places with a LoRAFusedQKV")
            equal(names, want_names, "the list that inject_fused_qkv returned")
            equal(got["kept"], want["kept"], "the names at which the model's old parameters are now")
            for name, value in want["values"].items():
                close(student.array(got["values"][name], name, value.data.shape), value.data, name, rtol=0)


@check("9.4", weight=1)
def test_injection_freezes(student, oracle, rng):
    """After the injection the factors of the new layers are trainable and nothing else is."""
    for case in INJECTIONS:
        seed = int(rng.integers(2**31))
        with at(f"targets {list(case[2])}, slices {list(case[3])}"):
            got, want = injection(student, seed, case)[1], oracle(injection, seed, case)[1]
            equal(got["trainable"], want["trainable"], "the list of trainable parameters")


@check("9.4", weight=1, tier="advanced")
def test_injection_refuses(student, oracle, rng):
    """A target that matches no Linear is a ValueError, before anything is changed."""
    for targets in (("query",), ("attn.qkv", "blocks"), ("head", "patch"), ("kv",), ("attn",), ("attn.q.v",)):
        with at(f"targets {list(targets)}"):
            model = student.build("week09.picture", seed=3, width=4, hidden=2)
            before = student.build("week09.parameters_of", model=model)
            untouched = student.probe("week09.state", model, before)
            once = student.build("generator", items=list(targets))
            act = lambda m=model, t=once: student.inject_fused_qkv(m, t, ["q"], 1, 2.0)  # noqa: E731
            student.raises("ValueError", act=act)
            after = student.probe("week09.state", model, before)
            equal(after["trainable"], untouched["trainable"], "the list of trainable parameters after the error")
            equal(after["replaced"], [], "the list of parameters that are not where they were")
