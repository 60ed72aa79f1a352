"""A member's side of a swap: whatever it holds, and whatever target comes next, it ends where the target says."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import UnknownTensor
from aoti_serve.weights.swap.follower import Follower
from aoti_serve.weights.swap.target import NO_EPOCH, Staging, Target
from aoti_serve.weights.version import Committed, Version

V = {number: Version(number=number, digest=f"sha of {number}") for number in range(1, 7)}
REFUSED = V[6]
FIRST, SECOND, BACK = (
    Committed(epoch=1, version=V[1]),
    Committed(epoch=2, version=V[2], previous=V[1]),
    Committed(epoch=3, version=V[1], previous=V[2]),
)
NOTHING_STAGED = None
STAGINGS = (NOTHING_STAGED, Staging("a", V[3]), Staging("b", V[4]), Staging("c", REFUSED), Staging("d", V[1]))
TARGETS = [
    Target(term=1, revision=1, committed=committed, staging=staging)
    for committed, staging in product((FIRST, SECOND, BACK), STAGINGS)
]


def _named(target: Target) -> str:
    return f"epoch {target.committed.epoch}, {target.staging.swap if target.staging else 'nothing'} staged"


class TwoSlots:
    """Two slots, as a replica's container has them: what answers, and behind it something staged or the version before.

    A version that it refuses is refused before a byte moves.
    """

    def __init__(self) -> None:
        self.active: Version | None = None
        self.behind: Version | None = None
        self.staged: Version | None = None
        self.done: list[str] = []
        self.broken: Exception | None = None

    async def stage(self, version: Version, *, accepted: bool) -> None:
        if version in (self.active, self.behind):
            return
        if version == REFUSED or self.broken:
            raise self.broken or UnknownTensor(name="w")
        self.done.append(f"fill {version.number}")
        self.behind = self.staged = version

    async def activate(self, version: Version) -> None:
        if self.active != version:
            assert self.behind == version
            self.done.append(f"flip to {version.number}")
            self.active, self.behind, self.staged = version, self.active, None

    def cancel_stage(self) -> None:
        """Nothing here takes long."""

    async def abort(self) -> None:
        if self.staged is not None:
            self.done.append(f"free {self.staged.number}")
            self.behind = self.staged = None


async def following(*targets: Target) -> tuple[Follower, TwoSlots]:
    slots = TwoSlots()
    follower = Follower(slots)
    for target in targets:
        await follower.follow(target)
    slots.done.clear()
    return follower, slots


def check(follower: Follower, slots: TwoSlots, target: Target, epoch: int) -> None:
    """It answers with what was committed at `epoch`, and has staged what the target says, or says why not."""
    committed = {1: V[1], 2: V[2], 3: V[1]}[epoch]
    assert (follower.epoch, slots.active) == (epoch, committed)
    match target.staging:
        case None:
            assert (follower.staged, follower.failed, follower.error, slots.staged) == (None, None, None, None)
        case Staging(swap, version) if version == REFUSED:
            assert (follower.staged, follower.failed) == (None, swap)
            assert isinstance(follower.error, UnknownTensor)
        case Staging(swap, version):
            assert follower.staged == swap
            assert version in (slots.active, slots.behind)


async def test_one_that_holds_nothing_is_at_no_epoch() -> None:
    follower, _ = await following()
    assert (follower.epoch, follower.staged, follower.failed) == (NO_EPOCH, None, None)


@pytest.mark.parametrize("after", TARGETS, ids=_named)
@pytest.mark.parametrize("before", TARGETS, ids=_named)
async def test_any_target_may_come_after_any_other(before: Target, after: Target) -> None:
    """Also one of an earlier epoch: what is committed stays."""
    follower, slots = await following(before, after)
    check(follower, slots, after, max(before.committed.epoch, after.committed.epoch))


@pytest.mark.parametrize("target", TARGETS, ids=_named)
async def test_the_same_target_again_does_nothing(target: Target) -> None:
    follower, slots = await following(target)
    await follower.follow(target)
    assert slots.done == []


@given(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=8))
def test_what_came_before_does_not_matter(targets: list[Target]) -> None:
    follower, slots = asyncio.run(following(*targets))
    check(follower, slots, targets[-1], max(target.committed.epoch for target in targets))


@given(st.lists(st.sampled_from(TARGETS), max_size=6))
def test_when_nothing_is_to_be_staged_nothing_is(targets: list[Target]) -> None:
    """Whatever was staged or refused before, and for which swaps."""
    quiet = Target(term=1, revision=9, committed=BACK)
    follower, slots = asyncio.run(following(*targets, quiet))
    check(follower, slots, quiet, 3)


@pytest.mark.parametrize(
    ("before", "after", "done"),
    [
        pytest.param((FIRST, Staging("s", V[2])), (SECOND, None), ["flip to 2"], id="what is staged is not sent twice"),
        pytest.param((FIRST, None), (SECOND, None), ["fill 2", "flip to 2"], id="what was missed is made up for"),
        pytest.param((SECOND, None), (BACK, None), ["fill 1", "flip to 1"], id="a rollback without the previous here"),
        pytest.param((FIRST, Staging("s", V[3])), (FIRST, None), ["free 3"], id="an abort frees"),
        pytest.param((FIRST, Staging("s", V[3])), (FIRST, Staging("t", V[3])), [], id="the same for another swap"),
        pytest.param((FIRST, Staging("s", V[3])), (FIRST, Staging("t", V[4])), ["fill 4"], id="another version"),
        pytest.param((FIRST, Staging("s", V[3])), (SECOND, None), ["fill 2", "flip to 2"], id="another was committed"),
        pytest.param((FIRST, Staging("s", V[3])), (BACK, None), ["free 3"], id="the active one was committed again"),
    ],
)
async def test_it_does_what_is_missing_and_no_more(
    before: tuple[Committed, Staging | None], after: tuple[Committed, Staging | None], done: list[str]
) -> None:
    [first, second] = [Target(term=1, revision=1, committed=committed, staging=it) for committed, it in (before, after)]
    follower, slots = await following(first)
    await follower.follow(second)
    assert slots.done == done


async def test_a_rollback_to_the_resident_version_moves_no_data() -> None:
    first, second, back = [Target(term=1, revision=1, committed=each) for each in (FIRST, SECOND, BACK)]
    follower, slots = await following(first, second)
    await follower.follow(back)
    assert slots.done == ["flip to 1"]


async def test_one_that_cannot_hold_what_is_committed_says_so() -> None:
    """It must not go on: what it answers with is old."""
    follower, slots = await following(Target(term=1, revision=1, committed=FIRST, staging=Staging("a", V[3])))
    slots.broken = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        await follower.follow(Target(term=1, revision=2, committed=SECOND))
    assert (follower.epoch, slots.active, follower.staged) == (1, V[1], None)


async def test_after_a_failed_commit_the_next_try_succeeds() -> None:
    """The bytes came from a coordinator that died; the next one has them, too."""
    follower, slots = await following(Target(term=1, revision=1, committed=FIRST))
    slots.broken = RuntimeError("the coordinator is gone")
    target = Target(term=1, revision=2, committed=SECOND)
    with pytest.raises(RuntimeError):
        await follower.follow(target)
    slots.broken = None
    await follower.follow(target)
    check(follower, slots, target, 2)


async def test_a_cancelled_stage_is_no_failure() -> None:
    follower, slots = await following(Target(term=1, revision=1, committed=FIRST))
    slots.broken = asyncio.CancelledError()  # type: ignore[assignment]
    with pytest.raises(asyncio.CancelledError):
        await follower.follow(Target(term=1, revision=2, committed=FIRST, staging=Staging("a", V[3])))
    assert (follower.staged, follower.failed) == (None, None)
