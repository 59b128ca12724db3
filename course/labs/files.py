"""The files that the labs ship, held against their hashes."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

from course.labs.core import ROOT, LabStop, say

FOLDER = ROOT / "course" / "labs" / "pretrained"
HASHES = FOLDER / "hashes.toml"
REBUILD = {"tiny_llama": "llama", "digits_vit": "vit", "digits_unet": "unet"}


def checked(name: str) -> Path:
    """The folder of a shipped model, its files' SHA-256 verified.

    Raises:
        LabStop: if a file is missing or differs from the one that was released.
    """
    table = tomllib.loads(HASHES.read_text(encoding="utf-8"))[name]
    for file, wanted in table.items():
        path = FOLDER / name / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            command = f"python -m course.labs.pretrain {REBUILD[name]}"
            raise LabStop(
                say(
                    f"{name}/{file} is missing or damaged: get it again, or rebuild it with `{command}`.",
                    f"{name}/{file} 缺失或已损坏：请重新获取，或用 `{command}` 重新生成。",
                )
            )
    return FOLDER / name


def unreachable(name: str, variable: str, error: Exception, licence: bool = False) -> LabStop:
    """What to do where a model or data cannot be loaded.

    Args:
        variable: the environment variable that gives another one.
        licence: whether the hub may ask to accept one.
    """
    why = " ".join(str(error).split())[:160]
    if licence:
        return LabStop(
            say(
                f"{name} cannot be loaded ({why}): connect to the hub, accept its licence there and run `hf auth login`, "
                f"or set {variable} to a local path.",
                f"无法加载 {name}（{why}）：请连接到模型库，在其页面接受许可并运行 `hf auth login`，"
                f"或将 {variable} 设为本地路径。",
            )
        )
    return LabStop(
        say(
            f"{name} cannot be loaded ({why}): connect to the hub, or set {variable} to a local folder.",
            f"无法加载 {name}（{why}）：请连接到模型库，或将 {variable} 设为本地文件夹。",
        )
    )


def write_hashes(name: str) -> None:
    """Put the SHA-256 of the files of a model that was built anew into the table."""
    tables = tomllib.loads(HASHES.read_text(encoding="utf-8")) if HASHES.is_file() else {}
    files = sorted(path for path in (FOLDER / name).iterdir() if path.suffix != ".md")
    tables[name] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    lines = [
        f"[{name}]\n" + "".join(f'"{file}" = "{sha}"\n' for file, sha in table.items()) for name, table in sorted(tables.items())
    ]
    HASHES.write_text("\n".join(lines), encoding="utf-8")
