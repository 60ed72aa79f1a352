"""Folders of processes: whatever ends one, the next one leaves nothing of it."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aoti_serve.folders import ProcessFolder, make_private

MAKING = (
    "from aoti_serve.folders import ProcessFolder; f = ProcessFolder('of-test-'); print(f.path, flush=True); input()"
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def another_process() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """One that has made a folder, and a file in it, and waits."""
    with subprocess.Popen([sys.executable, "-c", MAKING], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        (path / "file").write_bytes(b"content")
        try:
            yield process, path
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("mode", "private"), [(0o700, True), (0o755, True), (0o711, True), (0o720, False), (0o702, False), (0o777, False)]
)
def test_one_that_others_can_only_read_is_closed_and_one_that_they_can_write_to_is_refused(
    tmp_path: Path, mode: int, private: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert make_private(folder) == private
    assert stat.S_IMODE(folder.stat().st_mode) == (0o700 if private else mode)


def test_what_is_no_folder_of_this_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_private(tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "file").touch()
    assert not make_private(tmp_path / "link")
    assert not make_private(tmp_path / "file")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not make_private(tmp_path / "new")


def test_one_is_its_users_alone_and_goes_with_its_object(place: Path) -> None:
    folder = ProcessFolder("of-test-")
    (folder.path / "file").touch()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    removed = ProcessFolder("of-test-")
    removed.remove()
    assert [*place.iterdir()] == [folder.path]
    del folder
    gc.collect()
    assert not [*place.iterdir()]


def test_those_of_living_processes_stay_and_those_of_killed_ones_go(place: Path) -> None:
    with another_process() as (process, path):
        here = ProcessFolder("of-test-")
        assert path.exists()
        process.kill()
        process.wait()
        assert path.exists(), "nobody has removed it yet"
        after = ProcessFolder("of-test-")
        assert {*place.iterdir()} == {here.path, after.path}


def test_a_process_that_ends_gently_leaves_none(place: Path) -> None:
    with another_process() as (process, path):
        process.communicate("\n")
        assert not path.exists()


def test_where_folders_have_no_locks_they_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # as NFS does of what is not open for writing

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folders = [ProcessFolder("of-test-") for _ in range(2)]
    assert all(folder.path.is_dir() for folder in folders)


def test_what_is_not_such_a_folder_stays(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "of-test-link").symlink_to(place / "elsewhere")
    (place / "of-test-file").touch()
    (place / "other").mkdir()
    ProcessFolder("of-test-").remove()
    assert sorted(path.name for path in place.iterdir()) == ["elsewhere", "of-test-file", "of-test-link", "other"]
