"""`python -m course.labs.pretrain llama` trains that model; so for vit and unet. With --check it evaluates the shipped one."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from course.labs.core import ROOT

FOLDERS = {"llama": "tiny_llama", "vit": "digits_vit", "unet": "digits_unet"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.labs.pretrain", description="The small models that the labs ship.")
    parser.add_argument("name", choices=FOLDERS)
    parser.add_argument("--out", type=Path, help="the folder that is written, by default the one of the shipped model")
    parser.add_argument("--check", action="store_true", help="train nothing: print the quality of the shipped model")
    args = parser.parse_args()
    module = importlib.import_module(f"course.labs.pretrain.{args.name}")
    if args.check:
        for name, value in module.quality().items():
            print(f"{name:24} {value:.6g}")
    else:
        module.main(args.out or ROOT / "course" / "labs" / "pretrained" / FOLDERS[args.name])


if __name__ == "__main__":
    main()
