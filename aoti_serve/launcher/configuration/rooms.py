"""Whether the disks of stores have room for what a start writes, and for one more version of each model."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from typing import NamedTuple

from aoti_serve.config import ModelConfig
from aoti_serve.errors import AotiServeError
from aoti_serve.launcher.configuration.stores import nearest_place
from aoti_serve.model.package import Package
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.reserve import RESERVE_BYTES


class StoreRoom(NamedTuple):
    """The disk of one model's store, in bytes: what a start and a new version need, and what is free for them."""

    model: ModelConfig
    start: int
    version: int
    free: int

    @property
    def problem(self) -> str | None:
        """The reason why the model could not start; None if it could."""
        if self.start <= self.free:
            return None
        needs = f"the start needs {self.start:,} bytes, {self.free:,} are free"
        return f"store {self.model.store_root}: the disk is full: {needs}"

    @property
    def warning(self) -> str | None:
        """The reason why a swap would fail once it has started; None if it would not."""
        left = self.free - self.start
        if left < 0 or self.version <= left:
            return None
        needs = f"a new version needs {self.version:,} bytes, and {left:,} will be free"
        return f"store {self.model.store_root}: {needs}: swaps will fail"


def store_rooms(models: Collection[tuple[ModelConfig, Package]]) -> Iterator[StoreRoom]:
    """The room of each, in order. What one takes at the start the next ones on that disk have not. All are folders."""
    taken: dict[int, int] = {}
    for model, package in models:
        place = nearest_place(model)
        device, version = place.stat().st_dev, sum(constant.nbytes for constant in package.constants)
        start = _start_bytes(model, version)
        yield StoreRoom(model, start, version, max(shutil.disk_usage(place).free - taken.get(device, 0), 0))
        taken[device] = taken.get(device, 0) + start


def _start_bytes(model: ModelConfig, version: int) -> int:
    """What a start writes: nothing to speak of where a version answers already, or where the store cannot be read."""
    catalog = Catalog(model.store_root, model.name)
    try:
        if catalog.committed() is not None:
            return 0
        records = 0 if catalog.exists else RESERVE_BYTES
    except AotiServeError:
        return 0
    return records + (0 if model.weights is None else version)
