"""Changes of a store by an operator, with or without a server: export a version, import one, choose the current one.

Each change opens the store, and so takes a term. A coordinator that runs is thereby replaced; it starts again and reads
what is committed.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aoti_serve.errors import InvalidConfig, StoreDamaged, StoreFailed
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.files.checkpoint import (
    JoinedShards,
    SingleFile,
    checkpoint_spans,
    open_checkpoint,
    write_joined,
)
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import require_store
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Committed, Version

Advance = Callable[[int], None]


def find_version(catalog: Catalog, number: int) -> Version:
    """A whole version's record, also of one that was never committed. Raises UnknownWeightsVersion."""
    require_store(catalog)
    return catalog.version(number, also_staged=True)


def export_version(catalog: Catalog, version: Version, target: Path, advance: Advance) -> Path:
    """Write a version's safetensors file to `target`, and its record beside it; the record's path.

    Raises StoreDamaged if its bytes are not those that were stored, and InvalidConfig if `target` exists; then nothing
    is left there.
    """
    record = target.with_suffix(".version.json")
    for path in (target, record):
        if path.exists():
            raise InvalidConfig(detail=f"{path} exists; name another file")
    scratch = target.with_name(f"{target.name}.tmp")
    try:
        with scratch.open("wb") as file:
            file.writelines(catalog.verify(version, advance))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
        record.write_text(version.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise InvalidConfig(detail=f"{target}: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return record


def import_file(catalog: Catalog, source: Path, label: str) -> Version:
    """Store a safetensors file, or shards, as a version that no package was asked about. Raises UnreadableWeights."""
    require_store(catalog)
    found = open_checkpoint(source)
    checkpoint_spans(source)
    store = _open(catalog)
    version = store.add(found.path, label) if isinstance(found, SingleFile) else _joined(store, found, label)
    store.confirm(version)
    _audit(store, "import", version, str(source))
    return version


def _joined(store: Store, shards: JoinedShards, label: str) -> Version:
    path = store.incoming()
    try:
        write_joined(shards, path)
        return store.add(path, label)
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
    owner = catalog.owner
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
        outcome="committed" if action == "set-current" else "imported",
    )
