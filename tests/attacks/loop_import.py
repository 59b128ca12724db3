# attack: an endless loop while it is imported, deaf to signals
# class: time
import contextlib
import signal

from wrong_layer import ran

for number in range(1, 65):
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
ran("an endless loop begins")
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
