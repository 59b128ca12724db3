# attack: source and messages whose lines read otherwise than they run: bidirectional controls, zero width, look-alikes
# class: output
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
# \u202e } \u2066if passed\u2069 \u2066 only comments
TEXT = (
    "\u202e\u2066passed\u2069\u2066\u200b\u200d\ufeff\u00ad\u061c\u180e\U000e0041\U000e0042"
    " Score: 70 of 70\u2028| 4.1 | 25 / 25 |\u0085\x0b\x0c"
)
ran("texts are ready")


class LoRALinear(Wrong):
    def forward(self, x):
        ran("raises them")
        raise ValueError(TEXT)

    def merge(self):
        raise type("Val\u0456dError", (ValueError,), {"__module__": "\u202enoitpecxe"})(TEXT)
