"""Uploads of weights that gateways and trainers have begun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.errors import TryAgain
from aoti_serve.weights.store.store import Store

T = TypeVar("T")
IDLE_UPLOAD_S = 600.0  # a client that has sent nothing for so long is gone


@dataclass
class OpenUpload:
    """A file that grows beside the store, and the attempt that it is sent for."""

    path: Path
    attempt: Attempt
    size: int = 0
    grown: float = field(default_factory=time.monotonic)  # when it was first seen with this size

    def is_idle(self) -> bool:
        """Whether it has stood still for too long, by this process' clock: a file server's may differ."""
        with suppress(OSError):  # it is gone, or cannot be looked at now: then it stands still
            size, self.size = self.size, self.path.stat().st_size
            if size != self.size:
                self.grown = time.monotonic()
        return time.monotonic() - self.grown > IDLE_UPLOAD_S


class Uploads:
    """The uploads that are open. Runs in the coordinator, in threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, OpenUpload] = {}

    def open(self, attempt: Attempt) -> tuple[str, Path]:
        """Begin one: its id, and the file to fill. Raises StoreFailed."""
        upload, path = uuid4().hex, self._store.incoming()
        self._open[upload] = OpenUpload(path, attempt)
        return upload, path

    def take(self, upload: str) -> Path:
        """End an upload; returns its file, which belongs to the caller from now on.

        Raises TryAgain if the upload is not known: the coordinator was restarted, or the upload was idle for too
        long.
        """
        if upload not in self._open:
            raise TryAgain(detail="the upload was lost with the coordinator that took it; send it again")
        return self._open.pop(upload).path

    async def handed_to(self, change: Awaitable[T], path: Path) -> T:
        """What a change returns that takes over the file of an upload; it is thrown away if that is refused, or fails.

        A caller that goes away throws away nothing: a change that is begun goes on, and needs the file.
        """
        try:
            return await change
        except Exception:
            await asyncio.to_thread(self._store.discard, path)
            raise

    def drop(self, upload: str) -> Attempt | None:
        """Throw away what has arrived; returns the attempt that has failed so, if the upload was open."""
        dropped = self._open.pop(upload, None)
        if dropped is None:
            return None
        self._store.discard(dropped.path)
        return dropped.attempt

    def drop_idle(self) -> list[Attempt]:
        """Drop those that have stood still for too long; returns their attempts."""
        idle = [upload for upload, file in list(self._open.items()) if file.is_idle()]
        return [attempt for upload in idle if (attempt := self.drop(upload))]
