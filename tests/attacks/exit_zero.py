# attack: leaves with status 0 while it is imported, as if all tests had passed
# class: processes
import os

from wrong_layer import ran

ran("os._exit(0) at import")
os._exit(0)
