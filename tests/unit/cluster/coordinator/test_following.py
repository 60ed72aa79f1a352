"""A place is followed: from its files to what replicas answer with, and to what the status says."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.candidates import GivenUp
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.coordinator.follow.following import Following, TakeUri
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.config import FollowConfig, WeightsLimits
from aoti_serve.errors import StoreFailed, SwapInProgress, TryAgain, UnknownTensor
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.name_rules import AS_IT_IS, NameRules, ReadingRules
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.sources.follow import FollowStatus
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.target import Exposure, Trial
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.terms import CandidateTerms
from aoti_serve.weights.version import BUILT_IN, Committed
from tests.unit.cluster.coordinator.test_changes import audited
from tests.unit.cluster.membership.members import Cluster
from tests.unit.weights.store.crasher import content

CONSTANTS = Constants(constants=(ConstantSpec(name="w", dtype="uint8", shape=(8,), stride=(1,)),))


class Followed:
    """A model with one replica whose place is `runs`, and what follows it; `restart` makes that anew."""

    def __init__(self, folder: Path, cluster: Cluster, roots: tuple[str, ...]) -> None:
        self.cluster = cluster
        self.place = folder / "runs"
        self.times = iter(range(1, 1000))
        self.terms: CandidateTerms | None = None
        self.rules = AS_IT_IS
        self._folder = folder
        self._roots = roots
        self.restart()

    def restart(self) -> None:
        self.store = Store(self._folder / "store", "m", 4)
        self.changes = Changes("m", self.store, self.cluster.server, AuditLog(self.store.audit_path))
        intake = Intake(self.store, "m", CONSTANTS, WeightsLimits(), self._roots, self.rules)
        self.following = Following(FollowConfig(uri=str(self.place)), intake, self.changes, self.swap_from)

    async def swap_from(self, take: TakeUri, uri: str, options: SwapOptions, who: str) -> WeightsStatus:
        attempt = Attempt("swap", who, options.label, uri)
        admit = partial(take, uri, options)
        return await self.changes.swap(attempt, admit, wait=True, terms=self.terms)

    def write(self, name: str, whole: bytes) -> Path:
        """Put a version there; its time is that of no clock, so that each is later than the one before."""
        path = self.place / name / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
        at = next(self.times)
        os.utime(path, (at, at))
        return path

    async def polls(self, count: int = 2) -> FollowStatus:
        for _ in range(count):
            await self.following.poll()
        found = self.changes.status().follow
        assert found is not None
        return found

    @property
    def answering(self) -> tuple[str, int]:
        """The label of the version that answers, and its epoch."""
        status = self.changes.status()
        return status.current.label, status.epoch


@asynccontextmanager
async def following(folder: Path, *roots: str) -> AsyncIterator[Followed]:
    cluster = Cluster()
    await cluster.start(Committed(epoch=0, version=BUILT_IN))
    try:
        await cluster.add("r0", runners=1)
        yield Followed(folder, cluster, roots)
    finally:
        await cluster.close()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "ray.serve"):
        yield


async def test_the_newest_version_answers_under_its_name_and_once(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        first = await followed.polls(1)
        assert (first.last_seen, first.last_tried, followed.answering[1]) == ("step-9", None, 0)
        await followed.polls(3)
        assert followed.answering == ("step-9", 1)
        followed.write("step-10", content(10))
        assert (await followed.polls(4)).model_dump() == {
            "uri": str(followed.place),
            "last_seen": "step-10",
            "last_tried": "step-10",
            "outcome": "committed",
            "error": None,
        }
        assert followed.answering == ("step-10", 2)
        lines = [(line["who"], line["outcome"]) for line in audited(followed.store)]
        assert lines == [(f"follow {followed.place}", outcome) for outcome in ["begun", "committed"] * 2]


async def test_a_coordinator_that_is_started_again_swaps_to_nothing_that_was_tried(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        await followed.polls()
        await followed.changes.rollback(Attempt("rollback", "an operator"), None, wait=True)
        followed.restart()
        status = await followed.polls(3)
        assert (followed.answering[1], status.last_tried, status.outcome) == (2, "step-9", "committed")


async def test_the_same_bytes_under_another_name_change_nothing(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        for name in ("step-9", "step-10"):
            followed.write(name, content(9))
            outcome = (await followed.polls()).outcome
        assert (outcome, followed.answering) == ("unchanged", ("step-9", 1))


async def test_a_place_is_read_by_the_models_rules_and_what_has_failed_tried_again_by_others(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9).replace(b'"w"', b'"v"'))
        assert (await followed.polls(3)).outcome == "failed"
        followed.rules = ReadingRules(rename=("v=w",))
        followed.restart()
        assert (await followed.polls()).outcome == "committed"
        assert followed.changes.status().current.names == NameRules(rename=("v=w",))
        assert followed.answering == ("step-9", 1)
        followed.restart()
        await followed.polls(3)
        assert followed.answering == ("step-9", 1)


async def test_what_is_refused_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9).replace(b'"w"', b'"v"'))
        status = await followed.polls(4)
        assert (status.last_tried, status.outcome, followed.answering[1]) == ("step-9", "failed", 0)
        assert status.error is not None
        assert "'v'" in status.error
        assert [line["outcome"] for line in audited(followed.store)] == ["begun", "failed"]
        followed.restart()
        await followed.polls(3)
        assert len(audited(followed.store)) == 2
        followed.write("step-9", content(9))
        status = await followed.polls()
        assert (status.outcome, status.error, followed.answering) == ("committed", None, ("step-9", 1))


async def test_what_a_replica_cannot_stage_is_not_tried_again(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        replica = followed.cluster.members["r0"]
        replica.broken = UnknownTensor(name="w")
        followed.write("step-9", content(9))
        assert (await followed.polls(4)).outcome == "failed"
        assert [line["outcome"] for line in audited(followed.store)] == ["begun", "failed"]
        assert followed.store.versions() == []


async def test_shards_are_joined_once_all_are_there(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        shard = followed.write("step-9", content(9)).rename(
            followed.place / "step-9" / "model-00001-of-00001.safetensors"
        )
        index = shard.with_name("model.safetensors.index.json")
        index.write_text(json.dumps({"weight_map": {"w": shard.name, "v": "model-00002-of-00002.safetensors"}}))
        assert (await followed.polls(3)).last_tried is None
        index.write_text(json.dumps({"weight_map": {"w": shard.name}}))
        assert (await followed.polls()).outcome == "committed"
        assert followed.answering == ("step-9", 1)
        with followed.store.open(followed.changes.status().current) as file:
            assert file.read()[-8:] == content(9)[-8:]


async def test_while_a_candidate_is_out_a_newer_version_waits(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.terms = CandidateTerms(Exposure(share=0.1))
        followed.write("step-9", content(9))
        assert (await followed.polls()).outcome == "candidate"
        followed.write("step-10", content(10))
        status = await followed.polls(4)
        assert (status.last_seen, status.last_tried, status.outcome) == ("step-10", "step-9", "candidate")
        assert [line["outcome"] for line in audited(followed.store)] == ["begun", "candidate"]
        await followed.changes.promote(Attempt("promote", "an operator"), wait=True)
        assert followed.answering == ("step-9", 1)
        followed.cluster.server.end_trial()
        status = await followed.polls(1)
        assert (status.last_tried, status.outcome) == ("step-10", "candidate")


async def test_a_candidate_that_was_withdrawn_has_failed_and_is_not_tried_again(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.terms = CandidateTerms(Exposure())
        followed.write("step-9", content(9))
        await followed.polls()
        await followed.changes.withdraw(Attempt("withdraw", "the rollout"), "it is slow", wait=True)
        for _ in range(2):
            status = await followed.polls(3)
            assert (status.last_tried, status.outcome, followed.answering[1]) == ("step-9", "failed", 0)
            assert status.error == "candidate version 1 was withdrawn: it is slow"
            followed.restart()
        followed.terms = None
        followed.write("step-9", content(8))
        assert (await followed.polls()).outcome == "committed"


async def test_a_version_that_its_rollout_rolls_back_has_failed_and_the_status_says_by_which_rule(
    tmp_path: Path,
) -> None:
    async with following(tmp_path) as followed:
        followed.terms = CandidateTerms(Exposure())
        followed.write("step-9", content(9))
        await followed.polls()
        await followed.changes.promote(Attempt("promote", "the rollout"), wait=True)
        followed.cluster.server.table.try_out(Trial("swap", 1, 0))  # as while a rollout watches
        assert (await followed.polls()).outcome == "candidate"
        followed.changes.candidates.given_up = GivenUp(1, "version 1 was rolled back: p99: 80 of 90 requests")
        await followed.changes.rollback(Attempt("rollback", "the rollout"), None, wait=True)
        followed.cluster.server.end_trial()
        status = await followed.polls(3)
        assert (status.outcome, status.error) == ("failed", "version 1 was rolled back: p99: 80 of 90 requests")
        assert followed.answering[1] == 2


async def test_while_a_rollout_watches_what_it_has_committed_a_newer_version_waits(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.cluster.server.table.try_out(Trial("swap", 2, 1))
        followed.write("step-9", content(9))
        assert (await followed.polls(3)).last_tried is None
        followed.cluster.server.end_trial()
        assert (await followed.polls(1)).outcome == "committed"


async def test_a_half_written_file_waits_with_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        followed.write("step-10", content(10)[:-1])
        await followed.polls(4)
        assert followed.answering == ("step-9", 1)
        assert len([line for line in caplog.messages if "step-10 is passed over until it changes" in line]) == 1
        followed.write("step-10", content(10))
        await followed.polls()
        assert followed.answering == ("step-10", 2)


async def test_a_file_that_changes_while_it_is_copied_is_tried_when_it_rests(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        path, swap_from = followed.write("step-9", content(9)), followed.swap_from

        async def overwritten(take: TakeUri, uri: str, options: SwapOptions, who: str) -> WeightsStatus:
            path.write_bytes(content(8))
            return await swap_from(take, uri, options, who)

        followed.following._swap = overwritten
        status = await followed.polls()
        assert status.error is not None
        assert "has changed while it was copied" in status.error
        assert (followed.store.numbers(), followed.store.followed(), followed.answering[1]) == ([], None, 0)
        followed.following._swap = swap_from
        await followed.polls()
        assert followed.answering == ("step-9", 1)
        with followed.store.open(followed.changes.status().current) as file:
            assert file.read() == content(8)


async def test_without_a_replica_nothing_is_copied_and_with_one_it_is(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        followed.cluster.members.pop("r0").membership.close()
        followed.cluster.ray.living.clear()
        followed.cluster.server.table.remove("r0")
        assert (await followed.polls(4)).last_tried is None
        assert followed.store.audit_path is not None
        assert not followed.store.audit_path.exists()
        await followed.cluster.add("r1", runners=1)
        assert (await followed.polls(1)).outcome == "committed"


@pytest.mark.parametrize("error", [SwapInProgress(model="m", phase="staging"), StoreFailed(path="s", detail="full")])
async def test_what_passes_is_tried_again_at_the_next_polls(tmp_path: Path, error: Exception) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        swap_from, left = followed.swap_from, iter([error, error])

        async def busy(take: TakeUri, uri: str, options: SwapOptions, who: str) -> WeightsStatus:
            if failure := next(left, None):
                raise failure
            return await swap_from(take, uri, options, who)

        followed.following._swap = busy
        status = await followed.polls(3)
        assert (status.error, status.last_tried) == (str(error), None)
        assert followed.following._failures == (0 if isinstance(error, SwapInProgress) else 2)
        assert (await followed.polls(1)).outcome == "committed"
        assert followed.following._failures == 0


async def test_a_place_that_cannot_be_read_is_shown_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as followed:
        status = await followed.polls(3)
        assert status.error is not None
        assert "No such file or directory" in status.error
        assert followed.following._failures == 3
        assert len([line for line in caplog.messages if "No such file" in line]) == 1
        followed.write("step-9", content(9))
        assert (await followed.polls()).error is None
        assert len([line for line in caplog.messages if "it can be read again" in line]) == 1
        assert followed.answering == ("step-9", 1)


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_link_that_leads_out_is_refused_unless_the_roots_allow_it(tmp_path: Path, allowed: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.safetensors").write_bytes(content(9))
    (tmp_path / "runs" / "step-9").mkdir(parents=True)
    (tmp_path / "runs" / "step-9" / "model.safetensors").symlink_to(tmp_path / "elsewhere" / "w.safetensors")
    async with following(tmp_path, *([str(tmp_path / "elsewhere")] if allowed else [])) as followed:
        status = await followed.polls()
    assert status.outcome == ("committed" if allowed else "failed")
    assert ("outside the allowed weights_roots" in (status.error or "")) is not allowed


class Ended(BaseException):
    """In the place of the end of the process."""


async def test_what_ends_the_coordinator_is_tried_once_more_by_the_next_one(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        tries = list[str]()

        async def end(take: TakeUri, uri: str, options: SwapOptions, who: str) -> WeightsStatus:
            take(uri, options, BUILT_IN)
            tries.append(who)
            raise Ended

        for ends in (True, True, False):
            followed.restart()
            followed.following._swap = end
            try:
                await followed.polls(3)
            except Ended:
                assert ends
        assert len(tries) == 2


async def test_what_passes_after_the_copy_costs_no_try(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))

        async def cut_off(take: TakeUri, uri: str, options: SwapOptions, who: str) -> WeightsStatus:
            followed.store.remove(take(uri, options, BUILT_IN))
            raise TryAgain(detail="the last replica has gone")

        for _ in range(4):
            followed.restart()
            followed.following._swap = cut_off
            await followed.polls()
            assert followed.store.followed() is None
        followed.restart()
        assert (await followed.polls()).outcome == "committed"


async def test_a_record_that_is_damaged_keeps_nobody_from_following(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as followed:
        followed.write("step-9", content(9))
        (tmp_path / "store" / "FOLLOWED").write_text("no JSON")
        assert (await followed.polls()).outcome == "committed"
        assert "the newest version is tried anew" in caplog.text
