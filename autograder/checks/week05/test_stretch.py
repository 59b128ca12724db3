"""Checks of week 5's stretch tasks: affine quantisation, packing, bits of storage."""

from __future__ import annotations

import numpy as np

from autograder.judge.check import Session, at, check, close, demand, tensor

# --- task 5.5 ---


def draw_affine(rng, num_bits: int, shape: tuple[int, ...], block_size: int, kinds: str = "+-0") -> np.ndarray:
    """A float32 array with blocks of both signs ("0"), and of positive or negative numbers only: no step is a near tie."""
    top, count = 2**num_bits - 1, int(np.prod(shape))
    flat = np.empty(count)
    for index, start in enumerate(range(0, count, block_size)):
        length = min(block_size, count - start)
        kind = kinds[index % len(kinds)]
        zero = {"+": 0, "-": top, "0": int(rng.integers(1, top))}[kind]
        low = -zero - (rng.uniform(-0.3, 0.3) if kind == "0" else 0)
        steps = rng.integers(-zero, top - zero + 1, length) + rng.uniform(-0.3, 0.3, length)
        steps = np.clip(steps, low, low + top)
        ends = [low, low + top] if kind == "0" else [low + top if kind == "+" else low]
        steps[: len(ends)] = ends[:length]
        flat[start : start + length] = rng.permutation(steps) * rng.uniform(0.5, 2)
    return flat.astype(np.float32).reshape(shape)


def affine(
    lib: Session, x: np.ndarray, num_bits: int, block_size: int, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = -(-x.size // block_size)
    triple = lib.quantize_affine(tensor(x, dtype), num_bits, block_size)
    shapes = ((x.shape, "uint8"), ((blocks,), "float32"), ((blocks,), "uint8"))
    q, scale, zero_point = (lib.read(triple[i], *shape) for i, shape in enumerate(shapes))
    return q, scale, zero_point


def restored_affine(lib: Session, q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, block_size: int) -> np.ndarray:
    x = lib.dequantize_affine(tensor(q), tensor(scale), tensor(zero_point), block_size)
    return lib.read(x, q.shape, "float32")


def compare_affine(student: Session, oracle, *args: object) -> None:
    got, want = affine(student, *args), oracle(affine, *args)
    # A difference and a quotient in float32
    close(got[1], want[1], "scale", rtol=0, atol=1e-6 * np.abs(want[1]))
    close(got[2], want[2], "zero_point", rtol=0)
    close(got[0], want[0], "q", rtol=0)


AFFINE = ((4, (4,), 4), (4, (3, 6), 6), (8, (4, 3, 5), 10))  # num_bits, shape, block_size


@check("5.5", weight=4, gate=True)
def test_quantize_affine(student, oracle, rng):
    """Each block has the step and the zero point of its own range, zero included, and each element the nearest integer."""
    for num_bits, shape, block_size in AFFINE:
        for kinds, signs in (("0", "of both signs"), ("0+-", "in turn of both signs, positive, negative")):
            with at(f"num_bits={num_bits}, x of shape {shape}, block_size={block_size}, blocks {signs}"):
                compare_affine(student, oracle, draw_affine(rng, num_bits, shape, block_size, kinds), num_bits, block_size)


@check("5.5", weight=4, gate=True)
def test_dequantize_affine(student, oracle, rng):
    """An integer stands for its distance from the zero point of its block, on either side, times the step."""
    for _, shape, block_size in AFFINE:
        count = int(np.prod(shape))
        q = rng.permutation(np.resize([0, 255, 3, 130, 77], count)).astype(np.uint8).reshape(shape)
        zero_point = rng.integers(20, 230, count // block_size).astype(np.uint8)
        scale = rng.uniform(0.5, 2, count // block_size).astype(np.float32)
        with at(f"q of shape {shape}, block_size={block_size}"):
            want = oracle(restored_affine, q, scale, zero_point, block_size)
            close(restored_affine(student, q, scale, zero_point, block_size), want, "dequantize_affine(...)", rtol=1e-6)


@check("5.5", weight=1)
def test_affine_num_bits(student, oracle, rng):
    """From 2 to 8 bits are possible, and other numbers are a ValueError; so is a block_size below 1."""
    for num_bits in (2, 3, 7):
        with at(f"num_bits={num_bits}, x of shape (3, 8), block_size=8"):
            compare_affine(student, oracle, draw_affine(rng, num_bits, (3, 8), 8), num_bits, 8)
    x = tensor(rng.standard_normal((2, 6)).astype(np.float32))
    for num_bits, block_size in ((9, 6), (1, 6), (4, -6), (4, 0)):
        with at(f"num_bits={num_bits}, block_size={block_size}"):
            student.raises("ValueError", act=lambda n=num_bits, b=block_size: student.quantize_affine(x, n, b))


@check("5.5", weight=1)
def test_affine_last_block(student, oracle, rng):
    """Blocks run on across rows, the last may be shorter, and one of zeros has scale and zero point 0."""
    x = draw_affine(rng, 4, (3, 7), 8)
    with at("num_bits=4, x of shape (3, 7), block_size=8"):
        compare_affine(student, oracle, x, 4, 8)
        parts = oracle(affine, x, 4, 8)
        want = oracle(restored_affine, *parts, 8)
        close(restored_affine(student, *parts, 8), want, "dequantize_affine(...)", rtol=1e-6)
    x = draw_affine(rng, 4, (3, 4), 4)
    x[1] = 0
    with at("num_bits=4, a block of zeros between two others, block_size=4"):
        compare_affine(student, oracle, x, 4, 4)


@check("5.5", weight=1, tier="advanced")
def test_affine_size_of_a_block(student, oracle, rng):
    """How large or small the numbers of a block are makes no difference to their integers."""
    for exponent in (-40, 40):
        with at(f"num_bits=4, x of shape (3, 8) and of size 2^{exponent}, block_size=8"):
            compare_affine(student, oracle, draw_affine(rng, 4, (3, 8), 8) * np.float32(2.0**exponent), 4, 8)


@check("5.5", weight=1, tier="advanced")
def test_affine_strides(student, oracle, rng):
    """Blocks follow the rows of the tensor as it is indexed, also where it is a transposed view."""
    x = draw_affine(rng, 4, (4, 6), 3)
    want = oracle(affine, x, 4, 3)
    with at("a transposed view of shape (4, 6), block_size=3"):
        q = student.quantize_affine(student.build("column_major", value=tensor(x)), 4, 3)[0]
        close(student.read(q, x.shape, "uint8"), want[0], "q", rtol=0)
        integers = student.build("column_major", value=tensor(want[0]))
        back = student.dequantize_affine(integers, tensor(want[1]), tensor(want[2]), 3)
        exact = oracle(restored_affine, *want, 3)
        close(student.read(back, x.shape, "float32"), exact, "dequantize_affine(...)", rtol=1e-6)


@check("5.5", weight=1, tier="advanced")
def test_affine_stays_in_range(student, oracle, rng):
    """Where both ends of the range are ties, the integers stay within their bits, a step from x at most."""
    for num_bits in (4, 8):
        top = 2**num_bits - 1
        for below in (1.5, 2.5):
            x = np.array([-below, 0, 1, top - below], np.float32)
            with at(f"num_bits={num_bits}, x={x.tolist()}, block_size=4"):
                parts = student.quantize_affine(tensor(x), num_bits, 4)
                q = student.read(parts[0], (4,), "uint8", free=True)
                zero_point = student.read(parts[2], (1,), "uint8", free=True)
                steps = np.abs(q.astype(float) - zero_point - x)  # the step is 1
                student.note([bool((q <= top).all()), bool((steps <= 1).all())])
                demand(bool((q <= top).all() and (steps <= 1).all()), f"q is {q}\n  expected: within 0 ... {top}, near x")


@check("5.5", weight=1, tier="advanced")
def test_affine_dtypes(student, oracle, rng):
    """Other floating types may go in and come out, rounded once; x is left alone and no gradient is carried."""
    x = draw_affine(rng, 8, (12, 16), 6)
    with at("float64, num_bits=8, x of shape (12, 16), block_size=6"):
        compare_affine(student, oracle, x, 8, 6, "float64")
    parts = oracle(affine, x, 8, 6)
    exact = oracle(restored_affine, *parts, 6)
    for dtype, half_step in (("float64", 2.0**-53), ("bfloat16", 2.0**-8)):
        with at(f"dequantize_affine to {dtype}, q of shape (12, 16), block_size=6"):
            y = student.dequantize_affine(*map(tensor, parts), 6, dtype=student.build("dtype", name=dtype))
            bound = (half_step * (1 + 2 * half_step) + 1e-6) * np.abs(exact)
            close(student.read(y, x.shape, dtype), exact, "dequantize_affine(...)", rtol=0, atol=bound)
    layer = student.build("linear", weight=tensor(x), bias=None)
    scale = student.quantize_affine(layer.weight, 8, 6)[1]
    demand(not student.flag(scale.requires_grad), "scale carries a gradient\n  expected: none")
    given = student.build("held", value=tensor(x))
    student.quantize_affine(given, 8, 6)
    close(student.read(given, x.shape, "float32"), x, "x afterwards", rtol=0)


@check("5.5", weight=1, tier="advanced")
def test_affine_refuses_other_blocks(student, oracle, rng):
    """A number of scales that is not that of the blocks, or a block_size below 1, is a ValueError."""
    q = tensor(np.full((3, 4), 5, np.uint8))
    for count, block_size in ((2, 4), (4, 4), (3, 0), (3, -4), (12, 0)):
        scale, zero_point = tensor(np.ones(count, np.float32)), tensor(np.ones(count, np.uint8))
        with at(f"dequantize_affine of 12 integers with {count} scales, block_size={block_size}"):
            student.raises("ValueError", act=lambda s=scale, z=zero_point, b=block_size: student.dequantize_affine(q, s, z, b))


# --- task 5.6 ---


def packed(lib: Session, codes: np.ndarray) -> np.ndarray:
    return lib.read(lib.pack_nibbles(tensor(codes)), (-(-codes.size // 2),), "uint8")


def unpacked(lib: Session, data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return lib.read(lib.unpack_nibbles(tensor(data), shape), shape, "uint8")


@check("5.6", weight=2, gate=True)
def test_pack(student, oracle, rng):
    """Two codes share a byte, the first of them in its high half."""
    for shape in ((2,), (4,), (2, 3), (2, 3, 4)):
        codes = rng.integers(16, size=shape).astype(np.uint8)
        with at(f"codes of shape {shape}"):
            close(packed(student, codes), oracle(packed, codes), "pack_nibbles(codes)", rtol=0)


@check("5.6", weight=2, gate=True)
def test_unpack(student, oracle, rng):
    """Unpacking gives the codes back, in their shape."""
    for shape in ((2,), (4,), (2, 3), (2, 3, 4)):
        data = rng.integers(256, size=int(np.prod(shape)) // 2).astype(np.uint8)
        with at(f"{len(data)} bytes, shape {shape}"):
            close(unpacked(student, data, shape), oracle(unpacked, data, shape), "unpack_nibbles(packed, shape)", rtol=0)


@check("5.6", weight=1)
def test_odd_number_of_codes(student, oracle, rng):
    """Where the number of codes is odd, the last byte has a low half of 0, which unpacking leaves out."""
    for shape in ((1,), (3,), (3, 5)):
        codes = rng.integers(1, 16, size=shape).astype(np.uint8)
        with at(f"codes of shape {shape}"):
            data = oracle(packed, codes)
            close(packed(student, codes), data, "pack_nibbles(codes)", rtol=0)
            close(unpacked(student, data, shape), codes, "unpack_nibbles(packed, shape)", rtol=0)


@check("5.6", weight=1, tier="advanced")
def test_pack_of_a_view(student, oracle, rng):
    """Codes are taken as they are indexed, also of a transposed view, and they do not change."""
    codes = rng.integers(1, 16, size=(4, 6)).astype(np.uint8)
    with at("codes a transposed view of shape (4, 6)"):
        data = student.pack_nibbles(student.build("column_major", value=tensor(codes)))
        close(student.read(data, (12,), "uint8"), oracle(packed, codes), "pack_nibbles(codes)", rtol=0)
    with at("codes of shape (4, 6)"):
        given = student.build("held", value=tensor(codes))
        student.pack_nibbles(given)
        close(student.read(given, codes.shape, "uint8"), codes, "codes afterwards", rtol=0)


@check("5.6", weight=1, tier="advanced")
def test_packing_refuses(student, oracle, rng):
    """A code above 15 is a ValueError, and so is a number of bytes that does not fit the shape."""
    for high in (16, 255):
        with at(f"codes [3, {high}, 4, 15]"):
            codes = tensor(np.array([3, high, 4, 15], np.uint8))
            student.raises("ValueError", act=lambda c=codes: student.pack_nibbles(c))
    for count, shape in ((3, (2, 2)), (3, (7,)), (4, (5,))):
        with at(f"{count} bytes, shape {shape}"):
            data = tensor(rng.integers(256, size=count).astype(np.uint8))
            student.raises("ValueError", act=lambda d=data, s=shape: student.unpack_nibbles(d, s))


# --- task 5.7 ---


def bits(lib: Session, *sizes: int | None) -> float:
    return lib.number(lib.bits_per_parameter(*sizes))


@check("5.7", weight=2, gate=True)
def test_bits_with_double_quantisation(student, oracle, rng):
    """With double quantisation, a weight takes its code, its share of an 8-bit constant, and a share of that one's scale."""
    for sizes in ((), (32,), (128, 64), (48, 100), (1, 1), (int(rng.integers(2, 500)), int(rng.integers(2, 500)))):
        with at(f"bits_per_parameter{sizes}"):
            close(np.array(bits(student, *sizes)), np.array(oracle(bits, *sizes)), "the number of bits", rtol=1e-9)


@check("5.7", weight=2, gate=True)
def test_bits_without_double_quantisation(student, oracle, rng):
    """Without it, a weight takes its code and its share of a 32-bit constant."""
    for block_size in (64, 32, 48, 1, int(rng.integers(2, 500))):
        with at(f"bits_per_parameter({block_size}, None)"):
            got, want = bits(student, block_size, None), oracle(bits, block_size, None)
            close(np.array(got), np.array(want), "the number of bits", rtol=1e-9)


@check("5.7", weight=1, tier="advanced")
def test_bits_refuses(student, oracle, rng):
    """A block size below 1, of either level, is a ValueError."""
    for sizes in ((-1, 256), (64, -1), (0, None), (64, 0), (0, 256)):
        with at(f"bits_per_parameter{sizes}"):
            student.raises("ValueError", act=lambda s=sizes: student.bits_per_parameter(*s))
