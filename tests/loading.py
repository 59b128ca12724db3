"""One file's module, for tests of references and alternatives."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load(path: Path, source: str | None = None) -> Any:
    """The module of one file, with helper modules beside it; sys.path and sys.modules stay as they were.

    Args:
        source: its text, where it is not what the file holds.
    """
    spec = importlib.util.spec_from_loader(path.stem, loader=None)
    assert spec is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    before = dict(sys.modules)
    sys.modules[path.stem] = module  # annotations of a dataclass or a Protocol look it up
    sys.path.insert(0, str(path.parent))
    try:
        exec(compile(path.read_text("utf-8") if source is None else source, str(path), "exec"), module.__dict__)
    finally:
        sys.path.remove(str(path.parent))
        for name, found in list(sys.modules.items()):
            if (getattr(found, "__file__", None) or "").startswith(f"{path.parent}/"):
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]
    return module
