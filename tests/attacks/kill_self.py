# attack: kills its own process at once, by a signal that nothing catches
# class: processes
import os
import signal
import time

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("SIGKILL to itself")
        os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        os.abort()  # PID 1 of a namespace survives its own signals
