# attack: looks for servers of the machine by name: Docker, D-Bus, systemd, Jupyter, Dask, the database, the cloud's metadata
# class: network
import os
import socket
from pathlib import Path

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
for name in ("/var/run/docker.sock", "/run/dbus/system_bus_socket", "/run/postgresql/.s.PGSQL.5432", "/tmp/.X11-unix/X0"):
    attempt(name, lambda name=name: socket.socket(socket.AF_UNIX).connect(name))
for host in (("169.254.169.254", 80), ("127.0.0.1", 8786), ("127.0.0.1", 5432), ("localhost", 8000)):
    attempt(host, lambda host=host: socket.create_connection(host, timeout=1))
if os.getpid() == 1:  # with namespaces there is no list of sockets either
    for path in ("/proc/net/unix", "/proc/net/tcp", "/sys/class/net"):
        (won if Path(path).exists() else ran)(path)
ran("all names tried")
