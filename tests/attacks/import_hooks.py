# attack: puts false modules in the place of the grader's, of torch's and of the standard library's, and hooks every import
# class: score
import importlib.abc
import sys
import types

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith(("autograder.judge", "autograder.checks", "solutions")):
            ran(f"{name} was asked for")
        return None


sys.meta_path.insert(0, Finder())
for name in ("autograder.inside.probes", "autograder.inside.builders", "autograder.judge", "autograder.judge.check", "pytest"):
    false = types.ModuleType(name)
    false.__getattr__ = lambda attribute: lambda *_args, **_kwargs: True
    sys.modules[name] = false
for name in ("autograder.judge.session", "autograder.judge.runner", "autograder.bank", "solutions.week04.lora_linear"):
    try:
        __import__(name)
    except BaseException as error:
        ran(f"{name}: {type(error).__name__}")
    else:
        print(f"ATTACK-WON: {name} can be imported")
ran("false modules are in place")
