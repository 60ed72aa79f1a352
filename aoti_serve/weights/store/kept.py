"""Which versions a store keeps, and which files: those of versions, and those in which pieces of versions lie."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.free_space import check_room
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.layout import Layout, blocks_name, number_of, own_name, part_of, pieces_name, weights_name
from aoti_serve.weights.store.objects.lending import LendingStore
from aoti_serve.weights.store.sharing import SharedLayout, StoredFile, shared_layout
from aoti_serve.weights.store.usage import DiskUse, StoredVersion, disk_use, needed_ranges
from aoti_serve.weights.version import Committed, Version

logger = logging.getLogger("ray.serve")
MOST_COMPARED = 8  # versions, for what a new one shares with them
THIN_BYTES = 2**20  # less is not worth a copy of the rest


class KeptVersions(LendingStore):
    """Drops what is not kept. Runs in the coordinator, in any of its threads.

    A version goes when its record goes; then its files go in which no piece of another version lies. So a crash at any
    moment leaves files too many at the most, which the next Store, or the next commit, removes.
    """

    def __init__(self, root: str | Path | UPath, model: str, keep_versions: int, keep_bytes: int | None) -> None:
        """`keep_bytes`: drop the oldest that nothing holds as long as all together take more."""
        super().__init__(root, model)
        self._keep, self._keep_bytes = keep_versions, keep_bytes
        self._known: Committed | None = None
        self._meanwhile: dict[int, set[int]] = {}  # versions being added, and those that they are compared with

    @contextmanager
    def _kept_meanwhile(self) -> Iterator[set[int]]:
        """Have no version removed of those whose numbers are put into the set, under the lock of the store."""
        numbers = set[int]()
        self._meanwhile[id(numbers)] = numbers
        try:
            yield numbers
        finally:
            del self._meanwhile[id(numbers)]

    def _retire(self) -> None:
        """Drop the oldest versions beyond `keep_versions`, never those that are held."""
        kept = self._held() | set(self.numbers()[-self._keep :])
        self._drop([number for number in self._place.numbers() if number not in kept and number < max(kept)])

    def _retire_beyond(self, nbytes: int) -> None:
        """Drop the oldest versions, but for those that are held, until the others take no more than that."""
        candidate, layouts = self.candidate(), self._layouts(self.numbers())
        held = self._held() | ({candidate.version} if candidate else set())
        room, going = self._room(layouts), list[int]()
        for number in sorted(layouts.keys() - held - {max(layouts, default=0)}):  # the newest may be staged just now
            if sum(use.added for use in disk_use(layouts, room).values()) <= nbytes:
                break
            del layouts[number]
            going.append(number)
        self._drop(going)

    def _drop(self, numbers: Collection[int], *, number_stays: int | None = None) -> None:
        """Remove versions. Their files stay in which pieces of others lie, and all of what is kept meanwhile."""
        going = set(numbers).difference(*self._meanwhile.values())
        spared = self._needed_files(set(self.numbers()) - going) if going else ()
        for number in sorted(going):
            with suppress(OSError, StoreFailed):
                self.check_term()
                (self._place.clear if number == number_stays else self._place.forget)(number, spared)

    def _needed_files(self, numbers: Collection[int]) -> set[str]:
        """The files that pieces of versions lie in, and the digests of those that are parts."""
        files = {file for number in numbers for file in self._files(number)}
        return files | {blocks_name(number_of(file)) for file in files if part_of(file) is not None}

    def stored(self) -> list[StoredVersion]:
        """All whole versions that may answer, oldest first, with what each costs on the disk."""
        layouts = self._readable_layouts()
        room = self._room(layouts)
        found = disk_use({number: layout for number, layout in layouts.items() if room.keys() >= {*layout.files}}, room)
        return [StoredVersion.of(version, found.get(version.number, DiskUse())) for version in self.versions()]

    def _keep_file(self, version: Version, held: Path, kept: set[int]) -> None:
        """Store what is held for a version, without what other versions have; in a folder if that is much."""
        number = version.number
        if (place := self._in_parts(version.nbytes)) is not None:
            self._keep_parts(place, version, held, kept)
        elif isinstance(self._place, Disk) and (shared := self._shared(version, held, kept)) is not None:
            self._close_to_earlier_releases()
            self._place.write(pieces_name(number), shared.layout.content)
            self._place.keep_parts(held, own_name(number), shared.own)
        else:
            self._place.keep(held, weights_name(number))

    def _shared(self, version: Version, held: Path, kept: set[int]) -> SharedLayout | None:
        with self._alone():
            numbers = sorted(self.numbers(), key=lambda number: (number != version.parent, -number))[:MOST_COMPARED]
            kept.update(numbers)
        with ExitStack() as stack:
            file = stack.enter_context(held.open("rb"))
            stored = [found for number in numbers if (found := self._open_stored(number, stack))]
            return shared_layout(file, read_index(held), version.nbytes, own_name(version.number), stored)

    def _open_stored(self, number: int, stack: ExitStack) -> StoredFile | None:
        """None if it is damaged: nothing is shared with it then."""
        with suppress(StoreFailed):
            version = self.version(number, also_staged=True)
            index = self.index(version)
            return StoredFile(self.layout(number), index, stack.enter_context(self.open(version)))
        return None

    def make_room(self) -> None:
        """Bring the store within `keep_bytes`, and give back what is not needed of files that are kept for others.

        For when no version is being staged but the newest. It may take a while, which no commit should wait for.
        """
        try:
            if self._keep_bytes is not None:
                with self._as_newest():
                    self._retire_beyond(self._keep_bytes)
            self._thin_out()
        except Exception as error:  # what is not given back now is given back at another time
            logger.warning(f"{self.root}: room could not be made: {error!r}")

    def _thin_out(self) -> None:
        """Give back the room of what no version needs, in files that are kept for others; where the disk can."""
        numbers = set(self.numbers())
        if not isinstance(self._place, Disk) or not set(self._place.numbers()) - numbers:
            return
        for file, ranges in needed_ranges(self._layouts(numbers)).items():
            needed = sum(end - begin for begin, end in ranges)
            if number_of(file) in numbers or self._place.room(file) <= 2 * needed + THIN_BYTES:
                continue
            check_room(needed, self._place.root)
            self._place.thin(file, ranges)

    def _held(self) -> set[int]:
        """The numbers of what is committed, of what was before that, of what adapters were merged into for both, and
        of what has a label that can be moved.
        """
        records = self._known, self.committed()
        held = {number for record in records if record is not None for number in record.numbers}
        return held | set(self.labels().root.values())

    def _layouts(self, numbers: Collection[int]) -> dict[int, Layout]:
        return {number: self.layout(number) for number in sorted(numbers)}

    def _readable_layouts(self) -> dict[int, Layout]:
        found = {}
        for number in self.numbers():
            with suppress(StoreFailed):
                found[number] = self.layout(number)
        return found

    def _room(self, layouts: Mapping[int, Layout]) -> dict[str, int]:
        """The bytes that each of their files takes, of those that are there."""
        return self._place.rooms({file for layout in layouts.values() for file in layout.files})
