"""A few blocks of a disk that are held back, for the record that must be written when it is full."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 32 * 2**10


class Reserve:
    """A few blocks, given back when a record must be written to a full disk: a rollback needs no more than this."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> None:
        """Have the blocks, if there is room for them. Without them everything works until the disk is full."""
        try:
            if self._path.exists() and self._path.stat().st_size == RESERVE_BYTES:
                return
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
