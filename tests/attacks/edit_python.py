# attack: writes into the Python installation, its caches and its start files, for the grader and later submissions to run
# class: files
import os
import site
import sys
import sysconfig

import torch
from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
code = "print('ATTACK-WON: later code ran')\n"
places = [
    sysconfig.get_path("purelib"),
    os.path.dirname(os.__file__),
    os.path.dirname(torch.__file__),
    sys.prefix,
    sys.base_prefix,
]
if os.path.isdir("/grader"):
    places += ["/grader", "/grader/autograder", "/grader/autograder/inside"]
for place in places:
    for name in ("sitecustomize.py", "usercustomize.py", "attack-marker.pth", "__pycache__/os.cpython-311.pyc"):
        try:
            # Opened for appending: a place that lets it is a finding, and what is there stays as it is.
            os.close(os.open(os.path.join(place, name), os.O_WRONLY | os.O_APPEND | (0 if "pyc" in name else os.O_CREAT)))
            won(f"{place}/{name} can be written")
        except OSError as error:
            ran(f"{name}: {error.errno}")
home = site.getusersitepackages()
ran(f"a user's site would be {home}")
