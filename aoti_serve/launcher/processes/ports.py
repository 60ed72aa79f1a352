"""The TCP ports of this machine: which are free, which process holds one, its purpose, and its reach."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from aoti_serve.errors import PortHeld, StartFailed

RAYS, NODE_MANAGER = "ray::", "raylet"  # names of processes
WORKER = "calls from Ray and Serve"
LEFT_BEHIND_S = 150.0  # Ray gives its processes two minutes
# The purpose of a process's ports, by its title as Ray sets it.
PURPOSES = {
    "gcs_server": "Ray's control store",
    NODE_MANAGER: "Ray's node manager",
    "dashboard.py": "Ray's dashboard: its own metrics",
    "monitor.py": "Ray's autoscaler: metrics",
    "DashboardAgent": "Ray's agents",
    "RuntimeEnvAgent": "Ray's agents",
}


class ListeningPort(NamedTuple):
    """One listening socket of a process, and its purpose."""

    address: str
    port: int
    pid: int
    process: str
    purpose: str

    @property
    def public(self) -> bool:
        """True if other machines reach it, firewalls aside."""
        return not is_loopback(self.address)

    @property
    def shows_metrics(self) -> bool:
        """True if it answers every caller. All other public ports of Ray ask for Ray's token."""
        return "etrics" in self.purpose


def listening_ports(processes: Collection[psutil.Process], known: Mapping[int, str]) -> list[ListeningPort]:
    """The ports on which these processes listen, in order. `known` gives purposes by port."""
    return sorted({entry for process in processes for entry in _of(process, known)}, key=lambda entry: entry.port)


def is_loopback(host: str) -> bool:
    """True if the host, an address or a name, stands for this machine wherever it is used."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return bool((getattr(found, "ipv4_mapped", None) or found).is_loopback)


def title_of(command: Sequence[str]) -> str:
    """A short name of a process: its deployment, its actor of Ray's, its script, or its program."""
    first = command[0] if command else ""
    if deployment := re.search(r"ServeReplica:[^:]+:([\w-]+)", first):
        return deployment[1]
    if actor := re.match(r"ray::(\w+)", first):
        return actor[1]
    words = [word for word in command[1:] if not word.startswith("-")]
    return Path(words[0] if words and Path(first).name.startswith("python") else first).name


def require_free(host: str, port: int, way_out: str) -> None:
    """Raise PortHeld if the port is taken; `way_out` says what to do."""
    if _can_bind(host, port):
        return
    found = _listener(port)
    detail, left_behind = f"; stop it, or {way_out}", found is not None and _is_left_behind(found)
    if left_behind:
        left = "a server that was killed has left behind: such processes end by themselves within two minutes"
        detail = f", which {left}; wait, or {way_out}"
    raise PortHeld(
        port=port, holder=_named(found), pid=found.pid if found else None, left_behind=left_behind, detail=detail
    )


def await_ports(
    find: Callable[[], Iterable[StartFailed]],
    tell: Callable[[str], None],
    pause: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait for ports that processes of a server that was killed still hold, for `LEFT_BEHIND_S` at most.

    `find` gives what is wrong with the ports now. Raises the first of these that no waiting mends. `tell` hears what is
    waited for; `pause` waits a little, and is true if there is to be no more waiting.
    """
    end = clock() + LEFT_BEHIND_S
    while found := list(find()):
        lasting = [error for error in found if not (isinstance(error, PortHeld) and error.left_behind)]
        if lasting or clock() > end:
            raise (lasting or found)[0]
        tell(f"waiting: {found[0]}")
        if pause():
            return


def holder_of(host: str, port: int) -> str | None:
    """The name of the process that listens on the port; None if the port is free."""
    return None if _can_bind(host, port) else _named(_listener(port))


def _named(process: psutil.Process | None) -> str:
    with suppress(psutil.Error):
        if process is not None:
            return f"{process.name()} (pid {process.pid})"
    return "another process"


def _listener(port: int) -> psutil.Process | None:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            with suppress(psutil.NoSuchProcess):
                return psutil.Process(connection.pid)
    return None


def _is_left_behind(process: psutil.Process) -> bool:
    """Whether it is one of Ray's below a node manager, which has gone: it went with the process that had started it."""
    with suppress(psutil.Error):
        above = {parent.name() for parent in process.parents()}
        return process.name().startswith(RAYS) and NODE_MANAGER not in above
    return False


def hosts_overlap(one: str, other: str) -> bool:
    """True if a listener on one host keeps others from listening on the other host, at the same port."""
    return one == other or is_wildcard(one) or is_wildcard(other)


def is_wildcard(host: str) -> bool:
    """True if the host stands for all addresses of a machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def _of(process: psutil.Process, known: Mapping[int, str]) -> Iterator[ListeningPort]:
    with suppress(psutil.Error):
        command = process.cmdline()
        title = title_of(command)
        for entry in process.net_connections("tcp"):
            if entry.status == psutil.CONN_LISTEN:
                address, port = entry.laddr
                purpose = known.get(port) or PURPOSES.get(title, WORKER)
                yield ListeningPort(address.removeprefix("::ffff:"), port, process.pid, title, purpose)  # gRPC's IPv4


def _can_bind(host: str, port: int) -> bool:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EACCES:
            reason = "is for root only, as all below net.ipv4.ip_unprivileged_port_start are; take a higher one"
            raise StartFailed(detail=f"cannot listen on {host}: port {port} {reason}") from error
        if error.errno != errno.EADDRINUSE:
            raise StartFailed(detail=f"cannot listen on {host}: {error.strerror or error}") from error
        return False
    return True
