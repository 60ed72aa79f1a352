"""A store as a reader sees it: the commit record, the versions, and their bytes. Reading changes nothing in a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError
from upath import UPath

from aoti_serve.errors import StoreFailed, UnknownWeightsVersion
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import index_in
from aoti_serve.weights.sources.uri import scrubbed, shown_uri
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.remote import Remote
from aoti_serve.weights.version import Committed, Version

RECORD = "version.json"
STAGED = "staged"


class Catalog:
    """Reads a store that any process may have open. Runs in any process and thread.

    `root` is a folder, or a URI of whatever fsspec reads. All methods raise StoreFailed if the store cannot be read.
    """

    def __init__(self, root: str | Path | UPath, model: str = "") -> None:
        self.model = model
        self._place = _place_of(root)
        self.root = self._place.shown

    def committed(self) -> Committed | None:
        """The last commit; None in a new store, and where there is no store."""
        with self._guarded():
            content = self._place.read("CURRENT")
            return None if content is None else Committed.model_validate_json(content)

    def versions(self) -> list[Version]:
        """All whole versions that may answer, oldest first: not those that were staged and never committed."""
        with self._guarded():
            staged = set(self._place.numbers(STAGED))
            numbers = [number for number in sorted(self._place.numbers()) if number not in staged]
            records = [self._place.read(record_name(number)) for number in numbers]
            return [Version.model_validate_json(record) for record in records if record is not None]

    def version(self, number: int) -> Version:
        """Raises UnknownWeightsVersion if it is not stored."""
        known = {version.number: version for version in self.versions()}
        if number not in known:
            raise UnknownWeightsVersion(model=self.model, version=number, known=sorted(known))
        return known[number]

    def file(self, version: Version) -> Path | UPath:
        """The version's safetensors file, for other processes on this node to open; a UPath if it is remote."""
        return self._place.root / weights_name(version.number)

    def open(self, version: Version) -> BinaryIO:
        """The version's safetensors file from its first byte; read much at a time."""
        with self._guarded():
            return self._place.open(weights_name(version.number))

    def index(self, version: Version) -> dict[str, Span]:
        """The place of each tensor in the version's file."""
        with self.open(version) as file, self._guarded():
            return index_in(file, version.nbytes)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValidationError) as error:
            raise StoreFailed(path=self.root, detail=str(error)) from error


def weights_name(number: int) -> str:
    return f"versions/{number}/weights.safetensors"


def record_name(number: int) -> str:
    return f"versions/{number}/{RECORD}"


def staged_name(number: int) -> str:
    """The mark of a version that was not committed yet."""
    return f"versions/{number}/{STAGED}"


def _place_of(root: str | Path | UPath) -> Disk | Remote:
    if isinstance(root, Path):
        return Disk(root)
    path = _parsed(root) if isinstance(root, str) else root
    return Disk(Path(path.path)) if path.protocol in ("", "file", "local") else Remote(path, str(root))


def _parsed(root: str) -> UPath:
    try:
        if "::" in root:
            raise ValueError("it is a chain of URIs")
        return UPath(root)
    except (ValueError, ImportError) as error:
        raise StoreFailed(path=shown_uri(root), detail=scrubbed(str(error), root)) from None
