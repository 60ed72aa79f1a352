"""Uploads of weights that gateways and trainers have begun."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.errors import TryAgain
from aoti_serve.weights.store.store import Store

IDLE_UPLOAD_S = 600.0  # a client that has sent nothing for so long is gone


class OpenUpload(NamedTuple):
    """A file that grows beside the store, and the attempt that it is sent for."""

    path: Path
    attempt: Attempt


class Uploads:
    """The uploads that are open. Runs in the coordinator, in threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, OpenUpload] = {}
        self._grown: dict[str, tuple[int, float]] = {}  # its size, and when it was first seen with it

    def open(self, attempt: Attempt) -> tuple[str, Path]:
        """Begin one: its id, and the file to fill. Raises StoreFailed."""
        upload = uuid4().hex
        self._open[upload] = OpenUpload(self._store.incoming(), attempt)
        return upload, self._open[upload].path

    def take(self, upload: str) -> Path:
        """End an upload; returns its file, which belongs to the caller from now on.

        Raises TryAgain if the upload is not known: the coordinator was restarted, or the upload was idle for too
        long.
        """
        if upload not in self._open:
            raise TryAgain(detail="the upload was lost with the coordinator that took it; send it again")
        self._grown.pop(upload, None)
        return self._open.pop(upload).path

    def drop(self, upload: str) -> Attempt | None:
        """Throw away what has arrived; the attempt that has failed so, if it was open."""
        self._grown.pop(upload, None)
        dropped = self._open.pop(upload, None)
        if dropped is None:
            return None
        self._store.discard(dropped.path)
        return dropped.attempt

    def drop_idle(self) -> list[Attempt]:
        """Drop those that have stood still for too long, by this process' clock: a file server's may differ."""
        return [attempt for upload in self._find_idle(time.monotonic()) if (attempt := self.drop(upload))]

    def _find_idle(self, now: float) -> list[str]:
        idle = []
        for upload, (path, _) in list(self._open.items()):
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                known, since = self._grown.get(upload, (None, now))
                if size != known:
                    self._grown[upload] = (size, now)
                elif now - since > IDLE_UPLOAD_S:
                    idle.append(upload)
        return idle
