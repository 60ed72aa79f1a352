"""Golden requests that have been sent, and wait for a swap that names them."""

from __future__ import annotations

import shutil
from pathlib import Path

from aoti_serve.errors import TryAgain
from aoti_serve.signature.golden.file import read_golden
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.files.index import file_digest
from aoti_serve.weights.offers import Offers
from aoti_serve.weights.version import GoldenFile


class OfferedGolden(Offers):
    """Files of golden requests that were offered."""

    kind, kept = "golden", 8

    def take(self, upload: Path, signature: Signature) -> GoldenFile:
        """Keep an upload; it is moved. Raises UnreadableGolden or UnfitGolden, and then it is gone."""
        try:
            requests = [request.fitted(signature) for request in read_golden(upload)]
            golden = described_golden(upload, len(requests))
            self._keep(upload, golden.digest)
        finally:
            self._store.discard(upload)
        return golden

    def copied(self, digest: str) -> tuple[Path, GoldenFile]:
        """A copy of a file that was offered, for a version, and what is in it. Raises TryAgain if it is not there."""
        copy = self._store.incoming()
        try:
            shutil.copyfile(self._path(digest), copy)
        except FileNotFoundError as error:
            self._store.discard(copy)
            detail = f"the golden requests with sha256 {digest} are not here, or not any more; send them again"
            raise TryAgain(detail=detail) from error
        return copy, described_golden(copy, len(read_golden(copy)))


def described_golden(path: Path, requests: int) -> GoldenFile:
    """What a version says of a file with so many golden requests."""
    return GoldenFile(digest=file_digest(path), nbytes=path.stat().st_size, requests=requests)
