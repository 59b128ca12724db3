"""Checks of week 3's stretch tasks: adapters, prompt tuning, prefix tuning, IA3.

Every trainable parameter is written by its contract name before anything is observed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograder.judge.check import Handle, Session, at, check, close, demand, equal, tensor


def write_all(lib: Session, module: Handle, values: dict[str, np.ndarray]) -> None:
    """Write parameters by their dotted names."""
    for name, value in values.items():
        lib.write(module.get_parameter(name), value)


def padded(rng, batch: int, sequence: int, width: int, real: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and a bool mask, True at the first `real` positions of each example."""
    x = rng.standard_normal((batch, sequence, width))
    return x, np.arange(sequence) < np.array(real)[:, None]


# --- task 3.5 ---

SIZE = 2


def draw_adapter(rng, width: int, size: int) -> dict[str, np.ndarray]:
    shapes = {"down.weight": (size, width), "down.bias": (size,), "up.weight": (width, size), "up.bias": (width,)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def adapter_output(lib: Session, values: dict[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    size, width = values["down.weight"].shape
    adapter = lib.Adapter(width, size)
    adapter.double()
    write_all(lib, adapter, values)
    return lib.read(adapter(tensor(u)), u.shape)


@check("3.5", weight=2, gate=True)
def test_adapter(student, oracle, rng):
    """An adapter computes u + up(gelu(down(u))), for inputs with any number of leading dimensions."""
    for width, size in ((2, 1), (3, 2), (4, 5)):
        values = draw_adapter(rng, width, size)
        for leading in ((3,), (2, 3), ()):
            u = rng.standard_normal((*leading, width))
            with at(f"width={width}, size={size}, u of shape {u.shape}"):
                close(adapter_output(student, values, u), oracle(adapter_output, values, u), "adapter(u)")


@check("3.5", weight=2)
def test_adapter_start(student, oracle, rng):
    """A new adapter is the identity: up is zero, its bias too, while down.weight is random with independent rows."""
    adapter = student.Adapter(4, 3)
    adapter.double()
    down = student.read(adapter.down.weight, (3, 4), free=True)
    up, bias = student.read(adapter.up.weight, (4, 3), free=True), student.read(adapter.up.bias, (4,), free=True)
    rows = int(np.linalg.matrix_rank(down))
    student.note([rows, bool(up.any()), bool(bias.any())])
    with at("width=4, size=3"):
        close(up, np.zeros((4, 3)), "up.weight of a new adapter", rtol=0)
        close(bias, np.zeros(4), "up.bias of a new adapter", rtol=0)
        demand(rows == 3, f"down.weight of a new adapter has {rows} linearly independent rows\n  expected: 3")
        u = rng.standard_normal((2, 4))
        close(student.read(adapter(tensor(u)), u.shape), u, "adapter(u) of a new adapter")


ADAPTERS = ("attention_adapter", "feedforward_adapter")
# width, heads, hidden features, norm_first, activation
LAYERS = ((4, 1, 3, False, "relu"), (4, 2, 7, False, "gelu"), (6, 3, 5, True, "relu"))


def layer_of(lib: Session, seed: int, shape: tuple[Any, ...], batch_first: bool = True) -> Handle:
    names = ("width", "heads", "hidden", "norm_first", "activation")
    return lib.build("week03.encoder_layer", seed=seed, batch_first=batch_first, **dict(zip(names, shape, strict=True)))


def block_of(lib: Session, seed: int, shape: tuple[Any, ...], values: dict[str, np.ndarray]) -> Handle:
    block = lib.AdapterBlock(layer_of(lib, seed, shape), SIZE)
    write_all(lib, block, values)
    return block


def block_output(
    lib: Session, seed: int, shape: tuple[Any, ...], values: dict[str, np.ndarray], x: np.ndarray, real: np.ndarray | None
) -> np.ndarray:
    block = block_of(lib, seed, shape, values)
    y = block(tensor(x)) if real is None else block(tensor(x), tensor(~real))
    if real is None:
        return lib.read(y, x.shape)
    found = lib.read(y, x.shape, free=True)  # padded positions are free
    lib.note(found[real])
    return found[real]


def draw_block(rng, width: int) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": v for name in ADAPTERS for part, v in draw_adapter(rng, width, SIZE).items()}


def rung(shape: tuple[Any, ...]) -> str:
    return f"width={shape[0]}, heads={shape[1]}, norm_first={shape[3]}, activation={shape[4]}"


@check("3.5", weight=4, gate=True)
def test_block(student, oracle, rng):
    """Each adapter stands between its part and the residual connection, before the norm or behind it as in the layer."""
    for shape in LAYERS:
        seed, values = int(rng.integers(2**31)), draw_block(rng, shape[0])
        x = rng.standard_normal((2, 3, shape[0]))
        with at(rung(shape)):
            args = (seed, shape, values, x, None)
            close(block_output(student, *args), oracle(block_output, *args), "block(x)")


def untouched(lib: Session, seed: int, shape: tuple[Any, ...], x: np.ndarray) -> np.ndarray:
    return lib.read(layer_of(lib, seed, shape)(tensor(x)), x.shape)


@check("3.5", weight=2)
def test_block_start(student, oracle, rng):
    """A new block computes what its layer does."""
    for shape in LAYERS:
        seed, x = int(rng.integers(2**31)), rng.standard_normal((2, 3, shape[0]))
        with at(rung(shape)):
            close(block_output(student, seed, shape, {}, x, None), oracle(untouched, seed, shape, x), "block(x) of a new block")


@check("3.5", weight=2)
def test_block_padding(student, oracle, rng):
    """With a padding mask no query attends to padding, so what stands there makes no difference."""
    for shape in LAYERS[1:]:
        seed, values = int(rng.integers(2**31)), draw_block(rng, shape[0])
        x, real = padded(rng, 2, 4, shape[0], (2, 3))
        with at(f"{rung(shape)}, examples of length 2 and 3, padded to 4"):
            args = (seed, shape, values, x, real)
            close(block_output(student, *args), oracle(block_output, *args), "block(x, padding_mask) at the real positions")


def block_trainable(lib: Session) -> list[str]:
    contract = [f"{name}.{part}" for name in ADAPTERS for part in ("down.weight", "down.bias", "up.weight", "up.bias")]
    return lib.names_of("week03.trainable", block_of(lib, 1, LAYERS[0], {}), contract)


@check("3.5", weight=1)
def test_block_freezes(student, oracle, rng):
    """The adapters are trainable and nothing of the layer is, its norms included; the layer is the one passed in."""
    equal(block_trainable(student), oracle(block_trainable), "the list of trainable parameters")
    layer = layer_of(student, 1, LAYERS[0])
    block = student.AdapterBlock(layer, SIZE)
    same = student.probe("same", block.layer, layer)
    demand(same is True, "block.layer is not the layer that was passed in\n  expected: the same object")


@check("3.5", weight=1, tier="advanced")
def test_block_dtype(student, oracle, rng):
    """The adapters have the dtype of the layer."""
    for dtype in ("float64", "float32"):
        with at(f"a layer of dtype {dtype}"):
            layer = layer_of(student, 1, LAYERS[0])
            layer.to(student.build("dtype", name=dtype))
            block = student.AdapterBlock(layer, SIZE)
            for name in ADAPTERS:
                student.read(getattr(block, name).down.weight, (SIZE, 4), dtype, free=True)
            x = rng.standard_normal((1, 2, 4))
            student.read(block(tensor(x, dtype)), x.shape, dtype, free=True)


@check("3.5", weight=1, tier="advanced")
def test_block_refuses(student, oracle, rng):
    """A layer that is not batch_first, or a size below 1, is a ValueError."""
    for batch_first, size in ((False, 2), (True, 0), (True, -1)):
        with at(f"batch_first={batch_first}, size={size}"):
            layer = layer_of(student, 1, LAYERS[0], batch_first)
            student.raises("ValueError", act=lambda layer=layer, size=size: student.AdapterBlock(layer, size))
    with at("Adapter, size=0"):
        student.raises("ValueError", act=lambda: student.Adapter(4, 0))


# --- task 3.6 ---


def pooled(lib: Session, seed: int, prompt: np.ndarray, x: np.ndarray, real: np.ndarray) -> np.ndarray:
    width = prompt.shape[1]
    tuning = lib.PromptTuning(lib.build("week03.reader", seed=seed, width=width), tensor(prompt))
    lib.write(tuning.prompt, prompt)
    return lib.read(tuning(tensor(x), tensor(real)), (len(x), width))


@check("3.6", weight=4, gate=True)
def test_prompt(student, oracle, rng):
    """The backbone reads the prompt before the tokens, and the mean is over the tokens alone."""
    for batch, length, sequence, width in ((1, 1, 2, 3), (2, 3, 4, 5), (3, 2, 1, 4)):
        prompt, seed = rng.standard_normal((length, width)), int(rng.integers(2**31))
        x, real = padded(rng, batch, sequence, width, (sequence,) * batch)
        with at(f"{batch} examples of {sequence} tokens, a prompt of length {length}, width {width}"):
            close(pooled(student, seed, prompt, x, real), oracle(pooled, seed, prompt, x, real), "the mean hidden state")


@check("3.6", weight=3)
def test_prompt_padding(student, oracle, rng):
    """Padding is read by nobody and counts in no mean."""
    for real in ((2, 4, 1), (1, 3, 2)):
        prompt, seed = rng.standard_normal((3, 5)), int(rng.integers(2**31))
        x, mask = padded(rng, 3, 4, 5, real)
        with at(f"examples of length {', '.join(map(str, real))}, padded to 4, a prompt of length 3"):
            close(pooled(student, seed, prompt, x, mask), oracle(pooled, seed, prompt, x, mask), "the mean hidden state")
        with at(f"examples of length {', '.join(map(str, real))}, padded to 4 in front, a prompt of length 3"):
            mask = mask[:, ::-1].copy()
            close(pooled(student, seed, prompt, x, mask), oracle(pooled, seed, prompt, x, mask), "the mean hidden state")


def prompt_start(lib: Session, init: np.ndarray) -> np.ndarray:
    return lib.read(lib.PromptTuning(lib.build("week03.reader", seed=1, width=init.shape[1]), tensor(init)).prompt, init.shape)


@check("3.6", weight=1)
def test_prompt_start(student, oracle, rng):
    """The prompt starts with the values of init, and is a copy: to train it changes no embedding table."""
    init = rng.standard_normal((3, 5))
    close(prompt_start(student, init), init, "the prompt at the start", rtol=0)
    table = student.build("linear", weight=tensor(init), bias=None)
    tuning = student.PromptTuning(student.build("week03.reader", seed=1, width=5), table.weight)
    student.write(tuning.prompt, init + 1)
    close(student.read(table.weight, init.shape), init, "init after the prompt was overwritten", rtol=0)


def prompt_gradients(lib: Session, x: np.ndarray, real: np.ndarray, prompt: np.ndarray, g: np.ndarray) -> tuple[list[str], Any]:
    tuning = lib.PromptTuning(lib.build("week03.reader", seed=1, width=5), tensor(prompt))
    lib.write(tuning.prompt, prompt)
    found = lib.probe("week03.gradients", tuning, [tensor(x), tensor(real)], tensor(g), ["prompt"])
    return sorted(found), lib.array(found.get("prompt"), "the gradient of prompt", prompt.shape)


@check("3.6", weight=2)
def test_prompt_learns(student, oracle, rng):
    """The prompt gets its gradient, and the backbone none."""
    x, real = padded(rng, 2, 3, 5, (3, 2))
    prompt, g = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
    names, got = prompt_gradients(student, x, real, prompt, g)
    want_names, want = oracle(prompt_gradients, x, real, prompt, g)
    close(got, want, "the gradient of prompt")
    equal(names, want_names, "the list of parameters that got a gradient")


@check("3.6", weight=1, tier="advanced")
def test_prompt_backbone(student, oracle, rng):
    """`backbone` is the very module that was passed in, and prompt and output have the dtype of init."""
    for dtype in ("float32", "float64", "bfloat16"):
        with at(f"init of dtype {dtype}"):
            backbone = student.build("week03.reader", seed=1, width=5)
            backbone.to(student.build("dtype", name=dtype))
            tuning = student.PromptTuning(backbone, tensor(rng.standard_normal((2, 5)), dtype))
            same = student.probe("same", tuning.backbone, backbone)
            demand(same is True, "backbone is not the module that was passed in\n  expected: the same object")
            student.read(tuning.prompt, (2, 5), dtype, free=True)
            x, real = padded(rng, 1, 3, 5, (2,))
            student.read(tuning(tensor(x, dtype), tensor(real)), (1, 5), dtype, free=True)


# --- task 3.7 ---


def prefixed(
    lib: Session, seed: int, heads: int, bias: bool, keys: np.ndarray, values: np.ndarray, x: np.ndarray, real: np.ndarray | None
) -> np.ndarray:
    attention = lib.build("week03.projections", seed=seed, width=x.shape[-1], heads=heads, bias=bias)
    tuning = lib.PrefixTuning(attention, len(keys))
    write_all(lib, tuning, {"prefix_k": keys, "prefix_v": values})
    if real is None:
        return lib.read(tuning(tensor(x)), x.shape)
    found = lib.read(tuning(tensor(x), tensor(real)), x.shape, free=True)  # padded positions are free
    lib.note(found[real])
    return found[real]


@check("3.7", weight=4, gate=True)
def test_prefix(student, oracle, rng):
    """Every query of x attends to the prefix and to all positions, in each head; the sequence keeps its length."""
    # batch, sequence, width, heads, length, bias; the first scores are those of one head
    for batch, sequence, width, heads, length, bias in ((1, 2, 3, 1, 1, False), (2, 3, 4, 2, 5, True), (3, 4, 6, 3, 2, True)):
        seed, x = int(rng.integers(2**31)), rng.standard_normal((batch, sequence, width))
        keys, values = (rng.standard_normal((length, width)) for _ in range(2))
        with at(f"{heads} heads, a prefix of length {length}, x of shape {x.shape}"):
            args = (seed, heads, bias, keys, values, x, None)
            close(prefixed(student, *args), oracle(prefixed, *args), "the output")


@check("3.7", weight=3)
def test_prefix_padding(student, oracle, rng):
    """With a mask, padding is no key, and the prefix still is one for every query."""
    for real in ((2, 3), (1, 4)):
        seed = int(rng.integers(2**31))
        x, mask = padded(rng, 2, 4, 6, real)
        keys, values = (rng.standard_normal((3, 6)) for _ in range(2))
        with at(f"examples of length {real[0]} and {real[1]}, padded to 4, 2 heads, a prefix of length 3"):
            args = (seed, 2, True, keys, values, x, mask)
            close(prefixed(student, *args), oracle(prefixed, *args), "the output at the real positions")
        with at(f"examples of length {real[0]} and {real[1]}, padded to 4 in front, 2 heads, a prefix of length 3"):
            args = (seed, 2, True, keys, values, x, mask[:, ::-1].copy())
            close(prefixed(student, *args), oracle(prefixed, *args), "the output at the real positions")


def prefix_gradients(lib: Session, keys: np.ndarray, values: np.ndarray, x: np.ndarray, g: np.ndarray) -> tuple[Any, ...]:
    tuning = lib.PrefixTuning(lib.build("week03.projections", seed=1, width=4, heads=2, bias=True), len(keys))
    write_all(lib, tuning, {"prefix_k": keys, "prefix_v": values})
    found = lib.probe("week03.gradients", tuning, [tensor(x)], tensor(g), ["prefix_k", "prefix_v"])
    contract = ["prefix_k", "prefix_v"]
    trains = lib.names_of("week03.trainable", tuning, contract)
    return sorted(found), [lib.array(found.get(n), f"the gradient of {n}", keys.shape) for n in contract], trains


@check("3.7", weight=2)
def test_prefix_learns(student, oracle, rng):
    """prefix_k and prefix_v get their gradients, and nothing else trains."""
    keys, values = (rng.standard_normal((3, 4)) for _ in range(2))
    x, g = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 5, 4))
    names, got, trains = prefix_gradients(student, keys, values, x, g)
    want_names, want, want_trains = oracle(prefix_gradients, keys, values, x, g)
    for name, mine, right in zip(("prefix_k", "prefix_v"), got, want, strict=True):
        close(mine, right, f"the gradient of {name}")
    equal(names, want_names, "the list of parameters that got a gradient")
    equal(trains, want_trains, "the list of trainable parameters")


@check("3.7", weight=1)
def test_prefix_start(student, oracle, rng):
    """At the start both parts of the prefix are random, and not the same."""
    tuning = student.PrefixTuning(student.build("week03.projections", seed=1, width=4, heads=2, bias=True), 3)
    keys, values = (student.read(part, (3, 4), free=True) for part in (tuning.prefix_k, tuning.prefix_v))
    ranks = [int(np.linalg.matrix_rank(part)) for part in (keys, values)]
    student.note([*ranks, bool(np.array_equal(keys, values))])
    for name, rank in zip(("prefix_k", "prefix_v"), ranks, strict=True):
        demand(rank == 3, f"{name} of a new prefix has {rank} linearly independent rows\n  expected: 3")
    demand(not np.array_equal(keys, values), "prefix_k and prefix_v of a new prefix are equal\n  expected: each drawn for itself")


@check("3.7", weight=1, tier="advanced")
def test_prefix_attention(student, oracle, rng):
    """`attention` is the very module that was passed in, and the prefix has its dtype."""
    for dtype in ("float32", "float64"):
        with at(f"an attention of dtype {dtype}"):
            attention = student.build("week03.projections", seed=1, width=4, heads=2, bias=True)
            attention.to(student.build("dtype", name=dtype))
            tuning = student.PrefixTuning(attention, 3)
            same = student.probe("same", tuning.attention, attention)
            demand(same is True, "attention is not the module that was passed in\n  expected: the same object")
            student.read(tuning.prefix_k, (3, 4), dtype, free=True)
            student.read(tuning.prefix_v, (3, 4), dtype, free=True)
            x = rng.standard_normal((1, 2, 4))
            student.read(tuning(tensor(x, dtype)), x.shape, dtype, free=True)


@check("3.7", weight=1, tier="advanced")
def test_prefix_refuses(student, oracle, rng):
    """A length below 1 is a ValueError."""
    for length in (0, -1):
        with at(f"length={length}"):
            attention = student.build("week03.projections", seed=1, width=4, heads=2, bias=True)
            student.raises("ValueError", act=lambda a=attention, n=length: student.PrefixTuning(a, n))


# --- task 3.8 ---

# in_features, out_features, bias
LINEARS = ((2, 3, False), (5, 4, True), (3, 3, True))


def draw_linear(rng, in_features: int, out_features: int, bias: bool) -> tuple[np.ndarray, np.ndarray | None]:
    weight = rng.standard_normal((out_features, in_features))
    return weight, rng.standard_normal(out_features) if bias else None


def scaled_layer(
    lib: Session, weight: np.ndarray, bias: np.ndarray | None, scale: np.ndarray | None, on_input: bool, own: bool = True
) -> Handle:
    """The submission's layer, or (own=False) an object that has just the contract's state."""
    base = lib.build("linear", weight=tensor(weight), bias=None if bias is None else tensor(bias))
    if not own:
        base.requires_grad_(False)
        attributes = {"base": base, "on_input": on_input, "merged": False}
        return lib.build("bare_module", cls=lib.IA3, attributes=attributes, parameters={"scale": tensor(scale)})
    layer = lib.IA3(base, on_input)
    if scale is not None:
        lib.write(layer.scale, scale)
    return layer


def scaled_output(
    lib: Session, weight: np.ndarray, bias: np.ndarray | None, scale: np.ndarray | None, on_input: bool, x: np.ndarray,
    merged: bool = False,
) -> np.ndarray:  # fmt: skip
    layer = scaled_layer(lib, weight, bias, scale, on_input)
    if merged:
        layer.merged = True
    return lib.read(layer(tensor(x)), (*x.shape[:-1], len(weight)))


def linear_rung(weight: np.ndarray, bias: np.ndarray | None, on_input: bool) -> str:
    out, into = weight.shape
    return f"in_features={into}, out_features={out}, bias={bias is not None}, on_input={on_input}"


@check("3.8", weight=4, gate=True)
def test_scaled(student, oracle, rng):
    """The output is scale * base(x), and base(scale * x) with on_input."""
    for shape in LINEARS:
        weight, bias = draw_linear(rng, *shape)
        for on_input in (False, True):
            scale = rng.standard_normal(shape[0] if on_input else shape[1])
            for leading in ((4,), (2, 3), ()):
                x = rng.standard_normal((*leading, shape[0]))
                with at(f"{linear_rung(weight, bias, on_input)}, x of shape {x.shape}"):
                    args = (weight, bias, scale, on_input, x)
                    close(scaled_output(student, *args), oracle(scaled_output, *args), "layer(x)")


@check("3.8", weight=2)
def test_scale_start(student, oracle, rng):
    """A new layer computes what its base does: the scale is ones."""
    for shape in LINEARS:
        weight, bias = draw_linear(rng, *shape)
        x = rng.standard_normal((4, shape[0]))
        for on_input in (False, True):
            with at(linear_rung(weight, bias, on_input)):
                args = (weight, bias, None, on_input, x)
                close(scaled_output(student, *args), oracle(scaled_output, *args), "layer(x) of a new layer")


def scale_gradients(
    lib: Session, weight: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, on_input: bool, x: np.ndarray, g: np.ndarray
) -> tuple[list[str], list[np.ndarray]]:
    found = lib.probe("vjp", scaled_layer(lib, weight, bias, scale, on_input), tensor(x), tensor(g))
    gradients = found["parameters"]
    return sorted(gradients), [
        lib.array(gradients.get("scale"), "the gradient of scale", scale.shape),
        lib.array(found["x"], "the gradient of x", x.shape),
    ]


@check("3.8", weight=2)
def test_scale_learns(student, oracle, rng):
    """scale and x get their gradients, and the base none."""
    weight, bias = draw_linear(rng, 5, 4, True)
    x, g = rng.standard_normal((3, 5)), rng.standard_normal((3, 4))
    for on_input in (False, True):
        scale = rng.standard_normal(5 if on_input else 4)
        with at(linear_rung(weight, bias, on_input)):
            names, got = scale_gradients(student, weight, bias, scale, on_input, x, g)
            want_names, want = oracle(scale_gradients, weight, bias, scale, on_input, x, g)
            for name, mine, right in zip(("scale", "x"), got, want, strict=True):
                close(mine, right, f"the gradient of {name}")
            equal(names, want_names, "the list of parameters that got a gradient")


def own_scaled(student: Session, oracle) -> bool:
    """Whether the submission's constructor works, so that merge can be checked on what it makes."""
    return student.implemented(lambda: scaled_layer(student, np.ones((3, 2)), None, None, False))


def folded(
    lib: Session, weight: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, on_input: bool, times: int, own: bool = True
) -> list[np.ndarray]:
    """base.weight, base.bias (those that were there at first) and scale after some calls of merge."""
    layer = scaled_layer(lib, weight, bias, scale, on_input, own)
    held = [lib.keep(layer.base.weight), *([] if bias is None else [lib.keep(layer.base.bias)])]
    for _ in range(times):
        layer.merge()
    found = [lib.read(h, like.shape) for h, like in zip(held, [weight, bias], strict=False)]
    return [*found, lib.read(layer.scale, scale.shape)]


@check("3.8", weight=3)
def test_scale_merges(student, oracle, rng):
    """merge() multiplies the scale into base, in place, the bias included where the output is scaled; once."""
    own = own_scaled(student, oracle)
    for shape in LINEARS:
        weight, bias = draw_linear(rng, *shape)
        for on_input in (False, True):
            scale = rng.standard_normal(shape[0] if on_input else shape[1])
            for times in (1, 2):
                with at(f"{linear_rung(weight, bias, on_input)}, merge() called {'once' if times == 1 else 'twice'}"):
                    got = folded(student, weight, bias, scale, on_input, times, own)
                    want = oracle(folded, weight, bias, scale, on_input, times)
                    names = ["base.weight", *([] if bias is None else ["base.bias"]), "scale"]
                    for name, mine, right in zip(names, got, want, strict=True):
                        close(mine, right, f"{name} after merge()")


@check("3.8", weight=1)
def test_scale_merged(student, oracle, rng):
    """While the layer is merged its output is base(x), and merge() sets `merged`."""
    weight, bias = draw_linear(rng, 5, 4, True)
    x = rng.standard_normal((3, 5))
    for on_input in (False, True):
        scale = rng.standard_normal(5 if on_input else 4)
        with at(f"{linear_rung(weight, bias, on_input)}, merged=True"):
            args = (weight, bias, scale, on_input, x, True)
            close(scaled_output(student, *args), oracle(scaled_output, *args), "layer(x)")
        layer = scaled_layer(student, weight, bias, scale, on_input)
        equal(student.flag(layer.merged), False, "merged of a new layer")
        layer.merge()
        equal(student.flag(layer.merged), True, "merged after merge()")
        equal(student.names_of("trainable_names", layer), ["scale"], "the list of trainable parameters after merge()")


@check("3.8", weight=1, tier="advanced")
def test_scale_base(student, oracle, rng):
    """`base` is the very layer that was passed in, and the scale has its dtype."""
    for dtype in ("float32", "bfloat16"):
        with at(f"a base layer of dtype {dtype}"):
            base = student.build("linear", weight=tensor(rng.standard_normal((4, 5)), dtype), bias=None)
            for on_input in (False, True):
                layer = student.IA3(base, on_input)
                same = student.probe("same", layer.base, base)
                demand(same is True, "layer.base is not the layer that was passed in\n  expected: the same object")
                equal(student.flag(layer.on_input), on_input, "on_input")
                student.read(layer.scale, (5 if on_input else 4,), dtype)
                if not on_input:
                    equal(student.flag(student.IA3(base).on_input), False, "on_input where it is not passed")
                student.read(layer(tensor(rng.standard_normal((2, 5)), dtype)), (2, 4), dtype, free=True)
