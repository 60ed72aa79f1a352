"""Reads a store: the commit record, the versions, and their bytes. Changes nothing in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from upath import UPath

from aoti_serve.errors import StoreDamaged, StoreFailed, UnknownWeightsVersion, UnreadableWeights, quantity
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.candidate import Candidate, RolloutRecord
from aoti_serve.weights.files.index import index_in
from aoti_serve.weights.labels import VersionLabels
from aoti_serve.weights.sources.follow import Tried
from aoti_serve.weights.sources.uri import shown_uri
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.layout import (
    RECORD,
    STAGED,
    Layout,
    files_in,
    pieces_name,
    record_name,
    weights_name,
)
from aoti_serve.weights.store.objects.remote import place_of
from aoti_serve.weights.store.term import Term
from aoti_serve.weights.version import Committed, Version

T = TypeVar("T")
READ_BYTES = 8 * 2**20
BEAT = "BEAT"
LABELS = "LABELS"
FOLLOWED = "FOLLOWED"
CANDIDATE = "CANDIDATE"
ROLLOUT = "ROLLOUT"


class Catalog:
    """Reads a store that any process may have open. Runs in any process and thread.

    `root` is a folder, or a URI of whatever fsspec reads. All methods raise StoreFailed if the store
    cannot be read, and StoreDamaged if what is read is not what was written.
    """

    def __init__(self, root: str | Path | UPath, model: str = "") -> None:
        self.model = model
        self.source = root
        self._place = place_of(root)
        self.root = self._place.shown

    @property
    def exists(self) -> bool:
        """Whether a coordinator has ever opened it."""
        with self._guarded():
            return self._place.read("TERM") is not None

    @property
    def owner(self) -> int | None:
        """The user id that a folder belongs to; None at a URI."""
        with self._guarded():
            return self._place.root.stat().st_uid if isinstance(self._place, Disk) else None

    def last_term(self, damaged: Term | None = None) -> Term | None:
        """The term of the coordinator that has opened it last; None in a new store.

        If the record is damaged, returns `damaged` instead of raising StoreDamaged, where that is given.
        """
        return self._record_in("TERM", Term.parse, damaged)

    def committed(self, damaged: Committed | None = None) -> Committed | None:
        """The last commit; None in a new store, and where there is no store. `damaged` as in `last_term`."""
        return self._record_in("CURRENT", Committed.model_validate_json, damaged)

    def candidate(self) -> Candidate | None:
        """The candidate of the last commit; None if there is none."""
        committed = self.committed()
        found = self._record_in(CANDIDATE, Candidate.model_validate_json)
        epoch = committed.epoch if committed else 0  # the package's own weights
        return found if found is not None and found.epoch == epoch else None

    def rollout(self) -> RolloutRecord | None:
        """The rollout that is on; None if there is none."""
        return self._record_in(ROLLOUT, RolloutRecord.model_validate_json)

    def labels(self) -> VersionLabels:
        """The labels that can be moved."""
        return self._record_in(LABELS, VersionLabels.model_validate_json) or VersionLabels()

    def followed(self) -> Tried | None:
        """The version of a followed place that was tried last, and what came of it."""
        return self._record_in(FOLLOWED, Tried.model_validate_json)

    def last_beat(self) -> bytes | None:
        """The last sign of life of the coordinator that leads: whether it has changed is all that it tells."""
        with self._guarded():
            return self._place.read(BEAT)

    def staged(self) -> set[int]:
        """The numbers of versions that were never committed."""
        with self._guarded():
            return set(self._place.numbers(STAGED))

    def numbers(self) -> list[int]:
        """The numbers of all whole versions, in order; staged ones, too."""
        with self._guarded():
            return sorted(self._place.numbers(RECORD))

    def versions(self) -> list[Version]:
        """All whole versions that may answer, oldest first: not those that were staged and never committed."""
        staged = self.staged()
        records = [self.record(number) for number in self.numbers() if number not in staged]
        return [version for version in records if version is not None]

    def version(self, number: int, *, also_staged: bool = False) -> Version:
        """A whole version's record; that of one that was never committed only if `also_staged`.

        Raises UnknownWeightsVersion.
        """
        known = sorted(set(self.numbers()) - (set() if also_staged else self.staged()))
        version = self.record(number) if number in known else None
        if version is None:
            raise UnknownWeightsVersion(model=self.model, version=number, known=known)
        return version

    def record(self, number: int) -> Version | None:
        """The record of a whole version, staged or not; None if there is none."""
        return self._record_in(record_name(number), Version.model_validate_json)

    def file(self, version: Version) -> Path | UPath:
        """The version's safetensors file, for others on this node to open by `open_stored`; a UPath if it is remote."""
        return self._place.root / weights_name(version.number)

    def attached_file(self, name: str) -> Path | UPath:
        """A file that came with a version, as `file`; `name` is its `golden_name` or `assets_name`."""
        return self._place.root / name

    def attached_content(self, name: str) -> bytes | None:
        """The bytes of that file; None if it is not there."""
        with self._guarded():
            return self._place.read(name)

    def open(self, version: Version) -> BinaryIO:
        """The version's safetensors file from its first byte; read much at a time."""
        layout = self._pieces(version.number)
        if layout is not None:
            return self._place.pieced(layout)
        with self._guarded():
            return self._place.open(weights_name(version.number))

    def layout(self, number: int) -> Layout:
        """Where the bytes of a whole version lie."""
        layout = self._pieces(number)
        if layout is None:
            with self._guarded():
                layout = Layout.whole(number, self._place.size(weights_name(number)))
        return layout

    def index(self, version: Version) -> dict[str, Span]:
        """The place of each tensor in the version's file. Raises StoreDamaged if it is not as long as it was."""
        self._check_files(version)
        try:
            return self._read_header(version)
        except UnreadableWeights as error:
            raise damaged_version(self.file(version), version, str(error)) from error

    def verify(self, version: Version, advance: Callable[[int], None] = lambda nbytes: None) -> Iterator[bytes]:
        """All bytes of the version's file, a few megabytes at a time; `advance` hears how many. Raises StoreDamaged,
        at the end at the latest, if they are not those that were stored.
        """
        self.index(version)
        digest = hashlib.sha256()
        with self.open(version) as file:
            while piece := self._guarded_read(file):
                digest.update(piece)
                advance(len(piece))
                yield piece
        if digest.hexdigest() != version.digest:
            files = self.layout(version.number).files
            lies = "" if files == (weights_name(version.number),) else f", and it lies in {', '.join(files)}"
            raise damaged_version(self.file(version), version, f"its sha256 is {digest.hexdigest()}{lies}")

    def _check_files(self, version: Version) -> None:
        """Raise StoreDamaged unless the files that the version lies in are there, and as long as they must be."""
        try:
            layout = self.layout(version.number)
            with self._guarded():
                sizes = self._place.sizes(layout.files)
        except StoreDamaged:
            raise
        except StoreFailed as error:
            raise damaged_version(self.file(version), version, f"it cannot be opened ({error})") from error
        if layout.nbytes != version.nbytes:
            raise damaged_version(self.file(version), version, f"it has {quantity(layout.nbytes, 'bytes')}")
        for piece in layout.pieces:
            if piece.end > sizes[piece.file]:
                found = f"{piece.file}, in which a part of it lies, has {quantity(sizes[piece.file], 'bytes')}"
                raise damaged_version(self.file(version), version, found)

    def _pieces(self, number: int) -> Layout | None:
        """None if the version is one file."""
        return self._record_in(pieces_name(number), Layout.parse)

    def _files(self, number: int) -> tuple[str, ...]:
        """The files in which the pieces of a version lie; none if it is one file."""
        return self._record_in(pieces_name(number), files_in) or ()

    def _guarded_read(self, file: BinaryIO) -> bytes:
        with self._guarded():
            return file.read(READ_BYTES)

    def _read_header(self, version: Version) -> dict[str, Span]:
        with self.open(version) as file, self._guarded():
            return index_in(file, version.nbytes)

    def _record_in(self, name: str, parse: Callable[[bytes], T], damaged: T | None = None) -> T | None:
        with self._guarded():
            content = self._place.read(name)
        try:
            return None if content is None else parse(content)
        except ValueError as error:  # as pydantic's, whose text would be of no use
            if damaged is not None:
                return damaged
            detail = f"it has {quantity(len(content or b''), 'bytes')}, and is no such record"
            raise StoreDamaged(path=self.root, file=name, detail=detail) from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreFailed.of(self.root, error) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._guarded(), self._place.alone():
            yield


def damaged_version(file: Path | UPath, version: Version, found: str) -> StoreDamaged:
    """The error for a version's file that is not what was stored there."""
    detail = f"{found}; stored were {version.nbytes} bytes with the sha256 {version.digest}"
    name = f"versions/{version.number}/{file.name}"
    return StoreDamaged(path=shown_uri(str(file.parents[2])), file=name, detail=detail)
