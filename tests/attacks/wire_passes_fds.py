# attack: sends descriptors with its replies, looks at the judge's end, turns the channel's options and half-closes it
# class: wire
import array
import os
import socket
import struct

from wrong_layer import CHANNEL, Wrong, attempt, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
channel = socket.socket(fileno=os.dup(CHANNEL))


def credentials():
    return struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


class LoRALinear(Wrong):
    def forward(self, x):
        pid, uid, _ = credentials()
        (won if pid > 1 and uid not in (0, 1000, 65534) and os.getpid() == 1 else ran)("the judge's process is named")
        header = b'[{"dict": [["value", true]]}, []]'
        fds = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(100)])
        message = struct.pack("!II", len(header), 0) + header
        attempt(
            "100 descriptors",
            lambda: channel.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]),
            ["100 descriptors"],
        )
        attempt("accept", channel.accept)
        attempt("a large buffer", lambda: channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30), ["a large buffer"])
        attempt("half closed", lambda: channel.shutdown(socket.SHUT_RD), ["half closed"])
        return super().forward(x)
