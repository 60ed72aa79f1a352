"""A change ends by itself, whether its caller waits or not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aoti_serve.cluster.coordinator import course as course_module
from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.membership.liveness import LiveActors
from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import CommitUnknown, NothingToRollBack, StoreFailed, Unavailable, UploadFailed
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.timeouts import SwapDeadlines
from aoti_serve.weights.version import BUILT_IN, Committed, MergedAdapter, Version
from tests.unit.cluster.membership.members import Cluster
from tests.unit.weights.store.crasher import content


class SlowLog(AuditLog):
    """The disk takes its time with the first line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.goes_on = threading.Event()

    def write(self, **facts: object) -> None:
        self.goes_on.wait(10)
        super().write(**facts)


async def newest() -> None:
    """There is no newer coordinator."""


@asynccontextmanager
async def changing(tmp_path: Path) -> AsyncIterator[tuple[Changes, Store, MemberServer]]:
    """Changes of a store, with one replica."""
    cluster, store = Cluster(), Store(tmp_path / "store", "m", 4)
    server = await cluster.start(Committed(epoch=0, version=BUILT_IN))
    try:
        await cluster.add("r0", runners=1)
        yield Changes("m", store, server, AuditLog(store.audit_path)), store, server
    finally:
        await cluster.close()


def audited(store: Store) -> list[dict[str, Any]]:
    assert store.audit_path is not None
    return [json.loads(line) for line in store.audit_path.read_text().splitlines()]


class Ended(BaseException):
    """In the place of the end of the process."""


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_commit_of_which_nobody_can_tell_ends_the_process_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Members keep what they have staged, and the store what was added: the next coordinator reads what stands."""
    (tmp_path / "file").write_bytes(content(1))
    found, over = list[object](), threading.Event()

    def no_answer(*_: object) -> None:
        if how == "hangs":
            over.wait(10)
        raise CommitUnknown(path="here", epoch=1, detail="the store does not answer")

    async with changing(tmp_path) as (changes, store, server):

        def end(status: int) -> None:
            target = server.table.target
            assert target.staging is not None
            found.extend([status, target.committed.epoch, store.file(target.staging.version).exists()])
            found.extend(line["outcome"] for line in audited(store))
            over.set()
            raise Ended

        monkeypatch.setattr(course_module, "COMMIT_S", 0.2 if how == "hangs" else 10)
        monkeypatch.setattr(store, "commit", no_answer)
        monkeypatch.setattr(os, "_exit", end)
        with pytest.raises(Ended):
            await changes.swap(Attempt("swap", "me"), lambda _: store.add(tmp_path / "file", ""), wait=True)
    assert found == [1, 0, True, "begun", "unknown"]


async def test_the_same_bytes_again_change_nothing_and_keep_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(1))
    (tmp_path / "more").write_bytes(content(2))
    async with changing(tmp_path) as (changes, store, server):

        def swap(name: str) -> Awaitable[WeightsStatus]:
            def admit(current: Version) -> Version:
                return store.add(tmp_path / name, name, answers=current)

            return changes.swap(Attempt("swap", "me", name), admit, wait=True)

        assert [(await swap(name)).unchanged for name in ("file", "more")] == [False, False]
        before = changes.status()
        after = await swap("more")
        assert (after.unchanged, changes.status().unchanged) == (True, False)
        assert (after.current, after.previous, after.epoch) == (before.current, before.previous, before.epoch)
        assert after.last is not None
        assert (after.last.outcome, after.last.version, after.last.error) == ("unchanged", 2, None)
        assert [line["outcome"] for line in audited(store)][-2:] == ["begun", "unchanged"]
        assert server.table.target.staging is None
        assert (await changes.rollback(Attempt("rollback", "me"), None, wait=True)).current.number == 1
        with pytest.raises(NothingToRollBack, match="version 1 answers already"):
            await changes.rollback(Attempt("rollback", "me"), 1, wait=True)


async def test_a_change_has_one_word_and_one_id_in_the_story_the_status_and_the_audit_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(1))
    async with changing(tmp_path) as (changes, store, server):
        await changes.swap(Attempt("swap", "me"), lambda _: store.add(tmp_path / "file", ""), wait=True)
        (swap, *_), begun = audited(store), len(server.story())
        last = (await changes.rollback(Attempt("rollback", "me"), 0, wait=True)).last
        assert last is not None
        assert {line["id"] for line in audited(store)} == {swap["id"], last.id}
        told = [[event.event for event in part] for part in (server.story()[:begun], server.story()[begun:])]
    assert told[0].count(f"swap {swap['id']}: staging version 1") == 1
    assert told[1].count(f"rollback {last.id}: staging version 0") == 1
    assert [event for event in told[1] if event.startswith(("swap", "rollback"))] == [
        event for event in told[1] if event.startswith(f"rollback {last.id}: ")
    ]


async def test_the_audit_log_names_the_adapter_and_its_base(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(1))
    adapter = MergedAdapter(base=3, digest="ad")
    async with changing(tmp_path) as (changes, store, _):
        attempt = Attempt("swap", "me")
        after = await changes.swap(attempt, lambda _: store.add(tmp_path / "file", "", adapter=adapter), wait=True)
    assert after.current.adapter == adapter
    assert [line["adapter"] for line in audited(store)] == [None, {"base": 3, "digest": "ad"}]


async def test_an_upload_that_fails_is_in_the_audit_log_and_in_the_status(tmp_path: Path) -> None:
    async with changing(tmp_path) as (changes, store, _):
        attempt = Attempt("swap", "me", "step 7", "upload")
        await changes.note_failed(attempt, UploadFailed(detail="ClientDisconnect"))
        last = changes.status().last
    assert last is not None
    assert (last.id, last.outcome) == (attempt.id, "failed")
    assert last.error == "the upload was not finished, nothing has changed: ClientDisconnect"
    [line] = audited(store)
    assert {"who": "me", "label": "step 7", "source": "upload", "outcome": "failed"}.items() <= line.items()
    assert line["error"].startswith("UploadFailed: ")


async def test_where_the_audit_log_cannot_be_written_the_status_and_the_log_have_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = MemberServer(1, Committed(epoch=0, version=BUILT_IN), SwapDeadlines(), LiveActors("app", ()), newest)
    log = AuditLog(tmp_path / "gone" / "audit.jsonl")
    changes = Changes("m", Store(tmp_path / "store", "m", 2), server, log)
    with caplog.at_level(logging.WARNING, "aoti_serve.audit"):
        await changes.note_failed(Attempt("swap", "me"), StoreFailed(path="store", detail="No space left on device"))
    last = changes.status().last
    assert last is not None
    assert last.error is not None
    assert "No space left" in last.error
    assert '"error": "StoreFailed: ' in caplog.text


async def test_each_change_leaves_one_line_when_it_has_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(content(1))

    def refuse(_: Version) -> Version:
        raise UploadFailed(detail="line\nbreak")

    async with changing(tmp_path) as (changes, store, _):
        caplog.set_level(logging.INFO, "ray.serve")
        await changes.swap(Attempt("swap", "me", id="one"), lambda _: store.add(tmp_path / "file", ""), wait=True)
        await changes.rollback(Attempt("rollback", "me", id="two"), None, wait=True)
        with pytest.raises(UploadFailed):
            await changes.swap(Attempt("swap", "me", id="three"), refuse, wait=True)
    done, undone, failed = [line for line in caplog.messages if line.startswith("model 'm': ")]
    assert done == "model 'm': swap one to version 1: committed, epoch 1"
    assert undone == "model 'm': rollback two to version 0: committed, epoch 2"
    assert failed.startswith("model 'm': swap three: failed, epoch 2: UploadFailed(")
    assert failed.isprintable()


def admitted(current: Version) -> Version:
    return Version(number=current.number + 1, digest="x")


async def test_a_caller_that_goes_as_it_begins_locks_nobody_out(tmp_path: Path) -> None:
    log = SlowLog(tmp_path / "audit.jsonl")
    server = MemberServer(1, Committed(epoch=0, version=BUILT_IN), SwapDeadlines(), LiveActors("app", ()), newest)
    changes = Changes("m", Store(tmp_path / "store", "m", 2), server, log)
    caller = asyncio.create_task(changes.swap(Attempt("swap", "somebody"), admitted, wait=True))
    while changes.status().swap is None:
        await asyncio.sleep(0)
    caller.cancel()
    log.goes_on.set()
    async with asyncio.timeout(10):
        while changes.status().swap is not None:
            await server.changed(1.0)
    with pytest.raises(Unavailable, match="no live replica"):
        await changes.swap(Attempt("swap", "somebody else"), admitted, wait=True)
