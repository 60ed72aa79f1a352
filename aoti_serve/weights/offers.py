"""Files that have been sent, and wait for a swap that names them by their sha256."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from aoti_serve.weights.store.store import Store


class Offers:
    """The last `kept` files of one `kind`, among the uploads of a store; they end with the coordinator.

    Runs in the coordinator's threads, in several at once. What a swap names stays, so that it may be named again.
    """

    kind: ClassVar[str]
    kept: ClassVar[int]

    def __init__(self, store: Store) -> None:
        self._store = store

    def _keep(self, upload: Path, digest: str) -> None:
        """Keep an upload, which is moved; the oldest go if they are too many."""
        upload.rename(self._path(digest))
        offers = self._store.uploads.glob(f"{self.kind}-*")
        for old in sorted(offers, key=_sent)[: -self.kept]:
            self._store.discard(old)

    def _path(self, digest: str) -> Path:
        """Where the file with this sha256 lies while it is kept."""
        return self._store.uploads / f"{self.kind}-{digest.lower()}"


def _sent(offer: Path) -> float:
    """When it was sent, in seconds since 1970; one that another thread has let go of meanwhile is the oldest."""
    try:
        return offer.stat().st_mtime
    except OSError:
        return 0.0
