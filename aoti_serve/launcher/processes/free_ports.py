"""Checks that TCP ports of this machine are free, and which process holds one that is not."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import closing, suppress

import psutil

from aoti_serve.errors import StartFailed


def require_free(host: str, port: int, way_out: str) -> None:
    """Raise StartFailed if the port is taken. The text names the process that holds it; `way_out` says what to do."""
    if holder := holder_of(host, port):
        raise StartFailed(detail=f"port {port} is taken by {holder}; stop it, or {way_out}")


def holder_of(host: str, port: int) -> str | None:
    """The name of the process that listens on the port; None if the port is free."""
    if _can_bind(host, port):
        return None
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            with suppress(psutil.NoSuchProcess):
                return _described(psutil.Process(connection.pid))
    return "another process"


def hosts_overlap(one: str, other: str) -> bool:
    """True if a listener on one host keeps others from listening on the other host, at the same port."""
    return one == other or is_wildcard(one) or is_wildcard(other)


def is_wildcard(host: str) -> bool:
    """True if the host stands for all addresses of a machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def _can_bind(host: str, port: int) -> bool:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise StartFailed(detail=f"cannot listen on {host}: {error.strerror or error}") from error
        return False
    return True


def _described(process: psutil.Process) -> str:
    return f"{process.name()} (pid {process.pid})"
