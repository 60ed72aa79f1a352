"""kill -9 at every step of a write: what was committed is committed, whole, and nothing is left over."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.store.store import Store
from tests.unit.weights.store import crasher as store_crasher
from tests.unit.weights.store import elsewhere
from tests.unit.weights.store.crasher import content, place

NAMES = {"LABELS", "CURRENT", "TERM", "LOCK", "RESERVE", "versions", "incoming"}
FILES = {"version.json", "weights.safetensors"}
WHOLE = [FILES, FILES | {"taken"}, FILES | {"staged"}, FILES | {"staged", "taken"}]


def prepare(folder: Path, scheme: str) -> None:
    (folder / "file").write_bytes(content(3))
    (folder / "template").mkdir()
    store = Store(place(folder / "template", scheme), "m", 2)
    for number in (1, 2):
        upload = store.incoming()
        upload.write_bytes(content(number))
        version, before = store.add(upload, f"v{number}"), store.committed()
        store.commit(version, number, before.version if before else None)


def assert_whole(store: Store) -> None:
    committed = store.committed()
    assert committed is not None
    stored = store.versions()
    assert committed.version in stored
    assert committed.previous in stored
    for version in stored:
        with store.open(version) as file:
            assert hashlib.sha256(file.read()).hexdigest() == version.digest
        assert store.index(version).keys() == {"w"}


def assert_tidy(folder: Path, incoming: Path) -> None:
    """No folder holds half of a version, and no upload is there any more."""
    versions = sorted((folder / "versions").iterdir(), key=lambda path: int(path.name))
    for path in versions:
        names = {file.name for file in path.iterdir()}
        assert names in (*WHOLE, set(), {"taken"}), names
    assert list(incoming.iterdir()) == []


def assert_labels(store: Store, number: int) -> None:
    """A label names what it did before a change or after it, never what is not stored, nor what was not committed."""
    assert store.labels().root in ([{}, {"stable": 2}] if number == 2 else [{"stable": 2}, {"stable": number}])
    assert store.drop_lost_labels()[1] == {}


def check(folder: Path, scheme: str) -> int:
    """Open what was left behind; the number of the version that is committed in it."""
    store = Store(place(folder, scheme), "m", 2)
    assert_whole(store)
    assert_tidy(folder, store._place.incoming)
    committed = store.committed()
    assert committed is not None
    assert (committed.epoch, committed.version.label) in ((2, "v2"), (3, "uploaded"))
    assert_labels(store, committed.version.number)
    upload = store.incoming()
    upload.write_bytes(content(5))
    version = store.add(upload, "after")
    given = folder.with_suffix(".given")
    assert version.number > max(map(int, given.read_text().split() if given.exists() else []), default=2)
    store.commit(version, committed.epoch + 1, committed.version)
    store.relabel(LabelChange(name="stable", version=version.number))
    assert_whole(store)
    assert len(store.versions()) <= 3, "two are kept, and one that was added may not have been committed"
    assert {path.name for path in folder.iterdir()} <= NAMES
    return committed.version.number


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In memory if there is such a place: a thousand fsyncs of a disk take minutes, and kill -9 loses none of them."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        (Path(name) / "cache").mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", f"{name}/cache")
        yield Path(name)


@pytest.mark.parametrize("scheme", ["file", elsewhere.SCHEME])
def test_whenever_the_process_is_killed_the_store_is_whole(folder: Path, scheme: str) -> None:
    prepare(folder, scheme)
    crasher = [sys.executable, "-m", store_crasher.__name__, str(folder), scheme]
    done = subprocess.run(crasher, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    assert calls > 80
    committed = [check(folder / str(call), scheme) for call in range(calls + 1)]
    assert committed == sorted(committed), "what was committed before one call is committed before all later ones"
    assert len(set(committed)) == 2
