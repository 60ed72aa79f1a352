"""The memory of replicas: two versions, and never one more for each candidate that was tried."""

from __future__ import annotations

import psutil

from chaoslab.changes import Lost
from chaoslab.lab import Lab

ROOM = 2  # versions
BESIDES = 24 * 2**20  # bytes that a process allocates for other things in its first minutes


def check_memory(lab: Lab) -> None:
    """Between changes, while replicas hold two versions: none has grown since it was first seen so.

    Raises Lost.
    """
    nbytes = len(lab.telltales.weights(1))
    for pid in lab.replica_pids():
        now = psutil.Process(pid).memory_full_info().uss
        first = lab.memory.setdefault(pid, now)
        if now > first + ROOM * nbytes + BESIDES:
            raise Lost(f"replica {pid} has grown from {first // 2**20} to {now // 2**20} MB")
