"""Two applications on one store, as during an upgrade that starts a second cluster beside the first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aoti_serve.cluster.coordinator.attempt import Attempt
from aoti_serve.cluster.coordinator.changes import Changes
from aoti_serve.cluster.coordinator.metrics import SwapMetrics
from aoti_serve.cluster.coordinator.succession.standby import FOLLOW_AGAIN_S, LEADER_SILENT_S, LOOK_EVERY_S, Standby
from aoti_serve.cluster.metrics.definitions import COORDINATOR_METRICS, SUPERSEDED, WEIGHTS_VERSION
from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.errors import LedElsewhere, TryAgain
from aoti_serve.weights.audit import AuditLog
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.store.term import home_of
from aoti_serve.weights.swap.target import Exposure
from aoti_serve.weights.terms import CandidateTerms
from aoti_serve.weights.version import BUILT_IN, Committed, Version
from tests.unit.cluster.membership.members import Cluster
from tests.unit.cluster.metrics.recorded import RecordedExport
from tests.unit.weights.store.crasher import content


class Application:
    """A coordinator with a store, and members over real sockets; it looks at the store when it is told to."""

    def __init__(self, root: Path, name: str, cluster: Cluster) -> None:
        self.cluster = cluster
        self.seconds = 0.0
        self.store = Store(root, "m", 4, home=home_of("head:6379", name))
        self.changes = Changes("m", self.store, cluster.server, AuditLog(self.store.audit_path))
        self.standby = Standby(self.store, cluster.server, self.changes, lambda: self.seconds)
        self.committed = cluster.server.table.target.committed

    @property
    def holds(self) -> list[int]:
        """The epochs that its members answer with."""
        return [report.epoch for report in self.cluster.server.table.reports]

    async def look(self, seconds: float = LOOK_EVERY_S) -> WeightsStatus:
        self.seconds += seconds
        await self.standby.look()
        return self.changes.status()

    async def swap(self, value: int, terms: CandidateTerms | None = None) -> WeightsStatus:
        def admit(_: Version) -> Version:
            path = self.store.incoming()
            path.write_bytes(content(value))
            return self.store.add(path, f"value {value}")

        return await self.changes.swap(Attempt("swap", "me"), admit, wait=True, terms=terms)


@asynccontextmanager
async def application(root: Path, name: str) -> AsyncIterator[Application]:
    cluster = Cluster()
    stored = Store(root, "m", 4).committed()
    await cluster.start(stored or Committed(epoch=0, version=BUILT_IN))
    try:
        await cluster.add("r0", runners=1)
        await cluster.add("g0")
        yield Application(root, name, cluster)
    finally:
        await cluster.close()


@pytest.fixture
async def blue(tmp_path: Path) -> AsyncIterator[Application]:
    """The application that is there first, with version 1."""
    async with application(tmp_path / "store", "blue") as made:
        await made.swap(1)
        assert (await made.look()).superseded is None
        yield made


@pytest.fixture
async def green(blue: Application, tmp_path: Path) -> AsyncIterator[Application]:
    """The one that follows it, on the same store."""
    async with application(tmp_path / "store", "green") as made:
        yield made


async def test_the_older_one_says_that_it_is_superseded_and_answers_on(blue: Application, green: Application) -> None:
    await green.look()
    status = await blue.look()
    assert status.superseded is not None
    assert (status.superseded.newer, status.superseded.behind) == (str(green.store.term), "")
    assert blue.holds == [1, 1]
    assert any("superseded" in event.event for event in blue.cluster.server.story())
    blue.standby.check()


async def test_changes_are_refused_there_with_words_and_made_by_the_newer_one(
    blue: Application, green: Application
) -> None:
    await blue.look()
    with pytest.raises(LedElsewhere, match=r"another application has opened its store .* ask that one for changes"):
        await blue.swap(2)
    with pytest.raises(LedElsewhere):
        await blue.changes.rollback(Attempt("rollback", "me"), None, wait=True)
    with pytest.raises(LedElsewhere):
        await blue.changes.check_upload(Attempt("swap", "me"))
    assert not blue.changes.may_begin, "nor does it swap to what it follows by itself"
    assert (await green.swap(2)).current.label == "value 2"


async def test_the_older_one_follows_swaps_and_rollbacks_of_the_newer_one(
    blue: Application, green: Application
) -> None:
    swapped = await green.swap(2)
    status = await blue.look()
    assert (status.current, status.epoch, status.settled) == (swapped.current, swapped.epoch, True)
    assert blue.holds == [swapped.epoch] * 2
    back = await green.changes.rollback(Attempt("rollback", "me"), None, wait=True)
    status = await blue.look()
    assert (status.current.label, status.epoch) == ("value 1", back.epoch)
    assert status.last is not None
    assert (status.last.action, status.last.outcome) == ("follow", "committed")
    assert status.superseded is not None


async def test_the_metric_says_that_it_is_superseded_also_after_it_has_followed_a_commit(
    blue: Application, green: Application
) -> None:
    exported = RecordedExport(COORDINATOR_METRICS)
    blue.changes._outcomes._metrics = SwapMetrics("m", exported)
    await blue.look()
    await green.swap(2)
    await blue.look()
    assert exported.gauges[WEIGHTS_VERSION.name, "m"] == 2, "the end of its attempt is measured"
    assert exported.gauges[SUPERSEDED.name, "m"] == 1


async def test_it_follows_over_several_commits_at_once(blue: Application, green: Application) -> None:
    for value in (2, 3, 4):
        last = await green.swap(value)
    status = await blue.look()
    assert (status.current, status.epoch, blue.holds) == (last.current, last.epoch, [last.epoch] * 2)


async def test_one_that_cannot_follow_says_what_it_lacks_and_tries_again(blue: Application, green: Application) -> None:
    replica = blue.cluster.members["r0"]
    replica.broken = TryAgain(detail="it takes other tensors")
    last = await green.swap(2)
    status = await blue.look()
    assert status.superseded is not None
    assert f"version {last.current.number} is committed, and does not answer here" in status.superseded.behind
    assert "it takes other tensors" in status.superseded.behind
    assert status.current.label == "value 1"
    replica.broken = None
    assert (await blue.look(FOLLOW_AGAIN_S)).superseded.behind == ""  # type: ignore[union-attr]
    assert blue.holds == [last.epoch] * 2


async def test_its_candidate_is_freed_and_left_to_the_newer_one(blue: Application, tmp_path: Path) -> None:
    held = await blue.swap(2, CandidateTerms(Exposure(share=0.5)))
    assert held.candidate is not None
    async with application(tmp_path / "store", "green") as green:
        green.changes.candidates.resume()
        status = await blue.look()
        assert status.candidate is None
        assert status.current.label == "value 1"
        resumed = green.changes.status().candidate
        assert resumed is not None
        assert resumed.version == held.candidate.version


async def test_the_store_is_taken_back_once_the_newer_one_is_silent(blue: Application, green: Application) -> None:
    for _ in range(3):
        await green.look(LEADER_SILENT_S)
        await blue.look(LEADER_SILENT_S)
        blue.standby.check()
    await blue.look(LEADER_SILENT_S - 1)
    blue.standby.check()
    await blue.look(2)
    with pytest.raises(LedElsewhere):
        blue.standby.check()


async def test_the_next_coordinator_of_the_older_one_leads_and_the_newer_one_follows_if_it_lives_after_all(
    blue: Application, green: Application, tmp_path: Path
) -> None:
    async with application(tmp_path / "store", "blue") as successor:
        last = await successor.swap(5)
        status = await green.look()
        assert status.superseded is not None
        assert (status.current, green.holds) == (last.current, [last.epoch] * 2)


async def test_one_of_its_own_application_is_not_followed(blue: Application, tmp_path: Path) -> None:
    """Serve ends the older process: its members go to the newer one."""
    async with application(tmp_path / "store", "blue") as successor:
        await successor.swap(2)
        status = await blue.look()
    assert (status.superseded, status.current.label) == (None, "value 1")
