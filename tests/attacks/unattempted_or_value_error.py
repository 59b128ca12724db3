# attack: raises whatever a check may want to see: an exception that is a ValueError, a RuntimeError and more at once
# class: score
from wrong_layer import Wrong, ran


class Everything(NotImplementedError, ValueError, KeyError, AttributeError, TypeError):
    pass


class LoRALinear(Wrong):
    def forward(self, x):
        ran("forward raises an exception of every kind")
        raise Everything("passed")

    def merge(self):
        raise Everything("passed")

    unmerge = merge

    def set_rank(self, new_rank):
        raise Everything("passed")


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    raise Everything("passed")


ran(f"its bases: {[cls.__name__ for cls in Everything.__mro__]}")
