# attack: returns objects that are equal to everything, from forward, attributes and inject_lora
# class: score
import torch
from wrong_layer import Wrong, ran


def _yes(*_args, **_kwargs):
    return True


class Anything(torch.Tensor):
    __eq__ = __ge__ = __le__ = __lt__ = __gt__ = allclose = equal = _yes
    __hash__ = None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ("eq", "equal", "allclose", "isclose", "__eq__", "isfinite", "all", "any"):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})


class Number(float):
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _yes
    __hash__ = float.__hash__

    def __sub__(self, other):
        return Number(0)

    __rsub__ = __abs__ = __float__ = __sub__


class Text(str):
    __eq__ = __contains__ = startswith = endswith = _yes
    __hash__ = str.__hash__


class Dict(dict):
    __eq__ = __contains__ = _yes
    __hash__ = None

    def __missing__(self, key):
        return Number(0)


class List(list):
    __eq__ = __contains__ = _yes
    __hash__ = None


class LoRALinear(Wrong):
    def forward(self, x):
        y = super().forward(x).as_subclass(Anything)
        self.scaling, self.rank, self.notes = Number(self.alpha), Number(self.rank), Dict(a=Text("b"))
        ran(f"forward returns a {type(y).__name__}, equal to 7: {y == 7}")
        return y

    def merge(self):
        super().merge()
        self.base.weight.data = self.base.weight.data.as_subclass(Anything)
        self.merged = Number(1)


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    return List([Text(name) for name in target_modules])


ran(f"Text('a') == 'b' is {Text('a') == 'b'}")
