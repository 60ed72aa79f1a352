"""Uploads that nobody goes on with are dropped, by our own clock."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.uploads import IDLE_UPLOAD_S, Uploads
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import LedElsewhere, Unavailable
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Version
from tests.unit.cluster.coordinator.succession.test_standby import Application, application
from tests.unit.weights.store.crasher import content


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(Store(tmp_path / "store", "m", 2))


def after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    then = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: then)


def test_one_that_grows_stays_and_one_that_does_not_is_dropped(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt("swap", "somebody who goes")
    (idle, left), (busy, grows) = uploads.open(attempt), uploads.open(Attempt("swap", "me"))
    assert uploads.drop_idle() == []
    after(IDLE_UPLOAD_S + 1, monkeypatch)
    grows.write_bytes(b"more")
    assert uploads.drop_idle() == [attempt]
    assert uploads.take(busy) == grows
    assert not left.exists()
    with pytest.raises(Unavailable, match="lost"):
        uploads.take(idle)


def test_a_file_server_with_a_slow_clock_drops_nothing(uploads: Uploads) -> None:
    upload, path = uploads.open(Attempt("swap", "me"))
    os.utime(path, (0, 0))
    uploads.drop_idle()
    assert uploads.take(upload) == path


def test_one_whose_file_cannot_be_looked_at_stands_still(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt("swap", "me")
    _, path = uploads.open(attempt)
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"no folder any more, so a look at the file is an error other than that it is not there")
    assert uploads.drop_idle() == []
    after(IDLE_UPLOAD_S + 1, monkeypatch)
    assert uploads.drop_idle() == [attempt]


def test_one_that_is_dropped_names_its_attempt_once(uploads: Uploads) -> None:
    attempt = Attempt("swap", "me")
    upload, path = uploads.open(attempt)
    assert [uploads.drop(upload), uploads.drop(upload)] == [attempt, None]
    assert not path.exists()


def test_one_that_was_taken_is_no_longer_dropped(uploads: Uploads) -> None:
    upload, _ = uploads.open(Attempt("swap", "me"))
    path = uploads.take(upload)
    assert uploads.drop(upload) is None
    assert path.exists()


async def handed(application: Application, path: Path, began: asyncio.Event | None = None) -> WeightsStatus:
    """A swap that makes a version of an upload's file."""

    def admit(_: Version) -> Version:
        return application.store.add(path, "handed")

    if began is not None:
        began.set()
    return await application.changes.swap(Attempt("swap", "me"), admit, wait=True)


async def test_one_whose_swap_is_refused_leaves_nothing_whoever_refuses_it(tmp_path: Path) -> None:
    async with application(tmp_path / "store", "blue") as blue:
        await blue.swap(1)
        uploads = Uploads(blue.store)
        async with application(tmp_path / "store", "green"):
            upload, path = uploads.open(Attempt("swap", "me"))
            path.write_bytes(content(2))
            await blue.look()
            with pytest.raises(LedElsewhere):
                await uploads.handed_to(handed(blue, uploads.take(upload)), path)
            assert not path.exists()


async def test_one_whose_caller_goes_away_is_swapped_to(tmp_path: Path) -> None:
    async with application(tmp_path / "store", "blue") as blue:
        uploads, began = Uploads(blue.store), asyncio.Event()
        upload, path = uploads.open(Attempt("swap", "me"))
        path.write_bytes(content(2))
        caller = asyncio.create_task(uploads.handed_to(handed(blue, uploads.take(upload), began), path))
        await began.wait()
        assert blue.changes.busy
        caller.cancel()
        while blue.changes.busy:
            await blue.cluster.server.changed(1.0)
        assert blue.changes.status().current.label == "handed"
