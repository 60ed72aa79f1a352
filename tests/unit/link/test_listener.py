"""Where a replica's socket lies, and what becomes of those that killed replicas have left."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aoti_serve.link.listener import PREFIX, SOCKET, STARTING_S, socket_folder

LONG_AGO = STARTING_S + 1


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where such folders lie; its path is short, as those of sockets must be."""
    place = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        yield listener


def folder_of(listener: socket.socket, place: Path, name: str, seconds_ago: float) -> Path:
    folder = place / f"{PREFIX}{name}"
    folder.mkdir()
    listener.bind(str(folder / SOCKET))
    then = folder.stat().st_mtime - seconds_ago
    os.utime(folder, (then, then))
    return folder


def test_only_its_user_may_enter_it() -> None:
    assert stat.S_IMODE(socket_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize(("seconds_ago", "stays"), [(LONG_AGO, False), (0, True)], ids=["killed", "starting"])
def test_one_in_which_nobody_listens_is_removed_unless_it_is_new(
    place: Path, listener: socket.socket, seconds_ago: float, stays: bool
) -> None:
    folder = folder_of(listener, place, "r", seconds_ago)
    socket_folder()
    assert folder.exists() == stays


def test_one_in_which_somebody_listens_stays(place: Path, listener: socket.socket) -> None:
    folder = folder_of(listener, place, "r", LONG_AGO)
    listener.listen()
    empty = socket_folder()
    socket_folder()
    assert folder.exists()
    assert empty.exists()
