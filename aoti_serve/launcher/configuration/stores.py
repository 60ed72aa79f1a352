"""Whether the stores of a configuration could be opened from this machine, now: folders, records, bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from aoti_serve.cluster.coordinator.first import check_committed
from aoti_serve.config import ModelConfig
from aoti_serve.errors import AotiServeError
from aoti_serve.model.package import Package
from aoti_serve.weights.sources.uri import is_uri
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import require_whole
from aoti_serve.weights.store.disk import DISK_FULL
from aoti_serve.weights.version import BUILT_IN

WAY_OUT = "set another `store`"


def no_folder(model: ModelConfig) -> str | None:
    """The reason why there can be no store; None if there can, or if that is not known here."""
    if is_uri(model.store_root) or (folder := nearest_place(model)).is_dir():
        return None
    return f"store {model.store_root}: {folder} is no folder; {WAY_OUT}"


def store_problems(model: ModelConfig, package: Package | None, tell: Callable[[str], None]) -> Iterator[str]:
    """What would keep its store from being opened, and its version from answering. `tell` hears what takes long.

    The version that answers is read whole. Of a store at a URI nothing is read.
    """
    if is_uri(model.store_root):
        return
    if reason := no_folder(model) or _not_writable(model):
        yield reason
        return
    try:
        _check_bytes(Catalog(model.store_root, model.name), package, tell)
    except AotiServeError as error:
        yield str(error)


def nearest_place(model: ModelConfig) -> Path:
    """Its folder, or what is there of the way to it."""
    root = Path(model.store_root)
    return next(place for place in (root, *root.parents) if os.path.exists(place))


def _not_writable(model: ModelConfig) -> str | None:
    """Modes tell little: of a read-only disk, of a user of another machine, of root. So a file is made, without a name
    where the disk can do that, and is gone.
    """
    nearest = nearest_place(model)
    for folder in (nearest, nearest / "versions"):
        try:
            if folder is nearest or folder.is_dir():
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            if error.errno not in DISK_FULL:  # of which `store_rooms` speaks
                return f"store {model.store_root}: {folder} cannot be written: {error.strerror}; {WAY_OUT}"
    return None


def _check_bytes(catalog: Catalog, package: Package | None, tell: Callable[[str], None]) -> None:
    """Raise StoreFailed, or StoreDamaged, as a coordinator that opens it, or a replica, would."""
    catalog.last_term()
    catalog.labels()
    committed = catalog.committed()
    if committed is None or committed.version.number == BUILT_IN.number:
        return
    version = committed.version
    tell(f"reading version {version.number} of {catalog.root}: {version.nbytes:,} bytes")
    require_whole(catalog, version)
    if package is not None:
        check_committed(catalog, version, package.signature)
