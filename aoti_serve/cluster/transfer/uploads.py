"""The files of weights that gateways and trainers are sending at this moment."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from aoti_serve.errors import TryAgain
from aoti_serve.weights.store.store import Store

IDLE_UPLOAD_S = 600.0  # an upload that has not grown for so long is dropped


class Uploads:
    """Open uploads by id, each a file beside the store. Runs in the coordinator, in threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._paths: dict[str, Path] = {}
        self._grown: dict[str, tuple[int, float]] = {}  # the size of each, and when it was first seen with that size

    def open(self) -> tuple[str, Path]:
        """Begin an upload; returns its id, and the file to fill."""
        upload = uuid4().hex
        self._paths[upload] = self._store.incoming()
        return upload, self._paths[upload]

    def take(self, upload: str) -> Path:
        """End an upload; returns its file, which belongs to the caller from now on.

        Raises Unavailable if the upload is not known: the coordinator was restarted, or the upload was idle for too
        long.
        """
        if upload not in self._paths:
            raise TryAgain(detail="the upload was lost with the coordinator that took it; send it again")
        self._grown.pop(upload, None)
        return self._paths.pop(upload)

    def drop(self, upload: str) -> None:
        """Delete an upload and its file; does nothing if it is not known."""
        self._grown.pop(upload, None)
        path = self._paths.pop(upload, None)
        if path is not None:
            self._store.discard(path)

    def drop_idle(self) -> None:
        """Delete uploads that have not grown for `IDLE_UPLOAD_S` by this process' clock; a file server's may differ."""
        now = time.monotonic()
        for upload, path in list(self._paths.items()):
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                known, since = self._grown.get(upload, (None, now))
                if size != known:
                    self._grown[upload] = (size, now)
                elif now - since > IDLE_UPLOAD_S:
                    self.drop(upload)
