"""A few blocks of the disk that are held back for a store's own records."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 32 * 2**10


class Reserve:
    """A file that is deleted when a record must be written and the disk is full, and made again when there is room.

    A record has some hundred bytes, so a rollback to weights that are in memory needs no more than this.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> None:
        """Have the blocks, if there is room for them. Without them everything works until the disk is full."""
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size == RESERVE_BYTES:
                return
        try:
            with self._path.open("wb") as file:
                file.write(os.urandom(RESERVE_BYTES))  # what does not compress takes its blocks
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def give_back(self) -> bool:
        """Whether there was a reserve; its blocks are free now."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
