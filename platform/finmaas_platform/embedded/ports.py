"""Which ports an installation needs, and who holds one that is taken."""

from __future__ import annotations

import socket

import psutil

from finmaas_core.errors import EnvironmentFault
from finmaas_core.settings import PORT_OFFSETS, Settings


def is_free(host: str, port: int) -> bool:
    """Whether a listener could be bound right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def find_listener(port: int) -> psutil.Process | None:
    """The process that listens on a port; None when this user may not know it, or there is none."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return psutil.Process(connection.pid)
    except psutil.Error:
        return None
    return None


def describe_holder(port: int) -> str:
    """The process that listens on a port, as far as this user may know it."""
    process = find_listener(port)
    try:
        return f"{process.name()} (pid {process.pid})" if process else "another process"
    except psutil.Error:
        return "another process"


def check_ports(settings: Settings) -> None:
    """EnvironmentFault naming the first taken port, its holder and the way out."""
    for name in PORT_OFFSETS:
        port = settings.port(name)
        if not is_free(settings.host, port):
            raise EnvironmentFault(
                f"port {port} ({name.replace('_', ' ')}) is taken by {describe_holder(port)}; "
                f"end that process, or choose another block: finmaas up --port-base {settings.port_base + 200}",
                port=port,
            )
