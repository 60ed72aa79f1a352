"""The TCP ports on which processes listen: what each is for, and whether other machines reach it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

WORKER = "calls from Ray and Serve"
# The purpose of a process's ports, by its title as Ray sets it.
PURPOSES = {
    "gcs_server": "Ray's control store",
    "raylet": "Ray's node manager",
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


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def title_of(command: Sequence[str]) -> str:
    """A short name of a process: its deployment, its actor of Ray's, its script, or its program."""
    first = command[0] if command else ""
    if deployment := re.search(r"ServeReplica:[^:]+:([\w-]+)", first):
        return deployment[1]
    if actor := re.match(r"ray::(\w+)", first):
        return actor[1]
    words = [word for word in command[1:] if not word.startswith("-")]
    return Path(words[0] if words and Path(first).name.startswith("python") else first).name


def _of(process: psutil.Process, known: Mapping[int, str]) -> Iterator[ListeningPort]:
    with suppress(psutil.Error):
        command = process.cmdline()
        title = title_of(command)
        for entry in process.net_connections("tcp"):
            if entry.status == psutil.CONN_LISTEN:
                address, port = entry.laddr
                purpose = known.get(port) or PURPOSES.get(title, WORKER)
                yield ListeningPort(address, port, process.pid, title, purpose)
