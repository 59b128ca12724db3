# attack: none: the wrong answer alone, whose score no attack may exceed
# class: score
from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
ran("nothing")
