"""What versions cost on the disk, where several of them share bytes. Pure: layouts come in, numbers go out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.store.layout import ByteRange, Layout
from aoti_serve.weights.version import Version

Ranges = Mapping[int, list[ByteRange]]  # by version, of one file


class DiskUse(Frozen):
    """Of one version. `alone` bytes are free when it goes. `added` bytes it holds beyond those that older ones hold,
    so that those of all versions add up to what the store holds: also bytes that no version needs any more, in a file
    that is kept for others.
    """

    alone: int = 0
    added: int = 0


class StoredVersion(Version):
    """A version, and what it costs on the disk: see `DiskUse`."""

    disk: DiskUse = DiskUse()

    @classmethod
    def of(cls, version: Version, disk: DiskUse) -> StoredVersion:
        """The version, with this, its golden requests and its assets."""
        more = sum(attached.nbytes for attached in (version.golden, version.assets) if attached)
        return cls(**dict(version), disk=DiskUse(alone=disk.alone + more, added=disk.added + more))


def disk_use(layouts: Mapping[int, Layout], room: Mapping[str, int]) -> dict[int, DiskUse]:
    """What each version costs. `layouts` are by number, `room` has the bytes that each file takes."""
    alone, added = dict.fromkeys(layouts, 0), dict.fromkeys(layouts, 0)
    for file, ranges in _by_file(layouts).items():
        dead = room[file]
        for owner, users, nbytes in _cut(ranges):
            added[owner] += nbytes
            alone[owner] += nbytes if users == 1 else 0
            dead -= nbytes
        added[min(ranges)] += max(dead, 0)
        if len(ranges) == 1:
            alone[min(ranges)] += max(dead, 0)
    return {number: DiskUse(alone=alone[number], added=added[number]) for number in layouts}


def needed_ranges(layouts: Mapping[int, Layout]) -> dict[str, list[ByteRange]]:
    """The bytes of each file that some version needs, in order and apart."""
    needed = {}
    for file, ranges in _by_file(layouts).items():
        merged = list[ByteRange]()
        for begin, end in sorted(each for several in ranges.values() for each in several):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        needed[file] = merged
    return needed


def _by_file(layouts: Mapping[int, Layout]) -> dict[str, dict[int, list[ByteRange]]]:
    files: defaultdict[str, defaultdict[int, list[ByteRange]]] = defaultdict(lambda: defaultdict(list))
    for number, layout in layouts.items():
        for piece in layout.pieces:
            files[piece.file][number].append((piece.begin, piece.end))
    return {file: dict(ranges) for file, ranges in files.items()}


def _cut(ranges: Ranges) -> list[tuple[int, int, int]]:
    """The file cut where a range begins or ends: of each part the oldest version in it, how many are, and its bytes."""
    points = np.unique([edge for several in ranges.values() for each in several for edge in each])
    owners, users = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for number in sorted(ranges, reverse=True):
        for first, last in np.searchsorted(points, ranges[number]):
            owners[first:last] = number
            users[first:last] += 1
    parts = zip(owners.tolist(), users.tolist(), pairwise(points.tolist()), strict=False)
    return [(owner, count, end - begin) for owner, count, (begin, end) in parts if count]
