"""Folders of this user alone; and such that last as long as the process that made them, however that ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path


def make_private(folder: Path) -> bool:
    """Make a folder that only this user may enter, or close one that others could only read.

    False if it is none of this user's own, such as a link, or if others can write to it. Raises OSError if it cannot be
    made.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        return False
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return True


class ProcessFolder:
    """A new folder that only this user may enter; those of processes that have ended are removed.

    Its `path` is gone when this object is, and after a kill when the next process makes one with the same `prefix`: the
    lock on it ends with this process, and with those that it has forked. Raises OSError if it cannot be made.
    """

    def __init__(self, prefix: str) -> None:
        _remove_abandoned(prefix)
        self.path, descriptor = _locked(prefix)
        self._end = weakref.finalize(self, _remove, self.path, descriptor)

    def remove(self) -> None:
        """Remove it now, with all that is in it."""
        self._end()


def _locked(prefix: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # where folders have no locks nobody removes any
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():  # else one that cleans up has come in between
                return folder, descriptor
            os.close(descriptor)


def _remove_abandoned(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another user's, or gone
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _remove_unlocked(folder, descriptor)
            finally:
                os.close(descriptor)


def _remove_unlocked(folder: Path, descriptor: int) -> None:
    if os.fstat(descriptor).st_uid == os.geteuid():
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, descriptor: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)
