# attack: threads by the hundred that never end, some of them busy, and not daemons
# class: processes
import threading
import time

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
made = 0
threading.stack_size(1 << 20)
try:
    while made < 300:  # the address space may end it earlier; more would only bother the machine
        threading.Thread(target=time.sleep, args=(1e6,)).start()
        made += 1
except BaseException as error:
    print(type(error).__name__)
ran(f"{made} threads")
