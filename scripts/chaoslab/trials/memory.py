"""The memory of replicas: two versions, and never one more for each candidate that was tried."""

from __future__ import annotations

import psutil

from chaoslab.lab import Lab, Lost

ROOM = 4  # versions: what a process allocates besides, and gives back late
FIXED = 48 * 2**20  # bytes


def check_memory(lab: Lab) -> None:
    """Between changes, while replicas hold two versions: none has grown since it was first seen so.

    Raises Lost.
    """
    nbytes = len(lab.telltales.weights(1))
    for pid in lab.replica_pids():
        now = psutil.Process(pid).memory_full_info().uss
        first = lab.memory.setdefault(pid, now)
        if now > first + ROOM * nbytes + FIXED:
            raise Lost(f"replica {pid} has grown from {first // 2**20} to {now // 2**20} MB")
        lab.tell(f"  replica {pid}: {now // 2**20} MB, at first {first // 2**20}")
