"""The versions of one model, in a folder or at a URI. `CURRENT` names the committed one; replacing it is the commit.

<root>/CURRENT                          {"epoch", "version", "previous"}
<root>/TERM                             see `Term`
<root>/CANDIDATE, ROLLOUT               see `Candidate`
<root>/RESERVE                          see `Reserve`
<root>/LABELS                           {label: version}, see `VersionLabels`; there once a label was set
<root>/LOCK                             held while one of the above is changed
<root>/FOLLOWED                         see `Tried`; there once a place was followed
<root>/BEAT                             the last sign of life of the coordinator that leads
<root>/versions/<n>/weights.safetensors, and golden.safetensors if it came with golden requests
<root>/versions/<n>/assets.safetensors  the files that the processor reads with it, if it has any
<root>/versions/<n>/pieces.json, own.bin in the place of weights.safetensors, see `layout`
<root>/versions/<n>/part-<k>.bin, blocks.bin in the place of own.bin at a URI
<root>/versions/<n>/version.json        written last: a folder without it is a leftover, or kept for others' pieces
<root>/versions/<n>/staged              there until the version is committed; one that never was is no way back
<root>/incoming/                        uploads that are not complete
<root>/audit.jsonl                      see `audit`
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Unpack
from uuid import uuid4

from upath import UPath

from aoti_serve.errors import CommitUnknown, StoreDamaged, StoreFailed, Superseded
from aoti_serve.weights.files.index import file_digest, read_index
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.kept import KeptVersions
from aoti_serve.weights.store.layout import assets_name, golden_name, record_name, staged_name, weights_name
from aoti_serve.weights.store.term import NO_HOME
from aoti_serve.weights.version import BUILT_IN, Committed, Version, VersionFacts

logger = logging.getLogger("ray.serve")
READ_BACK_S = 30.0
READ_BACK_POLL_S = 0.5


class Store(KeptVersions):
    """Writes a store. Runs in the coordinator, in any of its threads. A crash at any moment leaves old or new, whole.

    Raises StoreFailed when the place cannot be written or read (full disk, read-only, damaged, no credentials), and
    Superseded once there is a newer Store; see `OpenedStore`.
    """

    def __init__(
        self,
        root: str | Path | UPath,
        model: str,
        keep_versions: int,
        *,
        keep_bytes: int | None = None,
        home: str = NO_HOME,
        repair: bool = False,
    ) -> None:
        """`repair`: open it also if CURRENT, TERM or LABELS is damaged. What it had counted is lost then, and counting
        goes on from the seconds since 1970, which no count reaches; so are the labels. `home`: see `Term`; for the
        others see `KeptVersions`.
        """
        super().__init__(root, model, keep_versions, keep_bytes)
        self._home = home
        self._doubtful: set[int] = set()
        self.audit_path = self._place.root / "audit.jsonl" if isinstance(self._place, Disk) else None
        with self._guarded():
            self._place.prepare()
        with self._alone():
            self._take_term(repair)
            self._known = self.committed(Committed(epoch=int(time.time()), version=BUILT_IN) if repair else None)
            self._lend(self._known.numbers if self._known else ())
            self._clean()
            if repair:
                self._erase_damaged_labels()

    @property
    def epoch(self) -> int:
        """The epoch of the last commit; 0 in a new store."""
        return self._known.epoch if self._known else 0

    @property
    def uploads(self) -> Path:
        """The folder of uploads, on a local disk."""
        return self._place.incoming

    def commit(self, version: Version, epoch: int, previous: Version | None) -> Committed:
        """The commit point: before the rename the old version is committed, after it the new one.

        Raises Superseded or StoreFailed, and then nothing is committed. Raises CommitUnknown if that cannot be told:
        then the process must end, and the next Store reads what is committed.
        """
        committed = Committed(epoch=epoch, version=version, previous=previous)
        with self._as_newest():
            self._check_follows(committed)
            self._name_current(committed)
            # It is committed: nothing that fails from here on may say otherwise.
            self._known = committed
            with suppress(OSError):
                self._place.sync(".")
            try:
                self.check_term()
                self._place.erase(staged_name(version.number))
                self._retire()
            except Exception as error:
                logger.warning(f"{self.root}: old versions could not be removed: {error!r}")
        return committed

    def incoming(self) -> Path:
        """Make an empty file for an upload, on a local disk."""
        path = self.uploads / uuid4().hex
        with self._guarded():
            path.touch(mode=0o600)
        return path

    def discard(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def add(
        self,
        source: Path,
        label: str,
        digest: str | None = None,
        *,
        golden_source: Path | None = None,
        assets_source: Path | None = None,
        answers: Version | None = None,
        **facts: Unpack[VersionFacts],
    ) -> Version:
        """Store a checked file as the next version, not yet committed; moves it if it is an upload, else copies it.

        `golden_source` is the file that `golden` describes, and goes with it; `assets_source` that of `assets`. If the
        version would be that which `answers` (see `Version.same_weights`), that one is returned, and nothing stored.
        Raises DigestMismatch, Superseded or StoreFailed; then nothing of it is left.
        """
        self.make_room()
        with self._kept_meanwhile() as kept:
            number = self._take(kept)
            try:
                with self._guarded(), self._place.held(source, weights_name(number)) as held:
                    version = self._described(number, held, digest, label=label, **facts)
                    if answers is not None and version.same_weights(answers):
                        self._place.forget(number)
                        return answers
                    self._keep_file(version, held, kept)
                attached = ((golden_source, golden_name(number)), (assets_source, assets_name(number)))
                for attached_source, name in attached:
                    if attached_source is not None:
                        with self._guarded():
                            self._place.bring(attached_source, name)
                self._publish(version)
            except BaseException:
                with suppress(OSError, StoreFailed):
                    self._place.forget(number)
                raise
        return version

    def confirm(self, version: Version) -> None:
        """Let a version that was never committed be listed, and be a way back."""
        with self._as_newest():
            self._place.erase(staged_name(version.number))

    def remove(self, version: Version) -> None:
        """Forget a version; its number is never given out again.

        What is committed, or was before that, stays. So does a version whose failed commit may still be written late,
        and everything once another Store was opened.
        """
        with suppress(StoreFailed, Superseded), self._as_newest():
            if version.number not in self._held() | self._doubtful:
                self._drop([version.number], number_stays=version.number)

    def _take(self, kept: set[int]) -> int:
        with self._alone():
            # In this order: a Store that is opened in between burns the number that is about to be taken.
            number = max(self._place.numbers(), default=0) + 1
            self.check_term()
            self._place.take(number)
            kept.add(number)
        return number

    def _described(self, number: int, held: Path, expected: str | None, **facts: Any) -> Version:
        digest = file_digest(held, expected)
        nbytes, tensors = held.stat().st_size, len(read_index(held))
        return Version(number=number, digest=digest, created=time.time(), nbytes=nbytes, tensors=tensors, **facts)

    def _publish(self, version: Version) -> None:
        with self._alone():
            self.check_term()  # a later Store has cleaned up; the file may be gone
            self._place.write(staged_name(version.number), b"")
            self._place.write(record_name(version.number), version.model_dump_json(indent=1).encode())
            self._place.sync(f"versions/{version.number}")
            self._place.sync("versions")

    def _check_follows(self, committed: Committed) -> None:
        number = committed.version.number
        if committed.epoch != self.epoch + 1:
            raise StoreFailed(path=self.root, detail=f"epoch {committed.epoch} does not follow epoch {self.epoch}")
        if number != BUILT_IN.number and self._place.read(record_name(number)) is None:
            raise StoreFailed(path=self.root, detail=f"version {number} is not stored")

    def _name_current(self, committed: Committed) -> None:
        try:
            self._place.write_vital("CURRENT", committed.model_dump_json(indent=1).encode())
        except (OSError, StoreFailed) as failure:
            if self._read_back(failure, committed) == committed:
                return
            if self._place.writes_late:
                self._doubtful.add(committed.version.number)
            raise

    def _read_back(self, failure: Exception, committed: Committed) -> Committed | None:
        """Read CURRENT, which may have been written all the same. Raise CommitUnknown if that takes too long."""
        deadline = time.monotonic() + READ_BACK_S
        while True:
            try:
                return self.committed()
            except StoreFailed as error:
                if time.monotonic() >= deadline:
                    detail = f"writing CURRENT: {failure}; reading it: {error}"
                    raise CommitUnknown(path=self.root, epoch=committed.epoch, detail=detail) from failure
            time.sleep(READ_BACK_POLL_S)

    def _clean(self) -> None:
        """Remove what earlier Stores have left unfinished."""
        for path in self.uploads.iterdir():
            self.discard(path)
        for number in self._known.numbers if self._known else ():  # it was committed, and the mark outlived the process
            self._place.erase(staged_name(number))
        numbers = self._place.numbers()
        newest = max(numbers, default=0)
        with suppress(StoreDamaged):  # without all records of pieces it is not known what may go
            self._drop(set(numbers) - set(self.numbers()), number_stays=newest)
        if self.term > 1:
            self._place.burn(newest + 1)
