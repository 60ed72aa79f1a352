"""A candidate in the coordinator: held, exposed, promoted, withdrawn, and found again by the next one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aoti_serve.cluster.coordinator import course
from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import (
    CandidateOut,
    NoCandidate,
    NotSettled,
    RolloutDecides,
    StoreFailed,
    SwapInProgress,
    UnknownTensor,
)
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap.states import Phase
from aoti_serve.weights.swap.target import Exposure, Target
from aoti_serve.weights.swap_options import ExposureOptions
from aoti_serve.weights.terms import CandidateTerms
from aoti_serve.weights.version import BUILT_IN, Committed, Version
from tests.unit.cluster.membership.members import Cluster
from tests.unit.weights.store.crasher import content

EXPOSURE = Exposure(share=0.05, shadow=0.1)
SOON_S = 10.0


class Coordinator:
    """The changes of a store, with a replica and a gateway; both outlive it."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster()
        self.folder = folder

    async def start(self) -> None:
        self.store = Store(self.folder / "store", "m", 4)
        committed = self.store.committed() or Committed(epoch=0, version=BUILT_IN)
        self.members = await self.cluster.start(committed)
        self.changes = Changes("m", self.store, self.members, AuditLog(self.store.audit_path))
        self.changes.candidates.resume()

    async def swap(
        self, value: int, exposure: Exposure | None = None, *, plan: RolloutPlan | None = None, wait: bool = True
    ) -> WeightsStatus:
        (self.folder / "file").write_bytes(content(value))

        def admit(current: Version) -> Version:
            return self.store.add(self.folder / "file", "", answers=current)

        terms = CandidateTerms(exposure, plan) if exposure else None
        return await self.changes.swap(Attempt("swap", "me"), admit, wait=wait, terms=terms)

    async def promote(self) -> WeightsStatus:
        return await self.changes.promote(Attempt("promote", "me"), wait=True)

    async def withdraw(self) -> WeightsStatus:
        return await self.changes.withdraw(Attempt("withdraw", "me"), "me asked for it", wait=True)

    async def expose(self, **options: Any) -> WeightsStatus:
        return await self.changes.expose(Attempt("expose", "me"), ExposureOptions(**options))

    @property
    def stored(self) -> list[int]:
        return self.store.numbers()

    @property
    def audited(self) -> list[tuple[str, str]]:
        """Action and outcome of each line."""
        assert self.store.audit_path is not None
        lines = map(json.loads, self.store.audit_path.read_text().splitlines())
        return [(line["action"], line["outcome"]) for line in lines]

    def exposed_to(self, member: str) -> Exposure | None:
        candidate = self.cluster.members[member].fence.candidate
        return candidate.exposure if candidate else None


Made = TypeVar("Made", bound=Coordinator)


@asynccontextmanager
async def with_members(made: Made) -> AsyncIterator[Made]:
    """Started, with a replica and a gateway."""
    await made.start()
    try:
        await made.cluster.add("r0", runners=1)
        await made.cluster.add("g0")
        yield made
    finally:
        await made.cluster.close()


@asynccontextmanager
async def coordinating(folder: Path) -> AsyncIterator[Coordinator]:
    async with with_members(Coordinator(folder)) as made:
        yield made


def outcome(status: WeightsStatus) -> str | None:
    return status.last.outcome if status.last else None


async def test_a_candidate_is_out_and_the_version_before_goes_on(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        status = await made.swap(1, EXPOSURE)
        assert (status.current, status.epoch, status.swap) == (BUILT_IN, 0, None)
        assert status.candidate is not None
        assert (status.candidate.version.number, status.candidate.share, status.candidate.shadow) == (1, 0.05, 0.1)
        assert status.last is not None
        assert (status.last.outcome, status.last.version, status.last.error) == ("candidate", 1, None)
        assert list(status.last.phases) == [Phase.CHECKING, Phase.STAGING]
        assert made.exposed_to("g0") == EXPOSURE
        assert made.audited == [("swap", "begun"), ("swap", "candidate")]
        assert made.store.versions() == []  # none that answers


async def test_each_change_of_a_candidate_is_told_of_by_its_own_name(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        swap, exposed = (await made.swap(1, EXPOSURE)).last, (await made.expose(share=0.5)).last
        promoted = (await made.promote()).last
        story = [event.event for event in made.members.story()]
    assert swap is not None
    assert exposed is not None
    assert promoted is not None
    assert f"swap {swap.id}: share 0.05, shadow 0.1" in story
    assert f"expose {exposed.id}: goes on with swap {swap.id}" in story
    assert f"expose {exposed.id}: share 0.5, shadow 0.1" in story
    assert f"promote {promoted.id}: goes on with swap {swap.id}" in story
    assert f"promote {promoted.id}: settled, since all expelled have ended" in story


async def test_beside_a_candidate_any_other_change_is_refused_at_once(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        before = made.changes.status()
        for wait in (True, False):
            with pytest.raises(CandidateOut, match="version 1 is a candidate; promote it or withdraw it first"):
                await made.swap(2, wait=wait)
            with pytest.raises(CandidateOut):
                await made.changes.rollback(Attempt("rollback", "me"), None, wait=wait)
        with pytest.raises(CandidateOut):
            await made.swap(2, EXPOSURE)
        with pytest.raises(CandidateOut):
            await made.changes.check_upload(Attempt("swap", "me", source="upload"))
        assert made.stored == [1]
        assert made.changes.status() == before
        assert made.audited[2:] == [("swap", "refused"), ("rollback", "refused")] * 2 + [("swap", "refused")] * 2


async def test_golden_requests_may_come_beside_a_candidate(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        audited = list(made.audited)
        await made.changes.check_upload(Attempt("golden", "me", source="upload"))
        assert made.audited == audited


async def test_without_a_candidate_there_is_nothing_to_expose_promote_or_withdraw(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        for change in (made.expose, made.promote, made.withdraw):
            with pytest.raises(NoCandidate, match="`rollback` goes back"):
                await change()
        await made.changes.check_upload(Attempt("swap", "me", source="upload"))
        assert made.audited == [("expose", "refused"), ("promote", "refused"), ("withdraw", "refused")]


async def test_the_shares_of_a_rollout_are_not_changed_by_hand(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE, plan=RolloutPlan())
        with pytest.raises(RolloutDecides, match="a rollout decides on the shares of candidate version 1"):
            await made.expose(share="20%")
        assert made.exposed_to("g0") == EXPOSURE


async def test_a_new_share_is_stored_and_told_and_what_is_left_out_stays(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        status = await made.expose(share="20%")
        assert outcome(status) == "exposed"
        assert status.candidate is not None
        assert (status.candidate.share, status.candidate.shadow) == (0.2, 0.1)
        assert made.exposed_to("g0") == Exposure(share=0.2, shadow=0.1)
        status = await made.expose(shadow=0)
        record = made.store.candidate()
        assert record is not None
        assert (record.exposure, record.since) == (Exposure(share=0.2), status.candidate and status.candidate.since)


async def test_new_shares_are_everywhere_when_the_call_returns(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        gateways = [f"g{number}" for number in range(1, 5)]
        for gateway in gateways:
            await made.cluster.add(gateway)
        await made.swap(1, EXPOSURE)
        for percent in range(10, 60, 10):
            await made.expose(share=percent / 100)
            assert {made.exposed_to(gateway) for gateway in gateways} == {Exposure(share=percent / 100, shadow=0.1)}


async def test_a_gateway_that_is_silent_is_named_and_the_shares_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = "version 1 is exposed, but g1 has not confirmed that, and may go by what was said before"
    async with coordinating(tmp_path) as made:
        await made.cluster.add("g1")
        await made.swap(1, EXPOSURE)
        made.cluster.members["g1"].lost = True
        with monkeypatch.context() as patched:
            patched.setattr(course, "HEARD_S", 0.05)
            with pytest.raises(NotSettled, match=silent):
                await made.expose(share=0.5)
        status = made.changes.status()
        assert (outcome(status), status.candidate and status.candidate.share) == ("exposed", 0.5)
        assert (made.exposed_to("g0"), made.exposed_to("g1")) == (Exposure(share=0.5, shadow=0.1), EXPOSURE)
        made.cluster.members["g1"].lost = False
        await made.expose(share=0.6)
        assert made.exposed_to("g1") == Exposure(share=0.6, shadow=0.1)


async def test_a_process_that_may_live_may_go_by_the_shares_before_but_not_by_those_of_no_candidate(
    tmp_path: Path,
) -> None:
    async with coordinating(tmp_path) as made:
        made.members.table.doubt("g9", time.monotonic())
        assert outcome(await made.swap(1, EXPOSURE)) == "candidate"
        with pytest.raises(NotSettled, match="version 1 is exposed, but g9 has not confirmed that"):
            await made.expose(share=0)
        assert made.exposed_to("g0") == Exposure(shadow=0.1)


async def test_a_rollout_waits_for_no_gateway(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        made.cluster.members["g0"].lost = True
        options = ExposureOptions(share=0.5)
        async with asyncio.timeout(course.HEARD_S / 2):
            status = await made.changes.expose(Attempt("expose", "the rollout"), options, confirm=False)
        assert outcome(status) == "exposed"


async def test_a_candidate_of_which_a_gateway_has_not_heard_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coordinating(tmp_path) as made:
        monkeypatch.setattr(course, "HEARD_S", 0.05)
        gateway, replica = made.cluster.members["g0"], made.cluster.members["r0"]
        stage = replica.reconcile

        async def deafen(target: Target) -> None:
            """The gateway hears of the stage, and nothing more once the replica has staged."""
            await made.cluster.until(lambda: gateway.fence.report("g0").staged is not None)
            gateway.lost = True
            await stage(target)

        monkeypatch.setattr(replica, "reconcile", deafen)
        with pytest.raises(NotSettled, match="version 1 is a candidate, but g0 has not confirmed that"):
            await made.swap(1, EXPOSURE)
        status = made.changes.status()
        assert (outcome(status), made.stored, status.candidate is not None) == ("candidate", [1], True)


async def test_a_promotion_commits_it(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        status = await made.promote()
        assert (status.current.number, status.epoch, status.candidate, status.settled) == (1, 1, None, True)
        assert status.last is not None
        assert (status.last.action, status.last.outcome) == ("promote", "committed")
        assert Phase.CANDIDATE not in status.last.phases
        assert (made.store.candidate(), made.exposed_to("g0")) == (None, None)
        assert made.audited[2:] == [("promote", "begun"), ("promote", "committed")]
        assert outcome(await made.swap(2)) == "committed"  # others may change again


async def test_a_withdrawal_leaves_nothing_of_it(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1)
        await made.swap(2, EXPOSURE)
        status = await made.withdraw()
        assert (status.current.number, status.candidate, outcome(status)) == (1, None, "withdrawn")
        assert (made.store.candidate(), made.exposed_to("g0"), made.stored) == (None, None, [1])
        assert made.audited[4:] == [("withdraw", "begun"), ("withdraw", "withdrawn")]
        assert outcome(await made.swap(3)) == "committed"


async def test_a_candidate_that_a_replica_cannot_hold_is_withdrawn_and_everybody_can_see_why(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        made.cluster.members["r0"].broken = UnknownTensor(name="w")
        await made.expose(share=1)  # the replica reports
        await made.cluster.until(lambda: ("withdraw", "withdrawn") in made.audited)
        status = made.changes.status()
        assert (status.current, status.candidate, outcome(status)) == (BUILT_IN, None, "withdrawn")
        assert status.last is not None
        assert "replica r0 could not stage version 1, nothing has changed: tensor 'w'" in (status.last.error or "")
        assert (made.store.candidate(), made.stored, made.exposed_to("g0")) == (None, [], None)
        made.cluster.members["r0"].broken = None
        assert outcome(await made.swap(2)) == "committed"


async def test_a_candidate_that_falls_while_it_is_withdrawn_is_withdrawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        swap, loop, write = made.members.rules.swap, asyncio.get_running_loop(), made.store.write_record
        assert swap is not None

        async def fall() -> None:
            made.cluster.members["r0"].broken = UnknownTensor(name="w")
            made.members.expose(swap, EXPOSURE)
            await made.cluster.until(lambda: not swap.held)

        def write_late(name: str, record: bytes | None) -> None:
            if swap.held:
                asyncio.run_coroutine_threadsafe(fall(), loop).result()
            write(name, record)

        monkeypatch.setattr(made.store, "write_record", write_late)
        await made.withdraw()
        assert (made.changes.status().candidate, made.stored, made.store.candidate()) == (None, [], None)
        assert made.audited[2:] == [("withdraw", "begun"), ("withdraw", "withdrawn"), ("withdraw", "withdrawn")]


async def test_a_candidate_that_falls_while_its_shares_are_stored_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        swap, loop, write = made.members.rules.swap, asyncio.get_running_loop(), made.store.write_record
        assert swap is not None
        erased = threading.Event()

        def write_late(name: str, record: bytes | None) -> None:
            if record is not None:
                failure = StoreFailed(path="here", detail="as if")
                loop.call_soon_threadsafe(made.members.withdraw, swap, failure)
                assert erased.wait(SOON_S)
            write(name, record)
            erased.set()

        monkeypatch.setattr(made.store, "write_record", write_late)
        with pytest.raises(StoreFailed, match="as if"):
            await made.expose(share=1)
        assert made.store.candidate() is None


async def test_while_a_fallen_candidate_is_freed_a_change_is_told_to_wait(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        swap = made.members.rules.swap
        assert swap is not None
        made.members.withdraw(swap, StoreFailed(path="here", detail="as if"))
        with pytest.raises(SwapInProgress, match="phase aborting"):
            made.changes.candidates.check_none()


async def test_a_candidate_that_cannot_be_remembered_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with coordinating(tmp_path) as made:
        with monkeypatch.context() as patched:
            patched.setattr(made.store, "write_record", full)
            with pytest.raises(StoreFailed):
                await made.swap(1, EXPOSURE)
        status = made.changes.status()
        assert (status.candidate, outcome(status), made.stored) == (None, "failed", [])
        assert outcome(await made.swap(1, EXPOSURE)) == "candidate"


@pytest.mark.parametrize("change", ["expose", "withdraw"])
async def test_what_cannot_be_stored_changes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        with monkeypatch.context() as patched:
            patched.setattr(made.store, "write_record", full)
            with pytest.raises(StoreFailed):
                await getattr(made, change)()
        status = made.changes.status()
        assert (outcome(status), status.candidate and status.candidate.share) == ("failed", 0.05)
        assert made.exposed_to("g0") == EXPOSURE
        made.cluster.members["r0"].broken = UnknownTensor(name="w")
        await made.expose()
        await made.cluster.until(lambda: made.audited[-1] == ("withdraw", "withdrawn"))  # it was still looked after


@pytest.mark.parametrize("earlier", [0, 1], ids=["the first version", "a later one"])
async def test_the_next_coordinator_goes_on_with_it(tmp_path: Path, earlier: int) -> None:
    async with coordinating(tmp_path) as made:
        for value in range(earlier):
            await made.swap(value)
        before = (await made.swap(8, EXPOSURE)).candidate
        staged = {name: member.report().staged for name, member in made.cluster.members.items()}
        await made.cluster.stop()
        await made.start()
        assert made.changes.status().candidate == before
        await made.cluster.until(lambda: len(made.members.table.heard) == 2)
        assert {name: member.report().staged for name, member in made.cluster.members.items()} == staged
        assert outcome(await made.promote()) == "committed"
        assert made.changes.status().current.number == earlier + 1


async def test_the_next_coordinator_knows_nothing_of_one_that_was_withdrawn(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1, EXPOSURE)
        await made.withdraw()
        await made.cluster.stop()
        await made.start()
        assert made.changes.status().candidate is None


async def test_the_same_bytes_make_no_candidate(tmp_path: Path) -> None:
    async with coordinating(tmp_path) as made:
        await made.swap(1)
        status = await made.swap(1, EXPOSURE)
        assert (status.unchanged, status.candidate, outcome(status)) == (True, None, "unchanged")


def full(*_: object) -> None:
    raise StoreFailed(path="here", detail="No space left on device")
