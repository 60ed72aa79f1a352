"""An operator's changes to a store: what stands then, and for whom."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aoti_serve.errors import (
    InvalidConfig,
    NotInStore,
    StoreDamaged,
    StoreFailed,
    Superseded,
    UnreadableGolden,
    UnreadableWeights,
)
from aoti_serve.signature.golden.file import save_golden
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import check_store
from aoti_serve.weights.store.layout import golden_name
from aoti_serve.weights.store.repair import export_version, find_version, golden_beside, import_file, set_current
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Committed
from tests.unit.weights.files.test_sharded import TENSORS, sharded
from tests.unit.weights.store.crasher import commit_two, content
from tests.unit.weights.store.test_checkup import cut, flip, overwrite


def ignore(_: int) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Version 2 answers, 1 is the way back; a server has it open."""
    return commit_two(Store(tmp_path / "store", "m", 4), tmp_path, "v")


def choose(store: Store, number: int) -> Committed:
    catalog = Catalog(store.root, "store")
    return set_current(catalog, find_version(catalog, number), ignore)


def audited(store: Store) -> list[tuple[str, int, str]]:
    assert store.audit_path is not None
    lines = [json.loads(line) for line in store.audit_path.read_text().splitlines()]
    return [(line["action"], line["version"], line["outcome"]) for line in lines]


def test_what_is_chosen_is_committed_under_the_next_epoch_and_a_coordinator_that_runs_is_followed(store: Store) -> None:
    committed = choose(store, 1)
    assert (committed.epoch, committed.version.number) == (3, 1)
    assert committed.previous is not None
    assert committed.previous.number == 2
    with pytest.raises(Superseded):
        store.check_term()
    assert Store(store.root, "m", 4).committed() == committed
    assert audited(store) == [("set-current", 1, "committed")]


def test_what_is_committed_already_stays_as_it_is(store: Store) -> None:
    assert choose(store, 2) == store.committed()
    store.check_term()


@pytest.mark.parametrize("name", ["CURRENT", "TERM"])
def test_a_damaged_record_is_replaced_and_every_count_goes_on(store: Store, tmp_path: Path, name: str) -> None:
    overwrite(tmp_path / "store" / name)
    with pytest.raises(StoreDamaged):
        Store(store.root, "m", 4)
    committed = choose(store, 1)
    again = Store(store.root, "m", 4)
    assert again.committed() == committed
    assert again.term > store.term
    assert committed.epoch > 2
    assert again.commit(again.version(2), committed.epoch + 1, committed.version).version.number == 2


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("spoil", [flip, cut])
def test_what_is_damaged_cannot_be_chosen(
    store: Store, tmp_path: Path, number: int, spoil: Callable[[Path], None]
) -> None:
    before = store.committed()
    spoil(tmp_path / "store" / "versions" / str(number) / "weights.safetensors")
    with pytest.raises(StoreDamaged, match=rf"versions/{number}/weights\.safetensors is damaged"):
        choose(store, number)
    store.check_term()
    assert store.committed() == before


def test_what_is_not_there_cannot_be_chosen(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotInStore, match=r"store: version 7 is not stored; available: \[1, 2\]"):
        choose(store, 7)
    with pytest.raises(StoreFailed, match="there is no store here"):
        find_version(Catalog(tmp_path / "typo"), 1)


def test_what_is_exported_can_be_imported_into_another_store(store: Store, tmp_path: Path) -> None:
    catalog, seen = Catalog(store.root), list[int]()
    written = export_version(catalog, find_version(catalog, 1), tmp_path / "out.safetensors", seen.append)
    assert (tmp_path / "out.safetensors").read_bytes() == content(1)
    assert written.golden is None
    assert json.loads(written.record.read_text())["digest"] == find_version(catalog, 1).digest
    assert sum(seen) == len(content(1))
    other = Store(tmp_path / "other", "m", 4)
    version = import_file(Catalog(other.root), tmp_path / "out.safetensors", "from elsewhere")
    assert (version.number, version.label) == (1, "from elsewhere")
    assert other.versions() == [version]
    assert (tmp_path / "out.safetensors").exists()
    assert choose(other, 1).epoch == 1
    assert audited(other) == [("import", 1, "imported"), ("set-current", 1, "committed")]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden"
    save_golden([GoldenRequest(name, {"x": np.zeros(3, np.float32)}) for name in ("one", "two")], path)
    return path


def test_golden_requests_go_with_their_version(store: Store, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(3))
    version = import_file(Catalog(store.root), tmp_path / "file", "asked", golden)
    assert version.golden is not None
    assert version.golden.requests == 2
    written = export_version(Catalog(store.root), version, tmp_path / "out.safetensors", ignore)
    assert written.golden == golden_beside(tmp_path / "out.safetensors")
    assert written.golden.read_bytes() == golden.read_bytes()
    other = Store(tmp_path / "other", "m", 4)
    again = import_file(Catalog(other.root), written.weights, "asked", written.golden)
    assert again.golden == version.golden
    assert Catalog(other.root).attached_content(golden_name(again.number)) == golden.read_bytes()
    assert check_store(Catalog(other.root), ignore).whole
    assert list((tmp_path / "other" / "incoming").iterdir()) == []


def test_what_are_no_golden_requests_is_not_imported_and_nobody_is_followed(store: Store, tmp_path: Path) -> None:
    for name in ("file", "golden"):
        (tmp_path / name).write_bytes(content(3))
    with pytest.raises(UnreadableGolden):
        import_file(Catalog(store.root), tmp_path / "file", "", tmp_path / "golden")
    store.check_term()
    assert len(store.versions()) == 2


def test_damaged_golden_requests_are_not_exported_and_their_weights_are_without_them(
    store: Store, golden: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content(3))
    catalog = Catalog(store.root)
    version = import_file(catalog, tmp_path / "file", "", golden)
    flip(tmp_path / "store" / golden_name(version.number))
    target = tmp_path / "out.safetensors"
    with pytest.raises(StoreDamaged, match="golden"):
        export_version(catalog, version, target, ignore)
    assert not list(tmp_path.glob("out*"))
    assert export_version(catalog, version, target, ignore, golden=False).golden is None
    assert not golden_beside(target).exists()


def test_an_import_drops_no_version(store: Store, tmp_path: Path) -> None:
    for value in range(3, 12):
        (tmp_path / "file").write_bytes(content(value))
        import_file(Catalog(store.root), tmp_path / "file", "")
    assert [version.number for version in store.versions()] == list(range(1, 12))


def test_what_is_no_safetensors_file_is_not_imported_and_nobody_is_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a pickle, perhaps")
    for path in (tmp_path / "file", tmp_path / "gone"):
        with pytest.raises(UnreadableWeights):
            import_file(Catalog(store.root), path, "")
    store.check_term()
    assert len(store.versions()) == 2


def test_a_damaged_version_is_not_exported(store: Store, tmp_path: Path) -> None:
    flip(tmp_path / "store" / "versions" / "1" / "weights.safetensors")
    catalog = Catalog(store.root)
    with pytest.raises(StoreDamaged):
        export_version(catalog, find_version(catalog, 1), tmp_path / "out.safetensors", ignore)
    assert not list(tmp_path.glob("out*"))


def test_an_export_replaces_no_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_text("mine")
    catalog = Catalog(store.root)
    with pytest.raises(InvalidConfig, match=r"out\.safetensors exists; name another file"):
        export_version(catalog, find_version(catalog, 1), tmp_path / "out.safetensors", ignore)
    with pytest.raises(InvalidConfig, match="No such file"):
        export_version(catalog, find_version(catalog, 1), tmp_path / "no" / "folder", ignore)
    assert (tmp_path / "out.safetensors").read_text() == "mine"


def test_another_users_store_is_not_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server could not write over what this user has written."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreFailed, match="it belongs to user"):
        choose(store, 1)
    store.check_term()


def test_shards_come_in_as_one_file(store: Store, tmp_path: Path) -> None:
    index = sharded(tmp_path / "w", TENSORS, {"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"})
    catalog = Catalog(store.root, "m")
    version = import_file(catalog, index.parent, "shards")
    assert catalog.index(version).keys() == TENSORS.keys()
    assert list((tmp_path / "store" / "incoming").iterdir()) == []
