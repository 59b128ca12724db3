# attack: traces the worker's own frames and changes its local variables before a reply is packed
# class: score
import ctypes
import sys

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
seen = []


def tracer(frame, event, _):
    if frame.f_code.co_name in ("handle", "pack", "op_read", "_describe"):
        if not seen:
            ran(f"inside {frame.f_code.co_name}")
        seen.append(event)
        if event == "return" and "value" in frame.f_locals and frame.f_code.co_name == "handle":
            frame.f_locals["value"] = True
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        return tracer
    return None


frame = sys._getframe()
while frame:
    frame.f_trace = tracer
    frame = frame.f_back
sys.settrace(tracer)
sys.setprofile(lambda frame, event, _: None)
ran("the worker is traced")
