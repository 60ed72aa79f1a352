"""Uploads that nobody goes on with are dropped, by our own clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.uploads import IDLE_UPLOAD_S, Uploads
from aoti_serve.errors import Unavailable
from aoti_serve.weights.store.store import Store


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
