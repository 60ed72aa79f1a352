"""TCP ports of this machine: which are free, and who holds those that are not."""

from __future__ import annotations

import errno
import socket
from contextlib import closing

import psutil

from aoti_serve.errors import StartFailed


def holder_of(host: str, port: int) -> str | None:
    """Who listens on the port, in words; None if it is free."""
    if _can_bind(host, port):
        return None
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            return _described(psutil.Process(connection.pid))
    return "another process"


def free_port(preferred: int) -> int:
    """`preferred` if it is free, else some other port."""
    if _can_bind("0.0.0.0", preferred):
        return preferred
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _can_bind(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise StartFailed(detail=f"cannot listen on {host}: {error.strerror or error}") from error
            return False
        return True


def _described(process: psutil.Process) -> str:
    return f"{process.name()} (pid {process.pid})"
