"""What is free on a disk, before a file of weights is written there."""

from __future__ import annotations

import shutil
from pathlib import Path

from aoti_serve.errors import MAKE_ROOM, StoreFailed


def check_room(needed: int, folder: Path) -> None:
    """Raise StoreFailed if so many bytes would not fit into what is free at `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        detail = f"the disk is full: {needed} bytes are needed, {free} are free: {MAKE_ROOM}"
        raise StoreFailed(path=folder, detail=detail)
