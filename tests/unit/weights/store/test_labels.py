"""Labels in a store: durable, changed in one step, and the versions that they name stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aoti_serve.errors import LabelMoved, StoreDamaged, Superseded, UnknownWeightsVersion
from aoti_serve.weights.candidate import Candidate
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import check_store
from aoti_serve.weights.store.layout import golden_name
from aoti_serve.weights.store.repair import find_version, set_current
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.version import GoldenFile
from tests.unit.weights.store.crasher import content, place


def stored(root: str | Path, folder: Path, count: int, keep: int = 2) -> Store:
    """A store in which so many versions were committed."""
    store = Store(root, "m", keep)
    for _ in range(count):
        commit(store, folder)
    return store


def commit(store: Store, folder: Path) -> None:
    (folder / "file").write_bytes(content(store.epoch + 1))
    before = store.committed()
    version = store.add(folder / "file", "")
    store.commit(version, store.epoch + 1, before.version if before else None)


def numbers(store: Store) -> list[int]:
    return [version.number for version in store.versions()]


@pytest.mark.parametrize("scheme", ["file", "elsewhere"])
def test_the_next_store_finds_them(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = place(tmp_path / "store", scheme)
    store = stored(root, tmp_path, 2)
    assert store.labels().root == {}
    for change in (LabelChange(name="stable", version=1), LabelChange(name="base", version=0)):
        store.relabel(change)
    assert Store(root, "m", 2).labels().root == Catalog(root).labels().root == {"base": 0, "stable": 1}


def test_a_version_with_a_label_is_kept_and_without_it_retired(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", tmp_path, 2)
    store.relabel(LabelChange(name="stable", version=1))
    for _ in range(3):
        commit(store, tmp_path)
    assert numbers(store) == [1, 4, 5]
    store.relabel(LabelChange(name="stable", version=5))
    commit(store, tmp_path)
    assert numbers(store) == [5, 6]


def test_golden_requests_stay_and_go_with_their_version(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", tmp_path, 2)
    (tmp_path / "file").write_bytes(content(3))
    (tmp_path / "golden").write_bytes(b"requests")
    golden = GoldenFile(digest="ab" * 32, nbytes=8, requests=1)
    version = store.add(tmp_path / "file", "", golden_source=tmp_path / "golden", golden=golden)
    store.commit(version, store.epoch + 1, None)
    store.relabel(LabelChange(name="stable", version=3))
    for _ in range(3):
        commit(store, tmp_path)
    path = tmp_path / "store" / golden_name(3)
    assert (numbers(store), path.read_bytes()) == ([3, 5, 6], b"requests")
    store.relabel(LabelChange(name="stable", version=6))
    commit(store, tmp_path)
    assert (numbers(store), path.exists()) == ([6, 7], False)


def test_a_candidate_is_never_retired_and_has_no_label_before_it_is_promoted(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", tmp_path, 4, keep=2)
    (tmp_path / "file").write_bytes(content(9))
    version = store.add(tmp_path / "file", "")
    store.hold(Candidate(swap="s", version=5, epoch=4, since=0.0, exposure=Exposure()))
    with pytest.raises(UnknownWeightsVersion):
        store.relabel(LabelChange(name="next", version=5))
    store.relabel(LabelChange(name="stable", version=3))
    again = Store(tmp_path / "store", "m", 2)
    assert (again.candidate() is not None, again.numbers()) == (True, [3, 4, 5])
    again.commit(version, 5, again.version(4))
    assert (numbers(again), again.candidate()) == ([3, 4, 5], None)


def test_only_what_is_stored_can_be_labelled_and_a_refusal_changes_nothing(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", tmp_path, 2)
    store.relabel(LabelChange(name="stable", version=1))
    staged = store.add(tmp_path / "file", "never committed")
    for number in (7, staged.number):
        with pytest.raises(UnknownWeightsVersion, match=r"available: \[1, 2\]"):
            store.relabel(LabelChange(name="stable", version=number))
    with pytest.raises(LabelMoved, match="names version 1 now, not 2"):
        store.relabel(LabelChange(name="stable", version=2, expected=2))
    assert store.labels().root == {"stable": 1}


def test_an_older_store_moves_none(tmp_path: Path) -> None:
    older = stored(tmp_path / "store", tmp_path, 1)
    stored(tmp_path / "store", tmp_path, 0)
    with pytest.raises(Superseded):
        older.relabel(LabelChange(name="stable", version=1))
    assert older.labels().root == {}


def test_a_label_whose_version_is_gone_is_reported_and_dropped(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", tmp_path, 3, keep=4)
    for number in (1, 2):
        store.relabel(LabelChange(name=f"l{number}", version=number))
    (tmp_path / "store" / "versions" / "1" / "version.json").unlink()
    assert check_store(store).damage == ("LABELS: 'l1' names version 1, which is not stored",)
    labels, lost = store.drop_lost_labels()
    assert (labels.root, lost) == ({"l2": 2}, {"l1": 1})
    assert json.loads((tmp_path / "store" / "LABELS").read_text()) == {"l2": 2}
    assert check_store(store).whole


def test_damaged_labels_retire_nothing_and_a_repair_takes_them_away(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", tmp_path, 2)
    (tmp_path / "store" / "LABELS").write_text('{"stable": "x"')
    with pytest.raises(StoreDamaged, match="LABELS is damaged"):
        store.relabel(LabelChange(name="stable", version=1))
    commit(store, tmp_path)
    assert numbers(store) == [1, 2, 3]
    assert [line[:7] for line in check_store(store).damage] == ["LABELS:"]
    committed = set_current(store, find_version(store, 3), lambda nbytes: None)
    assert (committed.version.number, check_store(store).whole) == (3, True)
