"""What new versions may share with stored ones at a URI, so that nothing they lie in can go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.store.layout import Layout, blocks_name, number_of, pieces_name
from aoti_serve.weights.store.objects.blocks import (
    FileBlocks,
    OwnBlocks,
    digest_blocks,
    parse_own_blocks,
    stored_blocks,
)
from aoti_serve.weights.store.objects.parts import LenderBlocks, parted_layout
from aoti_serve.weights.store.objects.remote import Remote
from aoti_serve.weights.store.opened import OpenedStore
from aoti_serve.weights.version import Version

LEAST_PARTED_BYTES = 2**20  # a smaller version is one object: parts would take more requests than they save bytes
MOST_LENDERS = 4  # versions with which a new one is compared; the digests of so many are held in memory


class LendingStore(OpenedStore):
    """Keeps versions in parts at a URI. Runs in the coordinator, in any of its threads.

    Nothing there keeps an earlier coordinator, which was stopped while it removed versions, from going on with that
    later. It removes nothing that was committed, or the way back, when it was followed, nor what these lie in. So a
    new version shares only with those, and with what this Store has added itself.
    """

    def __init__(self, root: str | Path | UPath, model: str) -> None:
        super().__init__(root, model)
        self._lenders: dict[int, FileBlocks | None] = {}  # None: not read yet

    def _lend(self, numbers: Iterable[int]) -> None:
        """Let new versions share with these."""
        self._lenders |= dict.fromkeys(numbers)

    def _in_parts(self, nbytes: int) -> Remote | None:
        """The place, if it keeps so large a version in parts."""
        return self._place if isinstance(self._place, Remote) and nbytes >= LEAST_PARTED_BYTES else None

    def _keep_parts(self, place: Remote, version: Version, held: Path, kept: set[int]) -> None:
        """Store what is held for a version, but for what its lenders have; the numbers of these are put into `kept`.

        What says where it lies is written last.
        """
        number = version.number
        self._close_to_earlier_releases()
        blocks = digest_blocks(held, read_index(held), version.nbytes)
        lenders = self._blocks_of_lenders(place, version, kept)
        parted = parted_layout(number, blocks, lenders, place.listed() if lenders else {})
        place.keep_parts(held, parted.parts)
        place.write(blocks_name(number), parted.own_blocks)
        place.write(pieces_name(number), parted.layout.content)
        self._lenders[number] = blocks

    def _blocks_of_lenders(self, place: Remote, version: Version, kept: set[int]) -> list[LenderBlocks]:
        with self._alone():
            stored = set(self.numbers())
            numbers = sorted(stored & self._lenders.keys(), key=lambda number: (number != version.parent, -number))
            kept.update(numbers[:MOST_LENDERS])
        for number in self._lenders.keys() - set(numbers[:MOST_LENDERS]):
            self._lenders[number] = None
        return [found for number in numbers[:MOST_LENDERS] if (found := self._blocks_of(place, number))]

    def _blocks_of(self, place: Remote, number: int) -> LenderBlocks | None:
        """None if it is one object, or cannot be read: nothing is shared with it then."""
        with suppress(StoreFailed, ValueError):
            layout, blocks = self._pieces(number), self._lenders[number]
            if layout is not None and blocks is None:
                blocks = self._lenders[number] = self._read_blocks(place, number, layout)
            return LenderBlocks(layout, blocks) if layout and blocks else None
        return None

    def _read_blocks(self, place: Remote, number: int, layout: Layout) -> FileBlocks | None:
        version = self.version(number, also_staged=True)
        numbers = sorted({number_of(file) for file in layout.files})
        own = dict(zip(numbers, place.together(self._own_blocks, numbers), strict=True))
        return stored_blocks(layout, self.index(version), own.__getitem__)

    def _own_blocks(self, number: int) -> OwnBlocks | None:
        with self._guarded():
            content = self._place.read(blocks_name(number))
        return None if content is None else parse_own_blocks(content)
