"""The versions of one model on disk. `CURRENT` names the committed one; its atomic rename is the commit point.

<root>/CURRENT                          {"epoch", "version", "previous"}
<root>/versions/<n>/weights.safetensors
<root>/versions/<n>/version.json        written last: a folder without it is a leftover
<root>/incoming/                        uploads on their way
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from filelock import FileLock
from pydantic import ValidationError

from aoti_serve.errors import StoreFailed, Superseded, UnknownWeightsVersion
from aoti_serve.tensors import Span
from aoti_serve.weights.source import digest_of, read_index
from aoti_serve.weights.version import BUILT_IN, Committed, Version


class Store:
    """Runs in the coordinator, the only writer. Every write is fsynced and renamed: a crash leaves old or new, whole.

    Raises StoreFailed when the folder cannot be written or read (full disk, read-only, damaged).
    """

    def __init__(self, root: Path, model: str, keep_versions: int) -> None:
        self.root = self._root = Path(root)
        self.model = self._model = model
        self.audit_path = self.root / "audit.jsonl"
        self._keep = keep_versions
        with self._guarded():
            shutil.rmtree(root / "incoming", ignore_errors=True)
            for folder in ("versions", "incoming"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            with self._locked():
                self.term = self._newest_term() + 1
                _write(root / "TERM", str(self.term).encode())

    def committed(self) -> Committed | None:
        """What was committed last; None in a new store."""
        path = self._root / "CURRENT"
        with self._guarded():
            return Committed.model_validate_json(path.read_bytes()) if path.exists() else None

    def commit(self, version: Version, epoch: int, previous: Version | None) -> Committed:
        """The commit point: before the rename the old version is committed, after it the new one."""
        committed = Committed(epoch=epoch, version=version, previous=previous)
        with self._guarded(), self._locked():
            self.check_term()
            _write(self._root / "CURRENT", committed.model_dump_json(indent=1).encode())
        # It is committed: nothing that fails from here on may say otherwise.
        with suppress(OSError):
            _sync_folder(self._root)
        with suppress(StoreFailed):
            self._retire(committed)
        return committed

    def incoming(self) -> Path:
        """A new, empty place for an upload."""
        path = self._root / "incoming" / uuid4().hex
        with self._guarded():
            path.touch(mode=0o600)
        return path

    def append(self, path: Path, chunk: bytes) -> int:
        """Add to an upload; answers its size so far."""
        with self._guarded(), path.open("ab") as file:
            file.write(chunk)
            return file.tell()

    def discard(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def check_term(self) -> None:
        """Raise Superseded if another coordinator has opened the store since."""
        newest = self._newest_term()
        if newest != self.term:
            raise Superseded(model=self.model, term=self.term, newer=newest)

    def open(self, version: Version) -> BinaryIO:
        return self.file(version).open("rb")

    def index(self, version: Version) -> dict[str, Span]:
        return read_index(self.file(version))

    def add(
        self, source: Path, label: str, digest: str | None = None, *, parent: int | None = None, strict: bool = True
    ) -> Version:
        """Store a checked file as the next version, not yet committed; moves it if it is an upload, else copies it."""
        number = max(self._numbers(), default=0) + 1
        folder = self._root / "versions" / str(number)
        try:
            with self._guarded():
                return self._filled(folder, source, label, digest).model_copy(
                    update={"parent": parent, "strict": strict}
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _filled(self, folder: Path, source: Path, label: str, digest: str | None) -> Version:
        folder.mkdir()
        weights = folder / "weights.safetensors"
        self._bring(source, weights)
        version = Version(
            number=int(folder.name),
            digest=digest_of(weights, digest),
            label=label,
            created=time.time(),
            nbytes=weights.stat().st_size,
            tensors=len(read_index(weights)),
        )
        _write(folder / "version.json", version.model_dump_json(indent=1).encode())
        _sync_folder(folder)
        _sync_folder(folder.parent)
        return version

    def remove(self, version: Version) -> None:
        """Forget a version; its empty folder stays, so that its number is never given out again."""
        for name in ("version.json", "weights.safetensors"):  # without the first, the rest is a leftover
            with suppress(OSError):
                (self._root / "versions" / str(version.number) / name).unlink()

    def versions(self) -> list[Version]:
        """All whole versions, oldest first."""
        with self._guarded():
            found = [
                Version.model_validate_json(path.read_bytes())
                for path in (self._root / "versions").glob("*/version.json")
            ]
        return sorted(found, key=lambda version: version.number)

    def version(self, number: int) -> Version:
        """Raises UnknownWeightsVersion if it is not stored."""
        known = {version.number: version for version in self.versions()}
        if number not in known:
            raise UnknownWeightsVersion(model=self._model, version=number, known=sorted(known))
        return known[number]

    def file(self, version: Version) -> Path:
        """The version's safetensors file."""
        return self._root / "versions" / str(version.number) / "weights.safetensors"

    def _bring(self, source: Path, target: Path) -> None:
        if source.parent == self._root / "incoming":
            source.rename(target)
        else:
            shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    def _retire(self, committed: Committed) -> None:
        """Drop the oldest versions beyond `keep_versions`, never the committed one or the one before it."""
        whole = [version.number for version in self.versions()]
        held = {committed.version.number, (committed.previous or BUILT_IN).number, *whole[-self._keep :]}
        for number in self._numbers():
            if number not in held and number < max(held):
                self.remove(Version(number=number))
                shutil.rmtree(self._root / "versions" / str(number), ignore_errors=True)

    def _newest_term(self) -> int:
        path = self._root / "TERM"
        with self._guarded():
            return int(path.read_text()) if path.exists() else 0

    def _locked(self) -> FileLock:
        return FileLock(self._root / "LOCK", timeout=60)

    def _numbers(self) -> list[int]:
        """All that were ever given out, as far as they are still needed: also of versions that came to nothing."""
        with self._guarded():
            return [int(path.name) for path in (self._root / "versions").iterdir() if path.name.isdecimal()]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValidationError) as error:
            raise StoreFailed(path=self._root, detail=str(error)) from error


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
