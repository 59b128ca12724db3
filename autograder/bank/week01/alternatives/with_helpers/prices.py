"""What one parameter costs, in bytes."""

from typing import NamedTuple

FP32, BF16 = 4, 2
BLOCK, SUPERBLOCK = 64, 256
NF4 = 1 / 2 + 1 / BLOCK + 4 / (BLOCK * SUPERBLOCK)
UNITS = {"B": 1, "GB": 1_000_000_000, "GiB": 1_073_741_824}


class Plan(NamedTuple):
    weight: int
    lora: int
    gradient: int
    optimizer: int


def full(dtype):
    master = FP32 if dtype < FP32 else 0
    return Plan(weight=dtype, lora=0, gradient=dtype, optimizer=FP32 + FP32 + master)


def adapters():
    return Plan(weight=BF16, lora=FP32, gradient=FP32, optimizer=FP32 + FP32)


def convert(size, unit):
    demand(unit in UNITS, f"no unit {unit!r}")
    return size / UNITS[unit]


def demand(condition, text):
    if not condition:
        raise ValueError(text)
