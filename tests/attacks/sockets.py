# attack: sockets of every family, to the judge's machine, to others and to the neighbours
# class: network
import socket
import urllib.request

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


def abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("\0attack-marker")
        return s.getsockname()


for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH"):
    if hasattr(socket, family):
        for kind in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW"):
            attempt(f"{family} {kind}", lambda f=family, k=kind: socket.socket(getattr(socket, f), getattr(socket, k)))
attempt("socketpair", socket.socketpair)
attempt("an abstract name", abstract)
attempt("localhost", lambda: socket.create_connection(("127.0.0.1", 22), 1))
attempt("a server", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("a name", lambda: socket.gethostbyname("localhost.invalid"))
attempt("http", lambda: urllib.request.urlopen("http://127.0.0.1:1/", timeout=1))
ran("all families tried")
