"""Labels through the coordinator: stored, told to the gateways, audited."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.labels import Labelling
from aoti_serve.errors import LabelMoved, StoreDamaged
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.labels import LabelChange
from tests.unit.cluster.coordinator.test_changes import audited, changing
from tests.unit.weights.store.crasher import commit_two, content


def moved(name: str, version: int | None, expected: int | None) -> LabelChange:
    return LabelChange(name=name, version=version, expected=expected)


async def test_a_change_is_in_the_status_at_the_members_and_in_the_audit_log(tmp_path: Path) -> None:
    async with changing(tmp_path) as (changes, store, server):
        commit_two(store, tmp_path, "v")
        labelling, revision = Labelling(store, server, AuditLog(store.audit_path)), server.revision
        assert await labelling.change(moved("stable", 1, None), "me") == {"stable": 1}
        assert server.revision > revision
        assert await labelling.change(moved("stable", 1, None), "me") == {"stable": 1}, "a repeat"
        with pytest.raises(LabelMoved):
            await labelling.change(moved("stable", 2, 0), "me")
        assert changes.status().labels == server.table.target.labels == {"stable": 1}
        assert await labelling.change(moved("stable", None, 1), "me") == {}
        lines = [line for line in audited(store) if line["action"] == "label"]
    assert {(line["model"], line["who"], line["label"]) for line in lines} == {("m", "me", "stable")}
    assert [(line["from"], line["to"], line["outcome"]) for line in lines] == [
        (None, 1, "committed"),
        (1, 1, "unchanged"),
        (None, 2, "failed"),
        (1, None, "committed"),
    ]
    assert lines[2]["error"].startswith("LabelMoved: ")


async def test_of_many_that_expect_the_same_one_wins(tmp_path: Path) -> None:
    async with changing(tmp_path) as (_, store, server):
        commit_two(store, tmp_path, "v")
        labelling = Labelling(store, server, AuditLog(store.audit_path))
        done = await asyncio.gather(
            *(labelling.change(moved("stable", number % 3, None), "me") for number in range(9)), return_exceptions=True
        )
        stands = store.labels().root["stable"]
        assert [result == {"stable": stands} for result in done] == [number % 3 == stands for number in range(9)]
        assert server.table.target.labels == {"stable": stands}


async def test_labels_outlive_a_coordinator_and_a_swap_but_not_their_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with changing(tmp_path) as (changes, store, server):
        commit_two(store, tmp_path, "v")
        for name, number in (("one", 1), ("two", 2)):
            store.relabel(LabelChange(name=name, version=number))
        (tmp_path / "store" / "versions" / "1" / "version.json").unlink()
        with caplog.at_level(logging.WARNING, "ray.serve"):
            await Labelling(store, server, AuditLog(None)).publish_stored()
        assert "label 'one' is dropped: version 1 is not stored" in caplog.text
        assert server.table.target.labels == {"two": 2}
        (tmp_path / "more").write_bytes(content(9))
        store._known = None  # its epoch begins anew, as the cluster's does
        await changes.swap(Attempt("swap", "me"), lambda _: store.add(tmp_path / "more", ""), wait=True)
        assert server.table.target.labels == {"two": 2}


async def test_labels_that_cannot_be_read_keep_no_weights_from_answering(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with changing(tmp_path) as (changes, store, server):
        (tmp_path / "store" / "LABELS").write_text("no JSON")
        labelling = Labelling(store, server, AuditLog(None))
        await labelling.publish_stored()
        assert "model 'm' has no labels: " in caplog.text
        assert changes.status().labels == {}
        with pytest.raises(StoreDamaged):
            await labelling.change(LabelChange(name="stable", version=0), "me")
