"""A disk that is really full, and a folder that really cannot be written: a clear error, and the old version whole."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.sources.source import fetch_to
from aoti_serve.weights.store.reserve import RESERVE_BYTES
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Version
from tests.unit.weights.store.crasher import content

NOBODY = 65534


def large(path: Path, nbytes: int) -> Path:
    """A whole safetensors file; sparse, so that it fits anywhere."""
    header = f'{{"w":{{"dtype":"U8","shape":[{nbytes}],"data_offsets":[0,{nbytes}]}}}}'.encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + nbytes)
    return path


def committed_in(folder: Path) -> tuple[Store, Version]:
    """A store in which a small version answers."""
    store = Store(folder / "store", "m", 2)
    upload = store.incoming()
    upload.write_bytes(content(1))
    version = store.add(upload, "first")
    store.commit(version, 1, None)
    return store, version


def assert_only(folder: Path, version: Version) -> None:
    store = Store(folder / "store", "m", 2)
    assert store.versions() == [version]
    with store.open(version) as file:
        assert file.read() == content(1)
    committed = store.committed()
    assert committed is not None
    assert committed.version == version
    assert [path.name for path in (folder / "store" / "versions").iterdir()] == ["1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; the limit on a file's size is tested by all")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def in_a_child(work: Callable[[], None]) -> int:
    """The exit status of a process that does `work` and nothing else: what it gives up does not come back."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_that_does_not_fit_is_refused_before_it_is_copied(small_disk: Path, tmp_path: Path) -> None:
    store, version = committed_in(small_disk)
    with pytest.raises(StoreFailed, match=r"the disk is full: 2097\d\d\d bytes are needed, \d+ are free: make room"):
        store.add(large(tmp_path / "large", 2**21), "large")
    assert_only(small_disk, version)


def test_a_source_that_does_not_fit_is_refused_before_it_is_fetched(small_disk: Path, tmp_path: Path) -> None:
    store, version = committed_in(small_disk)
    large(tmp_path / "large", 2**21)
    upload = store.incoming()
    with pytest.raises(StoreFailed, match="bytes are needed"):
        fetch_to(str(tmp_path / "large"), [str(tmp_path)], upload, 2**30)
    assert upload.stat().st_size == 0
    assert_only(small_disk, version)


def test_an_add_onto_a_full_disk_is_store_failed(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, version = committed_in(small_disk)
    source = large(small_disk / "source", 4096)
    fill(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 0, 2**40))
    with pytest.raises(StoreFailed, match=r"No space left on device.*: make room on this disk, or .*`keep_bytes`"):
        store.add(source, "second")
    monkeypatch.undo()
    (small_disk / "filling").unlink()
    assert_only(small_disk, version)


def two_versions(folder: Path) -> tuple[Store, Version, Version]:
    """A store in which the second version answers, and the first one is the way back."""
    store, first = committed_in(folder)
    upload = store.incoming()
    upload.write_bytes(content(2))
    second = store.add(upload, "second")
    store.commit(second, 2, first)
    return store, first, second


def test_a_rollback_on_a_full_disk_is_made_as_often_as_it_is_asked_for(small_disk: Path) -> None:
    store, first, second = two_versions(small_disk)
    fill(small_disk)
    for epoch in range(3, 9, 2):
        store.commit(first, epoch, second)
        store.commit(second, epoch + 1, first)
    again = Store(small_disk / "store", "m", 2)
    assert again.committed() == store.committed()
    assert again.commit(first, 9, second).version == first


def test_the_reserve_is_taken_again_when_there_is_room(small_disk: Path) -> None:
    store, first, second = two_versions(small_disk)
    reserve = small_disk / "store" / "RESERVE"
    assert reserve.stat().st_size == RESERVE_BYTES
    fill(small_disk)
    reserve.unlink()
    with (small_disk / "more").open("wb", buffering=0) as file:
        file.write(bytes(RESERVE_BYTES))
    with pytest.raises(StoreFailed, match="No space left"):
        store.commit(first, 3, second)
    committed = store.committed()
    assert committed is not None
    assert committed.version == second
    assert not reserve.exists()
    (small_disk / "filling").unlink()
    assert store.commit(first, 3, second).version == first
    assert reserve.stat().st_size == RESERVE_BYTES


def test_a_coordinator_comes_back_on_a_full_disk_without_a_reserve(small_disk: Path) -> None:
    store, _, second = two_versions(small_disk)
    (small_disk / "store" / "RESERVE").unlink()
    fill(small_disk)
    again = Store(small_disk / "store", "m", 2)
    assert again.term == store.term + 1
    committed = again.committed()
    assert committed is not None
    assert committed.version == second


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("nbytes", [pytest.param(40, id="the-weights"), pytest.param(120, id="the-record")])
def test_a_limit_on_files_that_strikes_in_the_middle_of_a_write(tmp_path: Path, nbytes: int) -> None:
    """What every user can have: the disk says no after `nbytes` bytes of a file."""
    store, version = committed_in(tmp_path)
    (tmp_path / "source").write_bytes(content(2))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
        with pytest.raises(StoreFailed):
            store.add(tmp_path / "source", "second")

    assert in_a_child(work) == 0
    assert_only(tmp_path, version)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_folder_that_cannot_be_written_is_store_failed() -> None:
    """As an ordinary user, since root may write anywhere."""
    folder = Path(tempfile.mkdtemp())
    store, version = committed_in(folder)
    (folder / "source").write_bytes(content(2))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def work() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setuid(NOBODY)
        with pytest.raises(StoreFailed, match="Permission denied"):
            Store(folder / "store", "m", 2)
        with pytest.raises(StoreFailed, match="Permission denied"):
            Store(folder / "new", "m", 2)
        for write in (
            lambda: store.add(folder / "source", "second"),
            lambda: store.commit(version, 2, None),
            store.incoming,
        ):
            with pytest.raises(StoreFailed, match="Permission denied"):
                write()
        assert store.versions() == [version]

    try:
        assert in_a_child(work) == 0
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
    assert_only(folder, version)
    shutil.rmtree(folder)
