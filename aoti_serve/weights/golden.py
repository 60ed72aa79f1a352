"""Golden requests that have been sent, and wait for a swap that names them."""

from __future__ import annotations

import shutil
from pathlib import Path

from aoti_serve.errors import TryAgain
from aoti_serve.signature.golden.file import read_golden
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.files.index import file_digest
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import GoldenFile

KEPT_OFFERS = 8


class OfferedGolden:
    """The last `KEPT_OFFERS` files of golden requests, among the uploads of a store. Runs in the coordinator's threads.

    They end with the coordinator. What a swap names is copied, so that it may be named again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, upload: Path, signature: Signature) -> GoldenFile:
        """Keep an upload; it is moved. Raises UnreadableGolden or UnfitGolden, and then it is gone."""
        try:
            requests = [request.fitted(signature) for request in read_golden(upload)]
            golden = described_golden(upload, len(requests))
            upload.rename(self._offer(upload.parent, golden.digest))
        finally:
            self._store.discard(upload)
        for old in sorted(upload.parent.glob(_OFFERS), key=_age)[:-KEPT_OFFERS]:
            self._store.discard(old)
        return golden

    def copied(self, digest: str) -> tuple[Path, GoldenFile]:
        """A copy of a file that was offered, for a version, and what is in it. Raises TryAgain if it is not there."""
        copy = self._store.incoming()
        try:
            shutil.copyfile(self._offer(copy.parent, digest.lower()), copy)
        except FileNotFoundError as error:
            self._store.discard(copy)
            detail = f"the golden requests with sha256 {digest} are not here, or not any more; send them again"
            raise TryAgain(detail=detail) from error
        return copy, described_golden(copy, len(read_golden(copy)))

    def _offer(self, incoming: Path, digest: str) -> Path:
        return incoming / _OFFERS.replace("*", digest)


_OFFERS = "golden-*"


def described_golden(path: Path, requests: int) -> GoldenFile:
    """What a version says of a file with so many golden requests."""
    return GoldenFile(digest=file_digest(path), nbytes=path.stat().st_size, requests=requests)


def _age(path: Path) -> float:
    return path.stat().st_mtime
