"""How much memory this process can still take on the host: the machine's and its control groups' say, the least of it.

Memory that is only mapped costs nothing until it is written, and then there is no error any more: the kernel ends the
process. So the question comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from aoti_serve.errors import NotEnoughMemory
from aoti_serve.model.device import CHUNK


class _Files(NamedTuple):
    """The files of one version of control groups, and the keys in its `memory.stat` for what the kernel can drop."""

    limit: str
    used: str
    droppable: tuple[str, ...]


_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_VERSION_2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))


def check_memory(place: str, needed: int, available: int) -> None:
    """Raise NotEnoughMemory if weights that need so many bytes more do not fit with some room to spare.

    The room is for the chunks of the file that are under way while it is staged: ten or so, each a sixty-fourth of the
    file and `CHUNK` at most (docs/memory.md).
    """
    spare = min(needed // 5, 10 * CHUNK)
    if needed + spare > available:
        raise NotEnoughMemory(place=place, needed=needed, spare=spare, available=available)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be taken; what the kernel would drop for them, the page cache, counts as available."""
    return min([psutil.virtual_memory().available, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """For each control group that this process is in, down from the outermost, what its limit leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers:
            yield from _left_on_path(mounted, path, _VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _left_on_path(mounted / "memory", path, _VERSION_1)


def _left_on_path(mounted: Path, path: str, files: _Files) -> Iterator[int]:
    """A limit of any folder on the way holds; a container may see its own as the mounted folder."""
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
        left = _left_in(mounted.joinpath(*parts[:depth]), files)
        if left is not None:
            yield left


def _left_in(folder: Path, files: _Files) -> int | None:
    """None without a limit."""
    try:
        limit, used = int((folder / files.limit).read_text()), int((folder / files.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no number
        return None
    return max(0, limit - used + sum(int(stat.get(key, 0)) for key in files.droppable))
