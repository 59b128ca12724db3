# attack: exceptions whose text is huge, prints, raises, or is no text
# class: output
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class Huge(Exception):
    def __str__(self):
        ran("a text of 100 MB")
        return "A" * 100_000_000


class Loud(Exception):
    def __str__(self):
        print("score: 70")
        raise Loud


class Odd(Exception):
    def __str__(self):
        return 70


class Meta(type):
    __name__ = property(lambda cls: ["passed"])
    __mro__ = property(lambda cls: (object,) * 1000)


class Nameless(Exception, metaclass=Meta):
    pass


class LoRALinear(Wrong):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        type(self).made = getattr(self, "made", 0) + 1

    def forward(self, x):
        ran("raises")
        raise (Huge, Loud, Odd, Nameless)[self.made % 4]

    def merge(self):
        raise Nameless

    def set_rank(self, new_rank):
        raise Loud
