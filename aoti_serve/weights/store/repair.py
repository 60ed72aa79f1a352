"""Changes of a store by an operator, with or without a server: export a version, import one, choose the current one.

Each change opens the store, and so takes a term. A coordinator that runs is thereby replaced; it starts again and reads
what is committed.
"""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aoti_serve.errors import InvalidConfig, NotInStore, StoreDamaged, StoreFailed, UnknownWeightsVersion
from aoti_serve.signature.golden.file import read_golden
from aoti_serve.weights.assets import described_assets
from aoti_serve.weights.audit import AttemptOutcome, AuditLog
from aoti_serve.weights.files.checkpoint import (
    JoinedShards,
    SingleFile,
    checkpoint_spans,
    open_checkpoint,
    write_joined,
)
from aoti_serve.weights.golden import described_golden
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import checked_assets, checked_golden, require_store
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Committed, GoldenFile, Version, VersionFacts

Advance = Callable[[int], None]


def find_version(catalog: Catalog, number: int) -> Version:
    """A whole version's record, also of one that was never committed. Raises NotInStore, or StoreFailed."""
    require_store(catalog)
    try:
        return catalog.version(number, also_staged=True)
    except UnknownWeightsVersion as error:
        raise NotInStore(path=catalog.root, version=number, known=error.known) from error


class Exported(NamedTuple):
    """The files that hold an exported version; `golden` if golden requests came with it, `assets` if it has any."""

    weights: Path
    record: Path
    golden: Path | None
    assets: Path | None


def export_version(
    catalog: Catalog, version: Version, target: Path, advance: Advance, *, golden: bool = True
) -> Exported:
    """Write a version's safetensors file to `target`, and beside it its record, its assets and, if `golden`, its golden
    requests.

    Raises StoreDamaged if their bytes are not those that were stored, and InvalidConfig if a file of that name exists;
    then nothing is left there.
    """
    record, requests, files = target.with_suffix(".version.json"), golden_beside(target), assets_beside(target)
    contents = {requests: checked_golden(catalog, version) if golden else None, files: checked_assets(catalog, version)}
    attached = {path: content for path, content in contents.items() if content is not None}
    for path in (target, record, *attached):
        if path.exists():
            raise InvalidConfig(detail=f"{path} exists; name another file")
    scratch = target.with_name(f"{target.name}.tmp")
    try:
        with scratch.open("wb") as file:
            file.writelines(catalog.verify(version, advance))
            file.flush()
            os.fsync(file.fileno())
        for path, content in attached.items():
            path.write_bytes(content)
        scratch.replace(target)
        record.write_text(version.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise InvalidConfig(detail=f"{target}: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return Exported(target, record, *[path if path in attached else None for path in (requests, files)])


def golden_beside(weights: Path) -> Path:
    """Where an export leaves the golden requests of a version whose file is this one."""
    return weights.with_suffix(".golden.safetensors")


def assets_beside(weights: Path) -> Path:
    """Where an export leaves the assets of a version whose file is this one."""
    return weights.with_suffix(".assets.safetensors")


def import_file(
    catalog: Catalog, source: Path, label: str, golden: Path | None = None, *, create: bool = False
) -> Version:
    """Store a safetensors file, or shards, as a version that no package was asked about; with a file of golden
    requests, which it must answer rightly wherever it is staged, and with the assets that an export has left beside it.

    `create`: make a store if there is none. Raises UnreadableWeights, UnreadableGolden or UnfitAssets, and StoreFailed.
    """
    if not create:
        require_store(catalog, "; --create makes a new one")
    found = open_checkpoint(source)
    checkpoint_spans(source)
    if golden is not None:
        read_golden(golden)
    store = _open(catalog)
    with _scratch(store) as weights, _scratch(store) as requests, _scratch(store) as files:
        facts = VersionFacts(golden=_copied_golden(golden, requests)) if golden else VersionFacts()
        if (beside := assets_beside(source)).is_file():
            files.write_bytes(beside.read_bytes())
            facts["assets"] = described_assets(files.read_bytes())
        if isinstance(found, JoinedShards):
            write_joined(found, weights)
        path = found.path if isinstance(found, SingleFile) else weights
        version = store.add(
            path,
            label,
            golden_source=requests if golden else None,
            assets_source=files if "assets" in facts else None,
            **facts,
        )
    store.confirm(version)
    _audit(store, "import", version, str(source))
    return version


def _copied_golden(golden: Path, copy: Path) -> GoldenFile:
    """Described as what was copied: the file may change meanwhile."""
    shutil.copyfile(golden, copy)
    return described_golden(copy, len(read_golden(copy)))


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    path = store.incoming()
    try:
        yield path
    finally:
        store.discard(path)


def set_current(catalog: Catalog, version: Version, advance: Advance) -> Committed:
    """Commit a stored version, under the next epoch; what answered before is the way back.

    Every byte of it is read first: raises StoreDamaged if they are not those that were stored. CURRENT, TERM and
    LABELS may be damaged. What is committed already stays as it is.
    """
    for _ in catalog.verify(version, advance):
        pass
    with suppress(StoreDamaged):
        catalog.last_term(), catalog.labels()
        if (stands := catalog.committed()) is not None and stands.version == version:
            return stands
    store = _open(catalog, repair=True)
    committed = store.commit(version, store.epoch + 1, _way_back(store, version))
    _audit(store, "set-current", version, "")
    return committed


def _way_back(store: Store, version: Version) -> Version | None:
    try:
        before = store.committed()
    except StoreDamaged:
        return None
    if before is not None and before.version == version:
        return before.previous
    return before.version if before else None


def _open(catalog: Catalog, *, repair: bool = False) -> Store:
    """Open it for changes. No version is dropped: only the configuration knows how many are kept."""
    owner = catalog.owner if catalog.exists else None
    if owner is not None and owner != os.geteuid():
        detail = (
            f"it belongs to user {owner}, whose server could not write what this one has written; run this as that user"
        )
        raise StoreFailed(path=catalog.root, detail=detail)
    return Store(catalog.source, catalog.model, sys.maxsize, repair=repair)


def _audit(store: Store, action: str, version: Version, source: str) -> None:
    AuditLog(store.audit_path).write(
        model=store.model,
        action=action,
        who=f"command line, user {getpass.getuser()}",
        label=version.label,
        source=source,
        version=version.number,
        digest=version.digest,
        outcome=AttemptOutcome.COMMITTED if action == "set-current" else AttemptOutcome.IMPORTED,
    )
