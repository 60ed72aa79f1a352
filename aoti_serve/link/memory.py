"""Memory for bytes that arrive. A large piece is used again when nothing refers to it any more.

Fresh memory costs a page fault for every 4 KB of it: 64 MB of it take as long as they take over the link.
"""

from __future__ import annotations

from sys import getrefcount

import numpy as np
from numpy.typing import NDArray

MEMORY_ALIGNMENT = 64  # bytes: what compiled code and cards like best
LARGE = 2**18
KEPT_BYTES = 2**28


class Memory:
    """The memory for all that a process receives, in its event loop. Keeps at most `KEPT_BYTES` that are not in use."""

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []

    def take(self, nbytes: int) -> memoryview:
        """Writable memory, aligned to `MEMORY_ALIGNMENT`; free again when the last view of it has gone."""
        if nbytes < LARGE:
            return _aligned(np.empty(nbytes + MEMORY_ALIGNMENT, np.uint8), nbytes)
        return _aligned(self._used_again(nbytes + MEMORY_ALIGNMENT), nbytes)

    def _used_again(self, nbytes: int) -> NDArray[np.uint8]:
        for index in range(len(self._kept)):
            # 2: the list and the call itself
            if nbytes <= self._kept[index].nbytes <= 2 * nbytes and getrefcount(self._kept[index]) == 2:
                return self._kept[index]
        made = np.empty(nbytes, np.uint8)
        self._kept.append(made)
        while sum(memory.nbytes for memory in self._kept) > KEPT_BYTES:
            del self._kept[0]
        return made


def _aligned(memory: NDArray[np.uint8], nbytes: int) -> memoryview:
    skipped = -memory.__array_interface__["data"][0] % MEMORY_ALIGNMENT
    return memory[skipped : skipped + nbytes].data


MEMORY = Memory()
