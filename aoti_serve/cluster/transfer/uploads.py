"""Weights on their way in, from gateways and trainers."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from aoti_serve.errors import Unavailable
from aoti_serve.weights.store.store import Store

IDLE_UPLOAD_S = 600.0  # whoever has sent nothing for so long has gone


class Uploads:
    """The open ones, each a file beside the store. Runs in the coordinator, in threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._paths: dict[str, Path] = {}
        self._grown: dict[str, tuple[int, float]] = {}  # its size, and when it was first seen with it

    def open(self) -> tuple[str, Path]:
        """A new one: its id, and the file to fill."""
        upload = uuid4().hex
        self._paths[upload] = self._store.incoming()
        return upload, self._paths[upload]

    def take(self, upload: str) -> Path:
        """Its file, which is the taker's from now on.

        Raises Unavailable if it is not known: the coordinator has been restarted, or it was idle for too long.
        """
        if upload not in self._paths:
            raise Unavailable(detail="the upload was lost with the coordinator that took it; send it again")
        self._grown.pop(upload, None)
        return self._paths.pop(upload)

    def drop(self, upload: str) -> None:
        self._grown.pop(upload, None)
        path = self._paths.pop(upload, None)
        if path is not None:
            self._store.discard(path)

    def drop_idle(self) -> None:
        """By this process' clock: a file server's may differ."""
        now = time.monotonic()
        for upload, path in list(self._paths.items()):
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                known, since = self._grown.get(upload, (None, now))
                if size != known:
                    self._grown[upload] = (size, now)
                elif now - since > IDLE_UPLOAD_S:
                    self.drop(upload)
