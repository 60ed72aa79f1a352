"""A store that is copied while it is in use: the copy is whole, or its check says what it lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import StoreCheckup, check_store
from aoti_serve.weights.store.store import Store
from tests.unit.weights.store.crasher import commit_two, content


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Version 2 answers, 1 is the way back."""
    return commit_two(Store(tmp_path / "m.versions", "m", 2), tmp_path, "step ")


def checked(copy: Path) -> StoreCheckup:
    return check_store(Catalog(copy, "m"), lambda _: None)


def commit_third(store: Store) -> None:
    """It pushes out version 1."""
    upload = store.incoming()
    upload.write_bytes(content(3))
    store.commit(store.add(upload, "step 3"), 3, store.version(2))


def test_a_copy_is_a_store_that_answers_with_what_answered(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    commit_third(store)
    assert checked(tmp_path / "copy").whole
    restored = Store(tmp_path / "copy", "m", 2)
    committed = restored.committed()
    assert committed is not None
    assert (committed.version.number, committed.epoch) == (2, 2)
    with restored.open(committed.version) as file:
        assert file.read() == content(2)


def test_a_copy_whose_current_came_later_than_its_versions_is_not_called_whole(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    commit_third(store)
    shutil.copy(Path(store.root) / "CURRENT", tmp_path / "copy")
    found = checked(tmp_path / "copy")
    assert not found.whole
    assert "3" in found.damage[0]


def test_a_copy_of_a_version_that_went_meanwhile_is_not_called_whole(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    (tmp_path / "copy" / "versions" / "1" / "weights.safetensors").unlink()  # its record was copied before
    found = checked(tmp_path / "copy")
    assert not found.whole
