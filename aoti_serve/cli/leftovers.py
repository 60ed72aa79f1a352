"""HAProxy processes that an earlier Ray Serve has left behind.

When the processes of Ray Serve are killed, its HAProxy lives on, holds its ports and knows only gateways that are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

from aoti_serve.cli.listening import held_by
from aoti_serve.cli.ports import holder_of
from aoti_serve.errors import StartFailed

FOLDER = "haproxy-serve/"  # where Ray Serve keeps the configurations
MANAGER = "ray::HAProxyManager"


class Leftover(NamedTuple):
    pid: int
    ports: tuple[int, ...]

    def __str__(self) -> str:
        ports = ", ".join(map(str, self.ports))
        holds = f"it holds {'ports' if len(self.ports) > 1 else 'port'} {ports}" if ports else "it holds no port"
        return (
            f"haproxy (pid {self.pid}) was left behind by an earlier Ray Serve; {holds}: end it with `kill {self.pid}`"
        )


def leftovers() -> list[Leftover]:
    """Those of this machine whose configuration is Ray Serve's, and whose parent is not."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parent = process.parent()
            if is_leftover(process.cmdline(), parent.cmdline() if parent else []):
                found.append(Leftover(process.pid, tuple(held_by(process))))
    return found


def is_leftover(command: Sequence[str], parents: Sequence[str]) -> bool:
    """Whether the process of this command line is one, as its parent has that one."""
    ours = bool(command) and command[0].endswith("haproxy") and any(FOLDER in word for word in command)
    return ours and not (parents and parents[0].startswith(MANAGER))


def require_free(host: str, port: int, left: Sequence[Leftover]) -> None:
    """Raises StartFailed that says who holds the port, and how to end a leftover."""
    holder = holder_of(host, port)
    if holder is None:
        return
    for leftover in left:
        if port in leftover.ports:
            raise StartFailed(detail=f"port {port} is taken: {leftover}")
    raise StartFailed(detail=f"port {port} is taken by {holder}; stop it, or choose another with --port")
