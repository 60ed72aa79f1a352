"""Which versions a store keeps, and which files: those of versions, and those in which pieces of versions lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.store.disk import Disk, check_room
from aoti_serve.weights.store.layout import PIECES, ByteRange, Layout, number_of, own_name, pieces_name, weights_name
from aoti_serve.weights.store.opened import OpenedStore
from aoti_serve.weights.store.sharing import SharedLayout, StoredFile, shared_layout
from aoti_serve.weights.store.usage import DiskUse, StoredVersion, disk_use, needed_ranges
from aoti_serve.weights.version import Committed, Version

MOST_COMPARED = 8  # versions, for what a new one shares with them
THIN_BYTES = 2**20  # less is not worth a copy of the rest


class KeptVersions(OpenedStore):
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
        """Drop the oldest versions beyond `keep_versions` and `keep_bytes`, never those that are held."""
        candidate, numbers = self.candidate(), self.numbers()
        held = self._held() | ({candidate.version} if candidate else set())
        kept = held | set(numbers[-self._keep :])
        if self._keep_bytes is not None:
            kept = self._within(self._keep_bytes, kept, held | set(numbers[-1:]))
        self._drop([number for number in self._place.numbers() if number not in kept and number < max(kept)])

    def _within(self, nbytes: int, kept: set[int], held: set[int]) -> set[int]:
        """Those that are left if the oldest go, but for the held ones, until they take no more than that."""
        layouts = self._layouts(kept & set(self.numbers()))
        droppable = [number for number in layouts if number not in held]
        room = self._room(layouts)
        while droppable and sum(use.added for use in disk_use(layouts, room).values()) > nbytes:
            del layouts[droppable.pop(0)]
        return held | set(layouts)

    def _drop(self, numbers: Collection[int], *, number_stays: int | None = None) -> None:
        """Remove versions. Their files stay in which pieces of others lie, and all of what is kept meanwhile."""
        going = set(numbers).difference(*self._meanwhile.values())
        spared = self._needed(set(self.numbers()) - going)
        for number in sorted(going):
            with suppress(OSError, StoreFailed):
                (self._place.clear if number == number_stays else self._place.forget)(number, spared)

    def stored(self) -> list[StoredVersion]:
        """All whole versions that may answer, oldest first, with what each costs on the disk."""
        layouts = self._readable_layouts()
        room = self._room(layouts)
        found = disk_use({number: layout for number, layout in layouts.items() if room.keys() >= {*layout.files}}, room)
        return [StoredVersion.of(version, found.get(version.number, DiskUse())) for version in self.versions()]

    def _keep_file(self, version: Version, held: Path, kept: set[int]) -> None:
        """Store what is held for a version: in a folder without what other versions have, if that is much."""
        number = version.number
        shared = self._shared(version, held, kept) if isinstance(self._place, Disk) else None
        if shared is None:
            self._place.keep(held, weights_name(number))
            return
        self._close_to_earlier_releases()
        self._place.write(pieces_name(number), shared.layout.content)
        self._place.keep_parts(held, own_name(number), shared.own)

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

    def _make_room(self) -> None:
        with suppress(OSError, StoreFailed):  # what is not given back now is given back at another time
            self._thin_out()

    def _thin_out(self) -> None:
        """Give back the room of what no version needs, in files that are kept for others; where the disk can."""
        if not isinstance(self._place, Disk):
            return
        numbers = set(self.numbers())
        for file, ranges in self._needed(numbers).items():
            needed = sum(end - begin for begin, end in ranges)
            if number_of(file) in numbers or self._place.room(file) <= 2 * needed + THIN_BYTES:
                continue
            check_room(needed, self._place.root)
            self._place.thin(file, ranges)

    def _needed(self, numbers: Collection[int]) -> dict[str, list[ByteRange]]:
        """The bytes that lie in a file for pieces of these versions."""
        return needed_ranges(self._layouts(set(self._place.numbers(PIECES)).intersection(numbers)))

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
        found = {}
        for file in {file for layout in layouts.values() for file in layout.files}:
            with suppress(OSError, StoreFailed):
                found[file] = self._place.room(file)
        return found
