# attack: recursion without end, in Python with the limit lifted, through C and in an exception's own text
# class: processes
import functools
import sys

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class Deep(Exception):
    def __str__(self):
        return str(self)

    __repr__ = __str__


class LoRALinear(Wrong):
    def forward(self, x):
        ran("recursion without end")
        raise Deep

    def merge(self):
        sys.setrecursionlimit(2**31 - 1)
        nested = ()
        for _ in range(1_000_000):
            nested = (nested,)
        hash(nested)  # the C stack is used up

    def set_rank(self, new_rank):
        sys.setrecursionlimit(2**31 - 1)
        functools.reduce(lambda a, b: self.set_rank(b), [1, 2], 0)
