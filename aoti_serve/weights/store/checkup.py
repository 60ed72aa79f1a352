"""A check of all that a store holds: records, headers and digests. It changes nothing, and needs no server."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from aoti_serve.errors import StoreDamaged, StoreFailed
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.labels import VersionLabels
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.layout import assets_name, golden_name, record_name
from aoti_serve.weights.version import BUILT_IN, Committed, Version

T = TypeVar("T")


class VersionCheckup(Frozen):
    """One version. `staged`: it was never committed. `damage` says what is wrong; None if it is whole."""

    number: int
    label: str = ""
    digest: str = ""
    nbytes: int = 0
    staged: bool = False
    damage: str | None = None


class StoreCheckup(Frozen):
    """A store: what is committed, if that can be read, its versions, and the `damage` of its own records."""

    store: str
    term: int | None
    epoch: int | None
    current: int | None
    previous: int | None
    versions: tuple[VersionCheckup, ...]
    damage: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.damage and not any(version.damage for version in self.versions)


def total_bytes(catalog: Catalog) -> int:
    """The bytes that `check_store` will read."""
    return sum(version.nbytes for number in catalog.numbers() if (version := _record(catalog, number)))


def check_store(catalog: Catalog, advance: Callable[[int], None] = lambda nbytes: None) -> StoreCheckup:
    """Read every byte of a store; `advance` hears how many. Raises StoreFailed if there is no store."""
    require_store(catalog)
    damage: list[str] = []
    term = _noting(damage, catalog.last_term)
    committed = _noting(damage, catalog.committed)
    staged = catalog.staged()
    versions = [_check(catalog, number, number in staged, advance) for number in catalog.numbers()]
    damage += _dangling(catalog, committed)
    labels = _noting(damage, catalog.labels) or VersionLabels()
    lost = labels.lost({version.number for version in versions if not version.staged})
    damage += [f"LABELS: '{name}' names version {number}, which is not stored" for name, number in lost.items()]
    return StoreCheckup(
        store=catalog.root,
        term=term.number if term else None,
        epoch=committed.epoch if committed else None,
        current=committed.version.number if committed else None,
        previous=committed.previous.number if committed and committed.previous else None,
        versions=tuple(versions),
        damage=tuple(damage),
    )


def require_store(catalog: Catalog, way_out: str = "") -> None:
    """Raise StoreFailed, with another way out if there is one, where there is no store."""
    if not catalog.exists:
        detail = f"there is no store here; its name is `store` in the configuration, or `<package>.versions`{way_out}"
        raise StoreFailed(path=catalog.root, detail=detail)


def _noting(damage: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except StoreDamaged as error:
        damage.append(f"{error.facts['file']}: {error.facts['detail']}")
        return None


def _check(catalog: Catalog, number: int, staged: bool, advance: Callable[[int], None]) -> VersionCheckup:
    damage: list[str] = []
    version = _noting(damage, lambda: catalog.record(number))
    if version is not None:
        _noting(damage, lambda: require_whole(catalog, version, advance))
    facts = version.model_dump(include={"label", "digest", "nbytes"}) if version else {}
    return VersionCheckup(number=number, staged=staged, damage=damage[0] if damage else None, **facts)


def require_whole(catalog: Catalog, version: Version, advance: Callable[[int], None] = lambda nbytes: None) -> None:
    """Read every byte of a version, and of what came with it. Raises StoreDamaged if they are not those of before."""
    deque(catalog.verify(version, advance), maxlen=0)
    checked_golden(catalog, version)
    checked_assets(catalog, version)


def checked_golden(catalog: Catalog, version: Version) -> bytes | None:
    """The file of golden requests that came with a version; None if there were none. Raises StoreDamaged."""
    return None if version.golden is None else _attached(catalog, golden_name(version.number), version.golden.digest)


def checked_assets(catalog: Catalog, version: Version) -> bytes | None:
    """The file of the version's assets; None if it has none. Raises StoreDamaged."""
    return None if version.assets is None else _attached(catalog, assets_name(version.number), version.assets.digest)


def _attached(catalog: Catalog, name: str, expected: str) -> bytes:
    content = catalog.attached_content(name)
    digest = None if content is None else hashlib.sha256(content).hexdigest()
    if content is None or digest != expected:
        detail = f"its sha256 is {digest}, stored was {expected}"
        raise StoreDamaged(path=catalog.root, file=name, detail=detail)
    return content


def _record(catalog: Catalog, number: int) -> Version | None:
    return _noting([], lambda: catalog.record(number))


def _dangling(catalog: Catalog, committed: Committed | None) -> list[str]:
    """Versions that CURRENT names, and that are not there or are others."""
    named = [committed.version, committed.previous] if committed else []
    return [
        f"CURRENT: it names version {version.number}, and {record_name(version.number)} is not that version's"
        for version in named
        if version is not None and version.number != BUILT_IN.number and _record(catalog, version.number) != version
    ]
