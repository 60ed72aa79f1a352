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
from tests.unit.weights.store.crasher import PARTS, PIECES, content, place

NAMES = {"LABELS", "CURRENT", "TERM", "LOCK", "RESERVE", "versions", "incoming"}
FILES = [
    {"version.json", "weights.safetensors"},
    {"version.json", "pieces.json", "own.bin"},
    {"version.json", "pieces.json", "blocks.bin", "part-0.bin"},
]
MARKS = [set(), {"taken"}, {"staged"}, {"staged", "taken"}]
WHOLE = [files | marks for files in FILES for marks in MARKS]
BEFORE = {
    "file": 2,
    elsewhere.SCHEME: 2,
    PIECES: 3,
    PARTS: 3,
}  # versions that were committed: of the last one, two are left


def prepare(folder: Path, scheme: str) -> None:
    (folder / "file").write_bytes(content(BEFORE[scheme] + 1, scheme))
    (folder / "template").mkdir()
    store = Store(place(folder / "template", scheme), "m", 2)
    for number in range(1, BEFORE[scheme] + 1):
        upload = store.incoming()
        upload.write_bytes(content(number, scheme))
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
        assert "w" in store.index(version)


def assert_tidy(folder: Path, store: Store) -> None:
    """No folder holds half of a version, or a file that none needs, and no upload is there any more."""
    needed = {file for number in store.numbers() for file in store.layout(number).files}
    versions = sorted((folder / "versions").iterdir(), key=lambda path: int(path.name))
    for path in versions:
        names = {file.name for file in path.iterdir()}
        kept = {Path(file).name for file in needed if file.startswith(f"versions/{path.name}/")}
        home = kept | {"blocks.bin"} if "part-0.bin" in kept else kept
        assert names in (*WHOLE, set(), {"taken"}, home, home | {"taken"}), names
    assert list(store._place.incoming.iterdir()) == []


def assert_labels(store: Store, number: int, before: int) -> None:
    """A label names what it did before a change or after it, never what is not stored, nor what was not committed."""
    stable = {"stable": before}
    assert store.labels().root in ([{}, stable] if number == before else [stable, {"stable": number}])
    assert store.drop_lost_labels()[1] == {}


def check(folder: Path, scheme: str) -> int:
    """Open what was left behind; the number of the version that is committed in it."""
    store, before = Store(place(folder, scheme), "m", 2), BEFORE[scheme]
    assert_whole(store)
    assert_tidy(folder, store)
    committed = store.committed()
    assert committed is not None
    assert (committed.epoch, committed.version.label) in ((before, f"v{before}"), (before + 1, "uploaded"))
    assert_labels(store, committed.version.number, before)
    upload = store.incoming()
    upload.write_bytes(content(before + 4, scheme))
    version = store.add(upload, "after")
    given = folder.with_suffix(".given")
    assert version.number > max(map(int, given.read_text().split() if given.exists() else []), default=before)
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


@pytest.mark.parametrize("scheme", ["file", PIECES, elsewhere.SCHEME, PARTS])
def test_whenever_the_process_is_killed_the_store_is_whole(folder: Path, scheme: str) -> None:
    prepare(folder, scheme)
    crasher = [sys.executable, "-m", store_crasher.__name__, str(folder), scheme]
    done = subprocess.run(crasher, env=os.environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    assert calls > 80
    committed = [check(folder / str(call), scheme) for call in range(calls + 1)]
    if scheme != PARTS:  # there several threads put at once, and not always as many calls come before a certain one
        assert committed == sorted(committed), "what was committed before one call is committed before all later ones"
    assert len(set(committed)) == 2
