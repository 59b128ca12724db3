"""Checks of week 5: the NF4 codebook, quantisation by blocks, double quantisation, QLoRALinear.

Quantisation rounds, so a check could hit a tie, or a value so near one that float32 decides: what is quantised is drawn inside
the cells between the midpoints. Where a task needs another one that does not work yet, a stand-in takes its place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, tensor

EPS = float(np.finfo(np.float32).eps)


def codebook(lib: Session) -> np.ndarray:
    return lib.read(lib.nf4_codebook(), (16,), "float32")


def float8(lib: Session) -> np.ndarray:
    return lib.read(lib.float8_codebook(), (256,), "float32")


def cells(values: np.ndarray) -> np.ndarray:
    """The ends of the intervals of [-1, 1] in which each of `values` is the nearest."""
    return np.concatenate([[-1.0], (values[1:].astype(np.float64) + values[:-1]) / 2, [1.0]])


def inside_cells(rng, values: np.ndarray, count: int, margin: float) -> np.ndarray:
    """Numbers of [-1, 1] whose nearest of `values` is beyond doubt: they keep that share of a cell's width from its ends."""
    ends, cell = cells(values), rng.integers(len(values), size=count)
    return ends[cell] + (ends[cell + 1] - ends[cell]) * rng.uniform(margin, 1 - margin, count)


def draw(rng, values: np.ndarray, shape: tuple[int, ...], block_size: int, sizes: np.ndarray | None = None) -> np.ndarray:
    """A float32 array whose blocks have the given largest magnitudes (random ones if None), of either sign."""
    count = int(np.prod(shape))
    flat = inside_cells(rng, values, count, 0.1)
    starts = range(0, count, block_size)
    sizes = rng.uniform(0.5, 4, len(starts)) if sizes is None else sizes
    for start, size in zip(starts, sizes, strict=True):
        block = flat[start : start + block_size]
        block[rng.integers(len(block))] = rng.choice([-1.0, 1.0])
        block *= size
    return flat.astype(np.float32).reshape(shape)


def draw_constants(rng, values: np.ndarray, count: int, block_size: int) -> np.ndarray:
    """Positive float32 constants whose deviations add up to zero in each block, so that every rounding of the mean is the same.

    The largest deviation of a block is negative in one block and positive in the next; other deviations come in pairs. Near zero
    the cells of the 8-bit codebook are too narrow for an inexact mean: no deviation is there.

    Args:
        values: of the 8-bit codebook.
        count, block_size: every block, the last one too, has an even length of at least four.
    """
    mean, ends = rng.uniform(0.5, 2), cells(values)

    def clear(u: np.ndarray) -> np.ndarray:
        cell = np.searchsorted(ends, u).clip(1, len(values)) - 1
        return (u > 0.013) & (np.minimum(u - ends[cell], ends[cell + 1] - u) > 0.2 * (ends[cell + 1] - ends[cell]))

    result = np.empty(count)
    for index, start in enumerate(range(0, count, block_size)):
        length = min(block_size, count - start)
        # Some 300 of 1,000 are large enough; for one in three pairs of them what is missing to 1 is clear of midpoints too.
        pool = inside_cells(rng, values, 1000, 0.25)
        pool = pool[clear(pool)]
        a, b = pool[0 : len(pool) // 2 * 2 : 2], pool[1::2]
        pair = np.flatnonzero(clear(1 - a - b))[0]
        largest = np.array([-1.0, a[pair], b[pair], 1 - a[pair] - b[pair]])
        rest = pool[: length // 2 - 2]
        block = np.concatenate([largest if index % 2 == 0 else -largest, rest, -rest])
        result[start : start + length] = mean * (1 + rng.uniform(0.1, 0.6) * rng.permutation(block))
    return result.astype(np.float32)


def asked(student: Session, name: str, works) -> bool:
    """Whether `works()`, which compares the submission with the reference on a fixed case, passes; asked once a worker."""
    if name not in student.facts:
        with student.aside():
            try:
                works()
                student.facts[name] = True
            except CheckFailed:
                student.facts[name] = False
    return bool(student.facts[name])


def supply_codebook(student: Session, oracle) -> np.ndarray:
    """Let the submission have a right codebook, where its own is not; returns the values."""
    values = oracle(codebook)
    if not asked(student, "codebook", lambda: close(codebook(student), values, "codebook", rtol=0, atol=1e-6)):
        student.supply("nf4_codebook", student.build("week05.returning", value=tensor(values)))
    return values


# --- task 5.1 ---


@check("5.1", weight=4, gate=True)
def test_codebook(student, oracle, rng):
    """The codebook holds the 16 values that the quantiles of the normal distribution give."""
    close(codebook(student), oracle(codebook), "nf4_codebook()", rtol=0, atol=1e-6)


@check("5.1", weight=1)
def test_codebook_is_exact_where_it_must_be(student, oracle, rng):
    """The values ascend from exactly -1 through exactly 0 to exactly 1, the zero at index 7."""
    got, want = codebook(student), oracle(codebook)
    for index in (0, 7, 15):
        close(got[index], want[index], f"nf4_codebook()[{index}]", rtol=0)
    demand(bool((np.diff(got) > 0).all()), f"nf4_codebook() does not ascend\n  got: {got}")


# --- task 5.2 ---


def quantized(lib: Session, x: np.ndarray, *block_size: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    blocks = -(-x.size // (block_size[0] if block_size else 64))
    pair = lib.quantize_nf4(tensor(x, dtype), *block_size)
    return lib.read(pair[0], x.shape, "uint8"), lib.read(pair[1], (blocks,), "float32")


def dequantized(lib: Session, codes: np.ndarray, absmax: np.ndarray, *block_size: int) -> np.ndarray:
    return lib.read(lib.dequantize_nf4(tensor(codes), tensor(absmax), *block_size), codes.shape, "float32")


def compare_quantized(student: Session, oracle, x: np.ndarray, *block_size: int) -> None:
    (codes, absmax), (want_codes, want_absmax) = quantized(student, x, *block_size), oracle(quantized, x, *block_size)
    close(absmax, want_absmax, "absmax", rtol=0)
    close(codes, want_codes, "codes", rtol=0)


def compare_dequantized(student: Session, oracle, rng, shape: tuple[int, ...], *block_size: int) -> None:
    count = int(np.prod(shape))
    codes = rng.permutation(np.resize(np.arange(16), count)).astype(np.uint8).reshape(shape)
    absmax = rng.uniform(0.5, 4, -(-count // (block_size[0] if block_size else 64))).astype(np.float32)
    want = oracle(dequantized, codes, absmax, *block_size)
    # One product; a codebook value may be off by 1e-6, and is 0.08 at least where it is not 0.
    close(dequantized(student, codes, absmax, *block_size), want, "dequantize_nf4(...)", rtol=0, atol=2e-5 * np.abs(want))


WHOLE = (((4,), 4), ((6,), 3), ((2, 8), 4), ((3, 4, 5), 10))  # shape, block_size
PARTIAL = (((3,), 1), ((5,), 3), ((3, 7), 8), ((2, 3, 5), 64))


@check("5.2", weight=4, gate=True)
def test_quantize(student, oracle, rng):
    """Each block has its largest magnitude as its constant, and each element the code of the nearest value."""
    values = supply_codebook(student, oracle)
    for shape, block_size in WHOLE:
        with at(f"x of shape {shape}, block_size={block_size}"):
            compare_quantized(student, oracle, draw(rng, values, shape, block_size), block_size)


@check("5.2", weight=4, gate=True)
def test_dequantize(student, oracle, rng):
    """A code stands for its value in the codebook, times the constant of its own block."""
    supply_codebook(student, oracle)
    for shape, block_size in (*WHOLE, ((8, 8), 16)):
        with at(f"codes of shape {shape}, block_size={block_size}"):
            compare_dequantized(student, oracle, rng, shape, block_size)


@check("5.2", weight=2)
def test_last_block(student, oracle, rng):
    """Blocks run on across rows, the last one may be shorter, and blocks of one element are possible."""
    values = supply_codebook(student, oracle)
    for shape, block_size in PARTIAL:
        with at(f"shape {shape}, block_size={block_size}"):
            compare_quantized(student, oracle, draw(rng, values, shape, block_size), block_size)
            compare_dequantized(student, oracle, rng, shape, block_size)


@check("5.2", weight=1)
def test_default_block(student, oracle, rng):
    """Without a block_size, blocks have 64 elements."""
    values = supply_codebook(student, oracle)
    with at("shape (6, 32), no block_size"):
        compare_quantized(student, oracle, draw(rng, values, (6, 32), 64))
        compare_dequantized(student, oracle, rng, (6, 32))


@check("5.2", weight=2)
def test_zero_block(student, oracle, rng):
    """A block of zeros has the constant 0 and the code of zero, and comes back as zeros; its neighbours are not disturbed."""
    values = supply_codebook(student, oracle)
    x = draw(rng, values, (3, 4), 4)
    x[1] = 0
    with at("a block of zeros between two others, block_size=4"):
        compare_quantized(student, oracle, x, 4)
        codes, absmax = oracle(quantized, x, 4)
        want = oracle(dequantized, codes, absmax, 4)
        close(dequantized(student, codes, absmax, 4), want, "dequantize_nf4(...)", rtol=0, atol=2e-5 * np.abs(want))


@check("5.2", weight=1, tier="advanced")
def test_size_of_a_block(student, oracle, rng):
    """How large or small the numbers of a block are makes no difference to their codes."""
    values = supply_codebook(student, oracle)
    for exponents, largest in (([-40, -27, -14, 0, 13, 40], 40), ([-110, 110], 110)):  # all are normal numbers of float32
        sizes = rng.permutation(2.0 ** np.array(exponents))
        with at(f"blocks with magnitudes from 2^-{largest} to 2^{largest}, block_size=8"):
            compare_quantized(student, oracle, draw(rng, values, (len(sizes), 8), 8, sizes), 8)


@check("5.2", weight=1, tier="advanced")
def test_dtypes(student, oracle, rng):
    """Other floating types may go in and come out; the constants are float32, and the result is rounded only once."""
    values = supply_codebook(student, oracle)
    for dtype, half_step in (("float64", 2.0**-53), ("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        with at(f"dtype {dtype}, shape (12, 16), block_size=8"):
            x = draw(rng, values, (12, 16), 8)
            got, want = quantized(student, x, 8, dtype=dtype), oracle(in_dtype, x, 8, dtype)
            close(got[1], want[1], "absmax", rtol=0)
            close(got[0], want[0], "codes", rtol=0)
            y = student.dequantize_nf4(tensor(want[0]), tensor(want[1]), 8, dtype=student.build("dtype", name=dtype))
            exact = oracle(dequantized, *want, 8)
            # Half a step of the type is what one rounding errs by; 2e-5 is left to the codebook and to float32.
            bound = (half_step * (1 + 2 * half_step) + 2e-5) * np.abs(exact)
            close(student.read(y, x.shape, dtype), exact, "dequantize_nf4(...)", rtol=0, atol=bound)
    for dtype, step in (("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        with at(f"dtype {dtype}, quotients that lie between two values of it, one on each side of a midpoint"):
            x = beside_midpoints(values, step)
            close(quantized(student, x, len(x), dtype=dtype)[0], oracle(in_dtype, x, len(x), dtype)[0], "codes", rtol=0)


def beside_midpoints(values: np.ndarray, step: float) -> np.ndarray:
    """Numbers that a floating type holds, of which a quotient by the largest is rounded across a midpoint in that type.

    Args:
        step: the spacing of the type's numbers between 1/2 and 1.
    """
    found, middles = [], cells(values)[1:-1]
    for largest in np.arange(17, 32) / 16:  # one constant for all
        grid = np.arange(0.5, 1, step)
        grid = np.concatenate([-grid[::-1], grid]) * 2.0 ** np.arange(0, -5, -1)[:, None]
        exact = (grid.ravel() / largest).astype(np.float64)
        spacing = 2.0 ** np.floor(np.log2(np.abs(exact))) * 2 * step
        rounded = np.round(exact / spacing) * spacing
        crossed = np.searchsorted(middles, exact) != np.searchsorted(middles, rounded)
        clear = np.abs(exact[:, None] - middles).min(axis=1) > 2e-5
        found.append(np.append(grid.ravel()[crossed & clear], largest))
    return max(found, key=len).astype(np.float32)


def in_dtype(lib: Session, x: np.ndarray, block_size: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    return quantized(lib, x, block_size, dtype=dtype)


@check("5.2", weight=1, tier="advanced")
def test_row_major_order(student, oracle, rng):
    """Blocks follow the rows of the tensor as it is indexed, also where it is a transposed view."""
    values = supply_codebook(student, oracle)
    x = draw(rng, values, (4, 6), 3)
    with at("x a transposed view of shape (4, 6), block_size=3"):
        pair = student.quantize_nf4(student.build("held", value=tensor(x.T)).T, 3)
        want = oracle(quantized, x, 3)
        close(student.read(pair[1], (8,), "float32"), want[1], "absmax", rtol=0)
        close(student.read(pair[0], x.shape, "uint8"), want[0], "codes", rtol=0)
    with at("codes a transposed view of shape (4, 6), block_size=3"):
        codes = student.build("held", value=tensor(np.ascontiguousarray(want[0].T))).T
        back, exact = student.dequantize_nf4(codes, tensor(want[1]), 3), oracle(dequantized, *want, 3)
        close(student.read(back, x.shape, "float32"), exact, "dequantize_nf4(...)", rtol=0, atol=2e-5 * np.abs(exact))


@check("5.2", weight=1, tier="advanced")
def test_x_is_left_alone(student, oracle, rng):
    """Quantising does not change x, and what it returns carries no gradient, also for a parameter."""
    values = supply_codebook(student, oracle)
    x = draw(rng, values, (2, 6), 6)
    with at("x a trainable nn.Parameter of shape (2, 6), block_size=6"):
        layer = student.build("linear", weight=tensor(x), bias=None)
        pair = student.quantize_nf4(layer.weight, 6)
        equal(student.flag(pair[1].requires_grad), False, "absmax.requires_grad")
        close(student.read(layer.weight, x.shape, "float32"), x, "x afterwards", rtol=0)
        given = student.build("held", value=tensor(x))
        student.quantize_nf4(given, 6)
        close(student.read(given, x.shape, "float32"), x, "x, a plain tensor, afterwards", rtol=0)


@check("5.2", weight=1, tier="advanced")
def test_refuses_bad_blocks(student, oracle, rng):
    """A block_size below 1, or a number of constants that is not that of the blocks, is a ValueError."""
    values = supply_codebook(student, oracle)
    x = tensor(draw(rng, values, (3, 4), 4))
    codes, absmax = tensor(np.full((3, 4), 5, np.uint8)), tensor(np.ones(3, np.float32))
    for count in (2, 4, 1):
        with at(f"dequantize_nf4 of 12 codes with {count} constants, block_size=4"):
            few = tensor(np.ones(count, np.float32))
            student.raises("ValueError", act=lambda few=few: student.dequantize_nf4(codes, few, 4))
    for count in (2, 4):  # one block too few or too many, where the last one is shorter
        with at(f"dequantize_nf4 of 12 codes with {count} constants, block_size=5"):
            few = tensor(np.ones(count, np.float32))
            student.raises("ValueError", act=lambda few=few: student.dequantize_nf4(codes, few, 5))
    for block_size in (-4, 0):
        with at(f"block_size={block_size}"):
            student.raises("ValueError", act=lambda b=block_size: student.quantize_nf4(x, b))
            student.raises("ValueError", act=lambda b=block_size: student.dequantize_nf4(codes, absmax, b))


# --- task 5.3 ---


def doubly(lib: Session, absmax: np.ndarray, *block_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = -(-len(absmax) // (block_size[0] if block_size else 256))
    triple = lib.double_quantize(tensor(absmax), *block_size)
    codes = lib.read(triple[0], absmax.shape, "uint8")
    return codes, lib.read(triple[1], (blocks,), "float32"), lib.read(triple[2], (), "float32")


def restored(lib: Session, codes: np.ndarray, scales: np.ndarray, mean: np.ndarray, *block_size: int) -> np.ndarray:
    constants = lib.double_dequantize(tensor(codes), tensor(scales), tensor(mean), *block_size)
    return lib.read(constants, codes.shape, "float32")


def compare_doubly(student: Session, oracle, rng, count: int, *block_size: int) -> None:
    absmax = draw_constants(rng, oracle(float8), count, *(block_size or (256,)))
    got, want = doubly(student, absmax, *block_size), oracle(doubly, absmax, *block_size)
    slack = count * EPS * float(want[2])  # a float32 mean of positive numbers, added up one after the other
    close(got[2], want[2], "mean", rtol=0, atol=slack)
    close(got[1], want[1], "scales", rtol=0, atol=slack)
    close(got[0], want[0], "codes", rtol=0)


def compare_restored(student: Session, oracle, rng, count: int, *block_size: int) -> None:
    codes = rng.integers(256, size=count).astype(np.uint8)
    scales = rng.uniform(0.1, 0.9, -(-count // (block_size[0] if block_size else 256))).astype(np.float32)
    mean = np.float32(rng.uniform(0.1, 2))
    got = restored(student, codes, scales, np.array(mean), *block_size)
    # A product and a sum in float32, of terms that are at most 2
    close(got, oracle(restored, codes, scales, np.array(mean), *block_size), "double_dequantize(...)", rtol=0, atol=4 * EPS)


CONSTANTS = ((4, 4), (8, 4), (48, 16))  # number, block_size


@check("5.3", weight=4, gate=True)
def test_double_quantize(student, oracle, rng):
    """One mean is subtracted from all constants; each block of deviations has a scale, and each deviation an 8-bit code."""
    for count, block_size in CONSTANTS:
        with at(f"{count} constants, block_size={block_size}"):
            compare_doubly(student, oracle, rng, count, block_size)


@check("5.3", weight=4, gate=True)
def test_double_dequantize(student, oracle, rng):
    """A constant is the codebook value of its code, times the scale of its block, plus the mean."""
    for count, block_size in CONSTANTS:
        with at(f"{count} codes, block_size={block_size}"):
            compare_restored(student, oracle, rng, count, block_size)


@check("5.3", weight=2)
def test_default_second_block(student, oracle, rng):
    """Without a block_size, 256 constants share a scale; the last block may be shorter."""
    for count in (300, 600):
        with at(f"{count} constants, no block_size"):
            compare_doubly(student, oracle, rng, count)
            compare_restored(student, oracle, rng, count)
    with at("22 constants, block_size=16"):
        compare_doubly(student, oracle, rng, 22, 16)
        compare_restored(student, oracle, rng, 22, 16)


def mean_of(lib: Session, absmax: np.ndarray, block_size: int) -> np.ndarray:
    return lib.read(lib.double_quantize(tensor(absmax), block_size)[2], (), "float32")


@check("5.3", weight=2)
def test_one_mean(student, oracle, rng):
    """The mean is that of all constants together, not that of a block."""
    for count, block_size in ((8, 4), (6, 4), (40, 16)):
        absmax = rng.uniform(0.5, 1, count).astype(np.float32)
        absmax[block_size:] += np.float32(rng.uniform(1, 2))  # the blocks differ
        with at(f"{count} constants, block_size={block_size}, larger ones behind the first block"), student.aside():
            got = mean_of(student, absmax, block_size)
        want = oracle(mean_of, absmax, block_size)
        student.note([bool(np.allclose(got, want)), bool(np.allclose(got, absmax[:block_size].mean()))])
        with at(f"{count} constants, block_size={block_size}, larger ones behind the first block"):
            # A float32 sum of positive numbers, one after the other
            close(got, want, "mean", rtol=count * EPS)


@check("5.3", weight=1, tier="advanced")
def test_size_of_constants(student, oracle, rng):
    """How large or small the constants are makes no difference to their codes."""
    for exponent in (-40, 40):
        absmax = draw_constants(rng, oracle(float8), 16, 8) * np.float32(2.0**exponent)
        with at(f"16 constants of about 2^{exponent}, block_size=8"):
            close(doubly(student, absmax, 8)[0], oracle(doubly, absmax, 8)[0], "codes", rtol=0)


def there_and_back(lib: Session, absmax: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes, scales, mean = doubly(lib, absmax, block_size)
    return codes, scales, restored(lib, codes, scales, mean, block_size)


@check("5.3", weight=1)
def test_equal_constants(student, oracle, rng):
    """Constants that are all equal, and a single one, have no deviations: the scale is 0, and they come back exactly."""
    for count, value in ((1, rng.uniform(0.5, 2)), (8, 0.75), (4, 0.0)):  # the mean is exact in every order of addition
        absmax = np.full(count, value, np.float32)
        with at(f"{count} constants, each {absmax[0]:.4g}, block_size=4"):
            got, want = there_and_back(student, absmax, 4), oracle(there_and_back, absmax, 4)
            close(got[1], want[1], "scales", rtol=0)
            close(got[0], want[0], "codes", rtol=0)
            close(got[2], want[2], "the constants that come back", rtol=0)


@check("5.3", weight=1, tier="advanced")
def test_constants_are_left_alone(student, oracle, rng):
    """Double quantisation does not change the constants that it is given."""
    absmax = draw_constants(rng, oracle(float8), 8, 4)
    given = student.build("held", value=tensor(absmax))
    student.double_quantize(given, 4)
    close(student.read(given, absmax.shape, "float32"), absmax, "absmax afterwards", rtol=0)


@check("5.3", weight=1, tier="advanced")
def test_double_refuses_bad_blocks(student, oracle, rng):
    """A block_size below 1, or a number of scales that is not that of the blocks, is a ValueError."""
    absmax = tensor(draw_constants(rng, oracle(float8), 8, 4))
    codes, mean = tensor(np.arange(8, dtype=np.uint8)), tensor(np.array(1, np.float32))
    for count in (1, 3):
        with at(f"double_dequantize of 8 codes with {count} scales, block_size=4"):
            few = tensor(np.ones(count, np.float32))
            student.raises("ValueError", act=lambda few=few: student.double_dequantize(codes, few, mean, 4))
    for block_size in (-4, 0):
        with at(f"block_size={block_size}"):
            student.raises("ValueError", act=lambda b=block_size: student.double_quantize(absmax, b))
            for count in (2, 8):
                ones = tensor(np.ones(count, np.float32))
                student.raises("ValueError", act=lambda s=ones, b=block_size: student.double_dequantize(codes, s, mean, b))


# --- task 5.4 ---


class Case(NamedTuple):
    """A layer: weight (out, in), bias (out) or None, A (rank, in), B (out, rank), alpha, and block_size, None for the default."""

    weight: np.ndarray
    bias: np.ndarray | None
    A: np.ndarray
    B: np.ndarray
    alpha: float
    block_size: int | None

    @property
    def rung(self) -> str:
        sizes = f"in_features={self.A.shape[1]}, out_features={len(self.B)}, rank={len(self.A)}, alpha={self.alpha}"
        block = "" if self.block_size is None else f", block_size={self.block_size}"
        return sizes + block + ("" if self.bias is not None else ", no bias")


# in_features, out_features, rank, alpha, bias, block_size; the blocks are even in number, for `draw_constants`
LADDER = ((4, 3, 1, 1.5, False, 2), (8, 5, 2, 3.0, True, 4), (6, 10, 6, 12.0, True, 15))
LONGER = ((7, 5, 2, 3.0, True, 6), (64, 48, 4, 2.0, True, None))  # a shorter last block; the default


def draw_case(rng, oracle, in_features, out_features, rank, alpha, bias, block_size) -> Case:
    count = in_features * out_features
    sizes = draw_constants(rng, oracle(float8), -(-count // (block_size or 64)), 256)
    weight = draw(rng, oracle(codebook), (out_features, in_features), block_size or 64, sizes)
    A, B, b = (rng.standard_normal(s).astype(np.float32) for s in ((rank, in_features), (out_features, rank), (out_features,)))
    return Case(weight, b if bias else None, A, B, alpha, block_size)


def lacking(student: Session, oracle) -> tuple[str, ...]:
    """Which of the submission's quantisers do not work, so that its layer is checked with stand-ins for them."""
    values = supply_codebook(student, oracle)
    rng = np.random.Generator(np.random.PCG64(0))

    def quantises() -> None:
        for shape, block_size in (((6, 4), 3), ((3, 7), 8)):
            compare_quantized(student, oracle, draw(rng, values, shape, block_size), block_size)

    works = {
        "quantize_nf4": quantises,
        "dequantize_nf4": lambda: compare_dequantized(student, oracle, rng, (3, 7), 8),
        "double_quantize": lambda: [compare_doubly(student, oracle, rng, count) for count in (8, 300)],
        "double_dequantize": lambda: [compare_restored(student, oracle, rng, count) for count in (8, 300)],
    }
    return tuple(name for name, attempt in works.items() if not asked(student, name, attempt))


def make(lib: Session, without: tuple[str, ...], case: Case, dtype: str = "float32") -> tuple[Handle, Handle]:
    """The layer with its factors written, and the nn.Linear that it was made from; stand-ins for some quantisers."""
    for name in without:
        lib.supply(name, lib.build("week05.stand_in", name=name))
    bias = None if case.bias is None else tensor(case.bias, dtype)
    base = lib.build("linear", weight=tensor(case.weight, dtype), bias=bias)
    block = {} if case.block_size is None else {"block_size": case.block_size}
    layer = lib.QLoRALinear(base, rank=len(case.A), alpha=case.alpha, **block)
    lib.write(layer.lora_A, case.A, dtype)
    lib.write(layer.lora_B, case.B, dtype)
    return layer, base


def output(
    lib: Session, without: tuple[str, ...], case: Case, x: np.ndarray, dtype: str = "float32", training: bool = True
) -> np.ndarray:
    layer, _ = make(lib, without, case, dtype)
    layer.train(training)
    return lib.read(layer(tensor(x, dtype)), (*x.shape[:-1], len(case.weight)), dtype)


def normal(rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# Float32: a sum of K <= 70 terms, and of the weight's and the constants' roundings. In units of the largest output,
# typical errors are below 1e-6; the mistakes that a quantiser's rounding could hide in are above 1e-4.
RTOL = 2e-5


def compare_outputs(student: Session, oracle, rng, shape: tuple, leadings: tuple) -> None:
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *shape)
    for leading in leadings:
        x = normal(rng, *leading, shape[0])
        with at(f"{case.rung}, x of shape {x.shape}"):
            close(output(student, without, case, x), oracle(output, without, case, x), "layer(x)", rtol=RTOL)


@check("5.4", weight=4, gate=True)
def test_qlora_forward(student, oracle, rng):
    """The output is W x + b + (alpha / rank) B A x, where W is the weight after NF4 and double quantisation."""
    for shape in LADDER:
        compare_outputs(student, oracle, rng, shape, ((4,), (2, 3), (), (2, 1, 3)))


@check("5.4", weight=1)
def test_qlora_in_evaluation(student, oracle, rng):
    """In evaluation mode the layer computes the same, the branch of the factors included."""
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *LADDER[1])
    x = normal(rng, 3, 8)
    with at(f"{case.rung}, evaluation mode"):
        want = oracle(output, without, case, x)
        close(output(student, without, case, x, training=False), want, "layer(x)", rtol=RTOL)


def strided_output(lib: Session, without: tuple[str, ...], case: Case, x: np.ndarray) -> np.ndarray:
    layer, _ = make(lib, without, case)
    return lib.read(layer(lib.build("column_major", value=tensor(x))), (*x.shape[:-1], len(case.weight)), "float32")


@check("5.4", weight=1, tier="advanced")
def test_qlora_strides(student, oracle, rng):
    """The input may be a view whose elements do not lie row after row in memory, as a transposed tensor is."""
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *LADDER[1])
    for leading in ((4,), (2, 3)):
        x = normal(rng, *leading, 8)
        with at(f"{case.rung}, x a transposed view of shape {x.shape}"):
            want = oracle(output, without, case, x)
            close(strided_output(student, without, case, x), want, "layer(x)", rtol=RTOL)


@check("5.4", weight=1)
def test_qlora_block_size(student, oracle, rng):
    """The layer passes its block_size on, 64 unless it is given; a shorter last block makes no difference."""
    for shape in LONGER:
        compare_outputs(student, oracle, rng, shape, ((3,),))


def start(lib: Session, without: tuple[str, ...], case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layer, _ = make(lib, without, case)
    fresh = lib.QLoRALinear(lib.build("linear", weight=tensor(case.weight), bias=None), len(case.A), case.alpha, case.block_size)
    A = lib.read(fresh.lora_A, case.A.shape, "float32", free=True)
    B = lib.read(fresh.lora_B, case.B.shape, "float32", free=True)
    for name in ("rank", "alpha", "scaling"):
        lib.number(getattr(layer, name))
    return A, B, lib.read(fresh(tensor(x)), (len(x), len(case.weight)), "float32", free=True)


@check("5.4", weight=2)
def test_qlora_start(student, oracle, rng):
    """A new layer computes what the quantised weight alone does: B is zero, while A is random with independent rows."""
    without = lacking(student, oracle)
    for shape in LADDER[1:]:
        case = draw_case(rng, oracle, *shape)
        x = normal(rng, 4, shape[0])
        with at(case.rung):
            A, B, y = start(student, without, case, x)
            _, zero, weight_only = oracle(start, without, case, x)
            found = int(np.linalg.matrix_rank(A))
            student.note([bool(B.any()), found])
            close(B, zero, "lora_B of a new layer", rtol=0)
            demand(found == len(A), f"lora_A of a new layer has {found} linearly independent rows\n  expected: {len(A)}")
            close(y, weight_only, "layer(x) of a new layer", rtol=RTOL)


@check("5.4", weight=1)
def test_qlora_each_is_drawn(student, oracle, rng):
    """Two new layers have different A: it is drawn anew for each."""
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *LADDER[1])
    x = normal(rng, 4, 8)
    with at(case.rung):
        first, second = (start(student, without, case, x)[0] for _ in range(2))
        student.note([int(np.linalg.matrix_rank(first)), bool((first == second).all())])
        demand(
            bool((first != second).any()),
            "lora_A of two new layers holds the same numbers\n  expected: random ones, drawn anew for each layer",
        )


def numbers(lib: Session, without: tuple[str, ...], case: Case) -> dict[str, float]:
    layer, _ = make(lib, without, case)
    return {name: lib.number(getattr(layer, name)) for name in ("rank", "alpha", "scaling")}


def bias_of(lib: Session, without: tuple[str, ...], case: Case) -> tuple[np.ndarray, bool]:
    layer, _ = make(lib, without, case)
    return lib.read(layer.bias, case.bias.shape, "float32"), lib.flag(layer.bias.requires_grad)


@check("5.4", weight=1)
def test_qlora_attributes(student, oracle, rng):
    """rank, alpha, scaling and bias are what the contract says, and the bias is frozen."""
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *LADDER[0])
    with at(case.rung):
        got, want = numbers(student, without, case), oracle(numbers, without, case)
        for name in want:
            close(np.array(got[name]), np.array(want[name]), name, rtol=1e-12)
        layer, _ = make(student, without, case)
        none = student.probe("same", layer.bias, None)
        demand(none is True, "bias of a layer whose base has none is not None\n  expected: None")
    case = draw_case(rng, oracle, *LADDER[1])
    with at(case.rung):
        (bias, trainable), (want_bias, frozen) = bias_of(student, without, case), oracle(bias_of, without, case)
        close(bias, want_bias, "bias", rtol=0)
        equal(trainable, frozen, "bias.requires_grad")


def backward(lib: Session, without: tuple[str, ...], case: Case, x: np.ndarray, cotangents: list[np.ndarray]) -> dict:
    layer, base = make(lib, without, case)
    found = lib.probe("week05.gradients", layer, base, tensor(x), [tensor(g) for g in cotangents])
    shapes = {"lora_A": case.A.shape, "lora_B": case.B.shape, "x": x.shape}
    arrays = [
        {name: lib.array(call.get(name), f"the gradient of {name}", shape, "float32") for name, shape in shapes.items()}
        for call in found["calls"]
    ]
    names = [sorted(call) for call in found["calls"]]
    return {"arrays": arrays, "names": names, "base": found["base"], "trainable": lib.names_of("trainable_names", layer)}


@check("5.4", weight=3)
def test_qlora_gradients(student, oracle, rng):
    """Back-propagation gives x, lora_A and lora_B their gradients, in every pass of every call, and nothing else any."""
    without = lacking(student, oracle)
    for shape in LADDER:
        case = draw_case(rng, oracle, *shape)
        x, cotangents = normal(rng, 4, shape[0]), [normal(rng, 4, shape[1]) for _ in range(2)]
        with at(case.rung):
            got, want = backward(student, without, case, x, cotangents), oracle(backward, without, case, x, cotangents)
            passes = [(call, n) for call in (1, 2) for n in (1, 2)]
            for (call, n), mine, right in zip(passes, got["arrays"], want["arrays"], strict=True):
                for name in right:
                    close(mine[name], right[name], f"the gradient of {name} in backward pass {n} of call {call}", rtol=RTOL)
            equal(got["names"], want["names"], "what got a gradient in each backward pass")
            equal(got["base"], want["base"], "the list of parameters of base that got a gradient")
            equal(got["trainable"], want["trainable"], "the list of trainable parameters")


@check("5.4", weight=2)
def test_qlora_memory(student, oracle, rng):
    """The layer keeps codes and constants in a byte each, and neither the weight nor its constants in full precision.

    What a call leaves behind elsewhere, in a dictionary of the file, say, counts too.
    """
    without = lacking(student, oracle)
    in_features, out_features, block_size = 256, 192, 8  # enough blocks for their constants to count
    weight = normal(rng, out_features, in_features)
    rest = 4 * 3 * (in_features + out_features) + 4 * out_features  # factors of rank 3 and a bias
    blocks = weight.size // block_size
    bound = weight.size + blocks + 4 * (blocks // 256 + 2) + rest + 4096
    x = normal(rng, 2, in_features)
    case = Case(weight, normal(rng, out_features), normal(rng, 3, in_features), normal(rng, out_features, 3), 2.0, block_size)
    with at(case.rung):
        layer, base = make(student, without, case)
        for when, argument in (("a new layer", None), ("a layer after a call", tensor(x))):
            found = student.probe("week05.kept", layer, base, argument)
            # How much is needed is free; whether it is too much, and by a float for each weight, is not.
            apart, excess = found["elsewhere"] > 4096, found["bytes"] - bound
            student.trace[-1] = [found["base"], excess > 0, round(excess / weight.nbytes) > 0, apart]
            demand(not found["base"], f"{when} leads to base.weight\n  expected: codes and constants only")
            demand(found["bytes"] <= bound, f"the tensors of {when} hold {found['bytes']} bytes\n  expected: at most {bound}")


def reloaded(lib: Session, without: tuple[str, ...], case: Case, other: Case, x: np.ndarray) -> np.ndarray:
    first, _ = make(lib, without, case)
    second, _ = make(lib, without, other)
    lib.keep(second(tensor(x)))  # whatever it remembers of this call is of no use afterwards
    second.load_state_dict(first.state_dict())
    return lib.read(second(tensor(x)), (len(x), len(case.weight)), "float32")


@check("5.4", weight=1, tier="advanced")
def test_qlora_state(student, oracle, rng):
    """The state_dict of a layer holds all that another one needs to compute the same."""
    without = lacking(student, oracle)
    for shape in LADDER[:2]:
        case, other = draw_case(rng, oracle, *shape), draw_case(rng, oracle, *shape)
        x = normal(rng, 3, shape[0])
        with at(case.rung):
            want = oracle(reloaded, without, case, other, x)
            close(reloaded(student, without, case, other, x), want, "layer(x) after load_state_dict", rtol=RTOL)


@check("5.4", weight=1, tier="advanced")
def test_qlora_dtype(student, oracle, rng):
    """The factors have the dtype of base.weight, and the weight is dequantised to the dtype of x."""
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *LADDER[1])
    x = normal(rng, 4, 8)
    for dtype in ("float64", "bfloat16", "float32"):
        with at(f"base and x of dtype {dtype}"):
            layer, _ = make(student, without, case, dtype)
            student.read(layer.lora_A, case.A.shape, dtype, free=True)
            student.read(layer.lora_B, case.B.shape, dtype, free=True)
            y = student.read(layer(tensor(x, dtype)), (4, 5), dtype, free=dtype == "bfloat16")
            want = oracle(output, without, case, x, dtype)
            # bfloat16: some ten terms, rounded to 2^-9 of themselves in whatever order
            close(y, want, "layer(x)", rtol=0.05 if dtype == "bfloat16" else RTOL)


@check("5.4", weight=1, tier="advanced")
def test_qlora_leaves_base_alone(student, oracle, rng):
    """The values of base do not change, and the layer does not follow a change of base.weight."""
    without = lacking(student, oracle)
    case = draw_case(rng, oracle, *LADDER[1])
    x = normal(rng, 3, 8)
    with at(case.rung):
        layer, base = make(student, without, case)
        layer(tensor(x))
        close(student.read(base.weight, case.weight.shape, "float32"), case.weight, "base.weight", rtol=0)
        student.write(base.weight, normal(rng, *case.weight.shape))
        got = student.read(layer(tensor(x)), (3, 5), "float32")
        close(got, oracle(output, without, case, x), "layer(x) after base.weight was overwritten", rtol=RTOL)


@check("5.4", weight=1, tier="advanced")
def test_qlora_refuses_bad_arguments(student, oracle, rng):
    """A rank outside 1 ... min(in_features, out_features) is a ValueError, and so is a block_size below 1."""
    without = lacking(student, oracle)
    # A rank that is too large comes first: unchecked it raises nothing, while a rank of 0 may divide by zero.
    wide, tall = (5, 3), (3, 5)
    refused = [(wide, 4, 5), (tall, 4, 5), (wide, 0, 5), (wide, -2, 5)] + (
        [] if "quantize_nf4" in without else [(wide, 2, 0), (wide, 2, -3)]
    )  # the block_size is quantize_nf4's to refuse
    for (n, m), rank, block_size in refused:
        with at(f"in_features={n}, out_features={m}, rank={rank}, block_size={block_size}"):
            base = student.build("linear", weight=tensor(normal(rng, m, n)), bias=None)
            student.raises("ValueError", act=lambda b=base, r=rank, s=block_size: student.QLoRALinear(b, r, 1.0, s))
