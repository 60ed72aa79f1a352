"""Two coordinators at once: only the one that opened the store last can change it, whenever the other one wakes."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aoti_serve.errors import StoreFailed, Superseded
from aoti_serve.weights.store import disk
from aoti_serve.weights.store.objects import remote
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.store.term import Term
from aoti_serve.weights.version import BUILT_IN, Committed, Version
from tests.unit.weights.store import elsewhere


@pytest.fixture(params=["file", elsewhere.SCHEME])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "store"
    return str(folder) if request.param == "file" else elsewhere.uri_of(folder)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_file({"w": np.zeros(4, np.float32)}, path)
    return path


def committing(store: Store, source: Path, label: str) -> Committed:
    committed = store.committed()
    version = store.add(source, label)
    return store.commit(version, committed.epoch + 1 if committed else 1, committed.version if committed else None)


def test_each_store_takes_the_next_term(root: str) -> None:
    assert [Store(root, "m", 2).term for _ in range(3)] == [1, 2, 3]


def test_the_newest_passes_the_check_and_the_others_do_not(root: str) -> None:
    older, newer = Store(root, "m", 2), Store(root, "m", 2)
    newer.check_term()
    with pytest.raises(Superseded, match="model 'm': coordinator 1 of its store was followed by 2"):
        older.check_term()


@pytest.fixture
def at_the_same_moment(root: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Store]]:
    """Have a second Store opened, where no lock holds it off, when the first one has read TERM and is to write it."""

    def arrange(when: str) -> list[Store]:
        opened = list[Store]()

        def racing(kind: type[disk.Disk] | type[remote.Remote]) -> None:
            write = kind.write_term

            def wrapped(place: Any, content: bytes) -> None:
                monkeypatch.setattr(kind, "write_term", write)
                if when == "before":
                    opened.append(Store(root, "m", 2))
                write(place, content)
                if when == "after":
                    other = Term.after(Term(Term.parse(content).number - 1))
                    write(place, other.content)

            monkeypatch.setattr(kind, "write_term", wrapped)

        monkeypatch.setattr(disk.Disk, "alone", unlocked)
        monkeypatch.setattr(remote.Remote, "alone", unlocked)
        racing(disk.Disk)
        racing(remote.Remote)
        return opened

    return arrange


def test_of_two_that_open_at_the_same_moment_the_one_that_wrote_last_leads(
    root: str, source: Path, at_the_same_moment: Callable[[str], list[Store]]
) -> None:
    opened = at_the_same_moment("before")
    last = Store(root, "m", 2)
    [first] = opened
    assert first.term == last.term == 1
    last.check_term()
    with pytest.raises(Superseded, match="coordinator 1 of its store was followed by another one of that number"):
        first.check_term()
    with pytest.raises(Superseded):
        committing(first, source, "lost")
    assert committing(last, source, "kept") == Store(root, "m", 2).committed()


def test_one_whose_term_is_overwritten_as_it_opens_does_not_open(
    root: str, at_the_same_moment: Callable[[str], list[Store]]
) -> None:
    at_the_same_moment("after")
    with pytest.raises(Superseded):
        Store(root, "m", 2)


@pytest.mark.parametrize("written", [b"4", b"00000000000000000004"])
def test_a_term_of_an_earlier_release_is_read(root: str, tmp_path: Path, written: bytes) -> None:
    Store(root, "m", 2)
    (tmp_path / "store" / "TERM").write_bytes(written)
    assert Store(root, "m", 2).term == 5


def test_one_that_was_followed_cannot_commit(root: str, source: Path) -> None:
    older = Store(root, "m", 2)
    committing(older, source, "first")
    second = older.add(source, "second")
    newer = Store(root, "m", 2)
    with pytest.raises(Superseded):
        older.commit(second, 2, None)
    committed = newer.committed()
    assert committed is not None
    assert committed.version.label == "first"
    assert committing(newer, source, "third").epoch == 2


def test_one_that_was_followed_cannot_add(root: str, source: Path) -> None:
    older, newer = Store(root, "m", 2), Store(root, "m", 2)
    with pytest.raises(Superseded):
        older.add(source, "late")
    assert newer.versions() == []


def test_one_that_was_followed_removes_nothing(root: str, source: Path) -> None:
    """What it has added may have been committed by its follower, as a rollback to a stored version."""
    older = Store(root, "m", 2)
    version = older.add(source, "added")
    older.confirm(version)
    newer = Store(root, "m", 2)
    newer.commit(newer.version(version.number), 1, None)
    older.remove(version)
    assert newer.versions() == [version]


def test_what_answers_and_what_is_behind_it_cannot_be_removed(root: str, source: Path) -> None:
    store = Store(root, "m", 2)
    first, second = committing(store, source, "1").version, committing(store, source, "2").version
    for version in (first, second):
        store.remove(version)
    assert store.versions() == [first, second]


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_an_epoch_that_does_not_follow_is_refused(root: str, source: Path, epoch: int) -> None:
    store = Store(root, "m", 2)
    committed = committing(store, source, "first")
    with pytest.raises(StoreFailed, match=f"epoch {epoch} does not follow epoch 1"):
        store.commit(committed.version, epoch, None)
    assert store.committed() == committed


def test_a_version_that_is_not_stored_is_not_committed(root: str) -> None:
    store = Store(root, "m", 2)
    with pytest.raises(StoreFailed, match="version 7 is not stored"):
        store.commit(Version(number=7), 1, None)
    assert store.committed() is None


def test_a_store_that_was_emptied_is_not_taken_for_ones_own(root: str, tmp_path: Path) -> None:
    store = Store(root, "m", 2)
    (tmp_path / "store" / "TERM").unlink()
    with pytest.raises(StoreFailed, match="somebody has emptied it"):
        store.check_term()
    with pytest.raises(StoreFailed):
        store.commit(BUILT_IN, 1, None)


@pytest.mark.parametrize("damaged", [b"one", b"", b"\xff", b"3 abc", b"3 " + 32 * b"/"])
def test_a_damaged_term_is_store_failed(root: str, tmp_path: Path, damaged: bytes) -> None:
    Store(root, "m", 2)
    (tmp_path / "store" / "TERM").write_bytes(damaged)
    with pytest.raises(StoreFailed, match="TERM is damaged"):
        Store(root, "m", 2)


def test_two_never_give_out_one_number(root: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one has looked which numbers are taken, and is stopped before it takes the next."""
    older, newer, taken = Store(root, "m", 2), list[Store](), list[Version]()
    check = Store.check_term

    def stopped(store: Store) -> None:
        check(store)
        if store is older and not newer:
            newer.append(Store(root, "m", 2))
            taken.append(newer[0].add(source, "newer"))
            newer[0].confirm(taken[0])

    monkeypatch.setattr(disk.Disk, "alone", unlocked)
    monkeypatch.setattr(Store, "check_term", stopped)
    if root.startswith(elsewhere.SCHEME):
        with pytest.raises(Superseded):
            older.add(source, "older")
    else:
        with pytest.raises(StoreFailed, match="exists"):
            older.add(source, "older")
    assert newer[0].versions() == taken
    with newer[0].open(taken[0]) as file:
        assert file.read() == source.read_bytes()


def unlocked(_: object) -> Unlocked:
    return Unlocked()


class Unlocked:
    """As on a file system where locks do nothing."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def in_a_child(work: Callable[[], None]) -> int:
    """Its pid; it stops itself, or ends, by what it does."""
    child = os.fork()
    if not child:
        try:
            work()
        except Superseded:
            os._exit(11)
        except BaseException:
            os._exit(12)
        os._exit(0)
    return child


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Those that a test leaves behind are ended."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_one_that_is_stopped_before_its_commit_and_wakes_after_its_follower_commits_nothing(
    tmp_path: Path, source: Path
) -> None:
    older = Store(tmp_path / "store", "m", 2)
    first = committing(older, source, "first")
    second = older.add(source, "second")

    def work() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        older.commit(second, 2, first.version)

    child = in_a_child(work)
    os.waitpid(child, os.WUNTRACED)
    newer = Store(tmp_path / "store", "m", 2)
    committed = committing(newer, source, "third")
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
    assert newer.committed() == committed
    assert [version.label for version in newer.versions()] == ["first", "third"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_one_that_is_stopped_while_it_commits_keeps_its_follower_waiting_and_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, children: list[int]
) -> None:
    older = Store(tmp_path / "store", "m", 2)
    version = older.add(source, "first")
    rename = Path.replace

    def stopping(path: Path, target: Path) -> Path:
        if target.name == "CURRENT":
            os.kill(os.getpid(), signal.SIGSTOP)
        return rename(path, target)

    def work() -> None:
        monkeypatch.setattr(Path, "replace", stopping)
        older.commit(version, 1, None)

    children.append(in_a_child(work))
    os.waitpid(children[0], os.WUNTRACED)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "LOCK_WAIT_S", 0.1)
        with pytest.raises(StoreFailed, match=r"store/LOCK is locked .* by another process, which is stopped"):
            Store(tmp_path / "store", "m", 2)
    os.kill(children[0], signal.SIGCONT)
    assert os.waitpid(children.pop(), 0)[1] == 0
    committed = Store(tmp_path / "store", "m", 2).committed()
    assert committed is not None, "it was the only one: its commit counts"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_lock_of_one_that_was_killed_is_free(tmp_path: Path, children: list[int]) -> None:
    Store(tmp_path / "store", "m", 2)

    def work() -> None:
        with (tmp_path / "store" / "LOCK").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.kill(os.getpid(), signal.SIGSTOP)

    child = in_a_child(work)
    os.waitpid(child, os.WUNTRACED)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert Store(tmp_path / "store", "m", 2).term == 2


def test_threads_of_one_store_do_not_get_in_each_others_way(root: str, source: Path) -> None:
    store, versions = Store(root, "m", 100), list[Version]()

    def add() -> None:
        version = store.add(source, "")
        store.confirm(version)
        versions.append(version)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version.number for version in versions) == list(range(1, 9))
    assert store.versions() == sorted(versions, key=lambda version: version.number)


def test_a_lock_is_taken_soon_after_it_is_free(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "m", 2)
    with (tmp_path / "store" / "LOCK").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.2, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        began = time.monotonic()
        store.commit(BUILT_IN, 1, None)
        assert time.monotonic() - began >= 0.1


def test_only_its_user_can_hold_the_lock(tmp_path: Path) -> None:
    """A lock needs no more than to read the file; older stores had one that everybody could."""
    Store(tmp_path / "store", "m", 2)
    lock = tmp_path / "store" / "LOCK"
    lock.chmod(0o644)
    Store(tmp_path / "store", "m", 2)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (lock, lock.parent)] == [0o600, 0o700]
