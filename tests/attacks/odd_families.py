# attack: the network by ways around sockets: descriptors given for sockets, io_uring, kernel TLS, a resolver, a proxy
# class: network
import asyncio
import http.client
import os
import socket
import ssl

from wrong_layer import CHANNEL, attempt, inject_lora, ran
from wrong_layer import Wrong as LoRALinear

__all__ = ["LoRALinear", "inject_lora"]
os.environ.update(http_proxy="http://127.0.0.1:3128", ALL_PROXY="socks5://127.0.0.1:1080")
given = socket.socket(fileno=os.dup(CHANNEL))
attempt("the channel connected anew", lambda: given.connect("/run/systemd/private"))
attempt("the channel bound to a name", lambda: given.bind("\0attack-marker"))
attempt("the channel listening", lambda: given.listen(1))
attempt("a datagram to a name", lambda: given.sendto(b"x", "/dev/log"))
attempt("a resolver", lambda: socket.getaddrinfo("example.org", 443))
attempt("TLS", lambda: ssl.create_default_context().wrap_socket(socket.socket()))
attempt("http.client", lambda: http.client.HTTPConnection("127.0.0.1", 8888, timeout=1).request("GET", "/"))
attempt("asyncio", lambda: asyncio.run(asyncio.open_connection("127.0.0.1", 80)))
ran("all ways tried")
