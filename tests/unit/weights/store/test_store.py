"""Versions on disk: they grow, survive, are retired, and no failure leaves half of anything."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from aoti_serve.errors import DigestMismatch, StoreFailed, UnknownWeightsVersion
from aoti_serve.weights.files.index import file_digest
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import BUILT_IN, Version


class Crash(BaseException):
    """The process ends here: nothing in the store may catch it."""


FAILURES = [
    pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="disk-full"),
    pytest.param(Crash(), id="crash"),
]


def weights(folder: Path, value: float) -> Path:
    path = folder / f"{value}.safetensors"
    save_file({"w": np.full(4, value, np.float32)}, path)
    return path


def store_in(folder: Path, keep: int = 8) -> Store:
    return Store(folder / "store", "m", keep)


def grown(folder: Path, count: int, keep: int = 8) -> tuple[Store, list[Version]]:
    """A store in which `count` versions have been committed, one after the other."""
    store, versions = store_in(folder, keep), list[Version]()
    for number in range(1, count + 1):
        version = store.add(weights(folder, number), f"v{number}")
        store.commit(version, number, versions[-1] if versions else None)
        versions.append(version)
    return store, versions


def assert_whole(store: Store) -> None:
    """Every version that the store lists or has committed can be read back, bit by bit."""
    committed = store.committed()
    assert committed is not None
    named = [version for version in (committed.version, committed.previous) if version is not None]
    for version in [*store.versions(), *named]:
        with store.open(version) as file:
            assert hashlib.sha256(file.read()).hexdigest() == version.digest


class Failing:
    """Raises `error` at the `step`-th of the calls by which the store changes the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
        self.step = step
        self.error = error
        self.seen = 0
        for module, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (os, "mkdir"),
            (os, "unlink"),
            (os, "rmdir"),
            (shutil, "copyfile"),
        ):
            monkeypatch.setattr(module, name, self.counted(getattr(module, name)))

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            self.seen += 1
            if self.seen - 1 == self.step:
                raise self.error
            return call(*arguments, **options)

        return counting


def failing_everywhere(
    monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException, attempt: Callable[[Path], Callable[[], object]]
) -> list[tuple[Path, bool]]:
    """Make `attempt` once for each step at which it can fail; the folders, and whether it raised."""
    outcomes = []
    for step in itertools.count():
        place = folder / str(step)
        place.mkdir()
        write = attempt(place)
        with monkeypatch.context() as patch:
            failing = Failing(patch, step, error)
            try:
                write()
            except (StoreFailed, Crash):
                raised = True
            else:
                raised = False
        if failing.seen <= step:
            assert not raised
            break
        outcomes.append((place, raised))
    assert len(outcomes) >= 3
    return outcomes


def test_a_new_store_has_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path / "deep" / "er")
    assert (store.committed(), store.versions()) == (None, [])


def test_a_version_is_the_file_that_was_added(tmp_path: Path) -> None:
    source = weights(tmp_path, 1)
    store = store_in(tmp_path)
    version = store.add(source, "first")
    store.confirm(version)
    assert (version.number, version.label, version.digest) == (1, "first", file_digest(source))
    assert (version.nbytes, version.tensors) == (source.stat().st_size, 1)
    assert store_in(tmp_path).file(version).read_bytes() == source.read_bytes()
    assert store_in(tmp_path).versions() == [version]


def test_versions_grow(tmp_path: Path) -> None:
    _, versions = grown(tmp_path, 3)
    assert [version.number for version in versions] == [1, 2, 3]
    assert store_in(tmp_path).add(weights(tmp_path, 4), "").number == 4


def test_a_number_is_never_given_out_twice(tmp_path: Path) -> None:
    """A replica that still holds what was staged under a number would take it for what comes under it next."""
    store, _ = grown(tmp_path, 1)
    aborted = store.add(weights(tmp_path, 2), "aborted")
    store.remove(aborted)
    assert store.add(weights(tmp_path, 3), "next").number > aborted.number


def test_a_number_is_not_given_out_again_after_a_restart_either(tmp_path: Path) -> None:
    store, _ = grown(tmp_path, 1)
    aborted = store.add(weights(tmp_path, 2), "aborted")
    store.remove(aborted)
    assert store_in(tmp_path).add(weights(tmp_path, 3), "next").number > aborted.number


def test_versions_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store, _ = grown(tmp_path, 11, keep=11)
    assert [version.number for version in store.versions()] == list(range(1, 12))


def test_what_was_committed_is_read_back_by_the_next_store(tmp_path: Path) -> None:
    store, (first, second) = grown(tmp_path, 2)
    returned = store.commit(first, 3, second)
    assert (returned.epoch, returned.version, returned.previous) == (3, first, second)
    assert store_in(tmp_path).committed() == returned


def test_a_version_that_was_only_added_is_not_committed(tmp_path: Path) -> None:
    store, [first] = grown(tmp_path, 1)
    store.add(weights(tmp_path, 2), "staged")
    committed = store_in(tmp_path).committed()
    assert committed is not None
    assert committed.version == first


def test_a_version_whose_swap_broke_off_is_no_way_back(tmp_path: Path) -> None:
    """The process ended between the add and the commit; replicas may have refused it."""
    store, [first] = grown(tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "staged")
    again = store_in(tmp_path)
    assert again.versions() == [first]
    with pytest.raises(UnknownWeightsVersion, match=r"version 2 is not stored; available: \[1\]"):
        again.version(second.number)
    assert again.add(weights(tmp_path, 3), "next").number > second.number


def test_a_commit_that_ends_before_it_has_removed_the_mark_is_a_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, [first] = grown(tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "erase", crash)
        with pytest.raises(Crash):
            store.commit(second, 2, first)
    again = store_in(tmp_path)
    assert again.versions() == [first, second]
    third = again.add(weights(tmp_path, 3), "third")
    again.commit(third, 3, second)
    assert again.versions() == [first, second, third]


def test_what_was_never_committed_is_dropped_with_the_others(tmp_path: Path) -> None:
    store, [first] = grown(tmp_path, 1, keep=2)
    store.add(weights(tmp_path, 2), "broke off")
    again = store_in(tmp_path, keep=2)
    third, fourth = (again.add(weights(tmp_path, value), "") for value in (3, 4))
    again.commit(third, 2, first)
    again.commit(fourth, 3, third)
    assert sorted(path.name for path in (tmp_path / "store" / "versions").iterdir()) == ["3", "4"]


def test_the_built_in_weights_can_be_committed_and_have_no_file(tmp_path: Path) -> None:
    store, [first] = grown(tmp_path, 1)
    store.commit(BUILT_IN, 2, first)
    committed = store_in(tmp_path).committed()
    assert committed is not None
    assert (committed.version, committed.previous) == (BUILT_IN, first)


def test_a_version_is_found_by_its_number(tmp_path: Path) -> None:
    store, versions = grown(tmp_path, 2)
    assert store.version(2) == versions[1]
    with pytest.raises(UnknownWeightsVersion, match=r"version 7 is not stored; available: \[1, 2\]"):
        store.version(7)


def test_an_upload_is_moved(tmp_path: Path) -> None:
    store, content = store_in(tmp_path), weights(tmp_path, 1).read_bytes()
    upload = store.incoming()
    upload.write_bytes(content)
    version = store.add(upload, "uploaded")
    assert store.file(version).read_bytes() == content
    assert not upload.exists()


def test_a_file_that_is_no_upload_stays_where_it_is(tmp_path: Path) -> None:
    source = weights(tmp_path, 1)
    store_in(tmp_path).add(source, "")
    assert source.is_file()


def test_uploads_do_not_share_a_place_and_can_be_dropped(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    first, second = store.incoming(), store.incoming()
    assert first != second
    store.discard(first)
    store.discard(first)
    assert (first.exists(), second.exists()) == (False, True)


def test_bytes_that_were_not_promised_are_not_stored(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with pytest.raises(DigestMismatch):
        store.add(weights(tmp_path, 1), "", "0" * 64)
    assert store.versions() == []
    assert store.add(weights(tmp_path, 1), "").number == 1


def test_leftovers_are_ignored_and_cleaned(tmp_path: Path) -> None:
    store, [first] = grown(tmp_path, 1)
    store.incoming().write_bytes(b"half an upload")
    leftover = tmp_path / "store" / "versions" / "2"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half a file")
    (leftover / "version.json.tmp").write_bytes(b"{")
    (tmp_path / "store" / "CURRENT.tmp").write_bytes(b"{")

    again = store_in(tmp_path)
    assert again.versions() == [first]
    assert list((tmp_path / "store" / "incoming").iterdir()) == []
    second = again.add(weights(tmp_path, 2), "")
    again.commit(second, 2, first)
    assert sorted(path.name for path in again.file(second).parent.iterdir()) == ["version.json", "weights.safetensors"]
    assert_whole(store_in(tmp_path))


def test_the_oldest_versions_are_dropped_with_their_files(tmp_path: Path) -> None:
    store, versions = grown(tmp_path, 5, keep=3)
    assert store.versions() == versions[2:]
    assert sorted(path.name for path in (tmp_path / "store" / "versions").iterdir()) == ["3", "4", "5"]


def test_the_committed_version_and_the_one_before_are_never_dropped(tmp_path: Path) -> None:
    store, versions = grown(tmp_path, 4, keep=4)
    store.commit(versions[0], 5, versions[1])
    for value in (5, 6, 7, 8):
        store.confirm(store.add(weights(tmp_path, value), "added, never committed"))
        store.commit(versions[0], value + 1, versions[1])
    assert [version.number for version in store.versions()] == [1, 2, 5, 6, 7, 8]
    assert_whole(store_in(tmp_path, keep=4))


@settings(max_examples=15)
@given(steps=st.lists(st.tuples(st.sampled_from(["swap", "abort", "rollback"]), st.integers(0, 3)), max_size=10))
def test_whatever_is_done_what_answers_and_what_is_behind_it_stay_whole(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, _ = grown(folder, 1, keep=2)
        for value, (step, choice) in enumerate(steps, 2):
            committed = store.committed()
            assert committed is not None
            stored, epoch = store.versions(), committed.epoch + 1
            if step == "rollback":
                store.commit(stored[choice % len(stored)], epoch, committed.version)
            else:
                version = store.add(weights(folder, value), step)
                if step == "swap":
                    store.commit(version, epoch, committed.version)
                else:
                    store.remove(version)
            assert_whole(store)
            assert len(store.versions()) <= 4
        assert store_in(folder, keep=2).committed() == store.committed()


@pytest.mark.parametrize("error", FAILURES)
def test_a_commit_that_fails_at_any_step_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def attempt(place: Path) -> Callable[[], object]:
        store, [first] = grown(place, 1)
        second = store.add(weights(place, 2), "second")
        return lambda: store.commit(second, 2, first)

    for place, raised in failing_everywhere(monkeypatch, tmp_path, error, attempt):
        store = store_in(place)
        committed = store.committed()
        assert committed is not None
        assert_whole(store)
        if raised and isinstance(error, OSError):
            # Whoever asked is alive, takes the commit for failed, and tells every replica so.
            assert committed.version.number == 1, f"failed at step {place.name}, and yet it is committed"
        assert committed.version.number in (1, 2)


def test_a_commit_is_not_undone_in_words_by_what_comes_after_it(tmp_path: Path) -> None:
    """Whoever hears an error takes the commit for failed; then it must not have been made."""
    store, [first] = grown(tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")
    (tmp_path / "store" / "versions" / "1" / "version.json").write_bytes(b"damaged")
    try:
        store.commit(second, 2, first)
        expected = second
    except StoreFailed:
        expected = first
    committed = store_in(tmp_path).committed()
    assert committed is not None
    assert committed.version == expected


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize(
    "uploaded", [pytest.param(True, id="upload-is-moved"), pytest.param(False, id="file-is-copied")]
)
def test_an_add_that_fails_at_any_step_leaves_only_whole_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, uploaded: bool
) -> None:
    def attempt(place: Path) -> Callable[[], object]:
        store, _ = grown(place, 1)
        source = weights(place, 2)
        if uploaded:
            upload = store.incoming()
            upload.write_bytes(source.read_bytes())
            source = upload
        return lambda: store.add(source, "second")

    for place, raised in failing_everywhere(monkeypatch, tmp_path, error, attempt):
        assert raised
        store = store_in(place)
        committed = store.committed()
        assert committed is not None
        assert committed.version.number == 1
        assert_whole(store)
        third = store.add(weights(place, 3), "third")
        store.commit(third, 2, committed.version)
        assert_whole(store_in(place))


@pytest.mark.parametrize("error", FAILURES)
def test_a_retirement_that_fails_at_any_step_leaves_only_whole_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def attempt(place: Path) -> Callable[[], object]:
        store, versions = grown(place, 2, keep=2)
        third = store.add(weights(place, 3), "third")
        return lambda: store.commit(third, 3, versions[-1])

    for place, _ in failing_everywhere(monkeypatch, tmp_path, error, attempt):
        assert_whole(store_in(place, keep=2))


def test_nothing_is_renamed_before_it_is_on_the_disk_and_no_folder_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kill -9 cannot show, and a power cut would."""
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tmp_path}/")))
        fsync(descriptor)

    def replacing(source: str, target: str) -> None:
        events.append(("rename", str(target).removeprefix(f"{tmp_path}/")))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    store = store_in(tmp_path)
    store.commit(store.add(weights(tmp_path, 1), ""), 1, None)
    assert events[-14:] == [
        ("sync", "store/TERM.tmp"),
        ("rename", "store/TERM"),
        ("sync", "store/RESERVE"),
        ("sync", "store"),
        ("sync", "store/versions/1/weights.safetensors"),
        ("sync", "store/versions/1/staged.tmp"),
        ("rename", "store/versions/1/staged"),
        ("sync", "store/versions/1/version.json.tmp"),
        ("rename", "store/versions/1/version.json"),
        ("sync", "store/versions/1"),
        ("sync", "store/versions"),
        ("sync", "store/CURRENT.tmp"),
        ("rename", "store/CURRENT"),
        ("sync", "store"),
    ]


def test_a_copy_that_breaks_off_is_not_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, [first] = grown(tmp_path, 1)

    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(StoreFailed, match="No space left"):
        store.add(weights(tmp_path, 2), "")
    assert store_in(tmp_path).versions() == [first]


@pytest.mark.parametrize(
    "occupied",
    [pytest.param(".", id="root"), pytest.param("versions", id="versions"), pytest.param("incoming", id="in")],
)
def test_a_file_in_the_place_of_a_folder_is_store_failed(tmp_path: Path, occupied: str) -> None:
    path = tmp_path / "store" / occupied
    path.parent.mkdir(exist_ok=True)
    path.write_text("not a folder")
    with pytest.raises(StoreFailed, match=r"weights store .*store: "):
        store_in(tmp_path)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda store, source: store.add(source, ""), id="add"),
        pytest.param(lambda store, source: store.incoming(), id="incoming"),
        pytest.param(lambda store, source: store.commit(BUILT_IN, 1, None), id="commit"),
    ],
)
def test_a_store_that_has_vanished_is_store_failed(tmp_path: Path, use: Callable[[Store, Path], object]) -> None:
    source, store = weights(tmp_path, 1), store_in(tmp_path)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StoreFailed):
        use(store, source)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        pytest.param("CURRENT", lambda store: store.committed(), id="current"),
        pytest.param("versions/1/version.json", lambda store: store.versions(), id="version"),
    ],
)
@pytest.mark.parametrize("content", [pytest.param(b"", id="empty"), pytest.param(b'{"epoch": 1', id="half")])
def test_a_damaged_record_is_store_failed(
    tmp_path: Path, name: str, read: Callable[[Store], object], content: bytes
) -> None:
    grown(tmp_path, 1)
    (tmp_path / "store" / name).write_bytes(content)
    with pytest.raises(StoreFailed):
        read(store_in(tmp_path))


def test_a_commit_that_cannot_clean_up_is_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, versions = grown(tmp_path, 2, keep=1)
    version = store.add(weights(tmp_path, 3), "v3")

    def out_of_memory(_: object) -> None:
        raise MemoryError("no room to list them")

    monkeypatch.setattr(Store, "_retire", out_of_memory)
    assert store.commit(version, 3, versions[-1]) == store.committed()
    assert "old versions could not be removed" in caplog.text
