"""The names and the bytes of an adapter's files."""

import json
from pathlib import Path

from safetensors.torch import load, save

PREFIX, SUFFIX = "base_model.model.", ".weight"
FACTORS = ("lora_A", "lora_B")


def layers_of(model):
    """(name, layer) pairs by recursion, so that a shared layer is met once for each of its names."""

    def walk(module, path):
        own = dict(module.named_parameters(recurse=False))
        if all(f in own for f in FACTORS):
            yield path, module
        for name, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{path}.{name}" if path else name)

    return list(walk(model, ""))


def key_of(path, factor):
    return PREFIX + path + "." + factor + SUFFIX


def write(folder, tensors, settings):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def read(folder):
    folder = Path(folder)
    tensors = load((folder / "adapter_model.safetensors").read_bytes())
    return tensors, json.loads((folder / "adapter_config.json").read_text())
