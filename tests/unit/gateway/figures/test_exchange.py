"""Several gateways and a coordinator: whichever is asked, the answer is the sum of all."""

from __future__ import annotations

from typing import Any, cast

import pytest

from aoti_serve.cluster.coordinator.gathered import Gathered, GatheredStatistics, Told
from aoti_serve.cluster.coordinator_client import CoordinatorClient
from aoti_serve.errors import TryAgain, UnknownVersion
from aoti_serve.gateway.figures.exchange import StatisticsExchange
from aoti_serve.gateway.figures.model_figures import HTTP, ModelFigures
from aoti_serve.gateway.figures.outcomes import RequestOutcome
from aoti_serve.protocol.statistics import KEPT_VERSIONS, VersionStatistics


class Coordinator:
    """A client of a real coordinator's statistics, which may be away."""

    def __init__(self) -> None:
        self.statistics = GatheredStatistics()
        self.living = {"a", "b"}
        self.away = False
        self.sent: list[int] = []

    async def exchange_statistics(self, told: Told) -> Gathered:
        if self.away:
            raise TryAgain(detail="it is being started again")
        self.sent.append(len(told.changed))
        return self.statistics.exchange(told, self.living)


class Gateway:
    def __init__(self, name: str, coordinator: Coordinator) -> None:
        self.figures = ModelFigures("m")
        self.figures.current = 1
        self.exchange = StatisticsExchange(name, self.figures, cast(CoordinatorClient, coordinator))

    def answer(self, rows: int, version: int = 1) -> None:
        self.figures.note_answered(HTTP, version, rows, 0.1)

    async def counts(self) -> dict[int, int]:
        return {row.version: row.inference_count for row in await self.exchange.total()}


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def pair(coordinator: Coordinator) -> tuple[Gateway, Gateway]:
    return Gateway("a", coordinator), Gateway("b", coordinator)


async def test_whichever_is_asked_the_answer_is_the_sum(pair: tuple[Gateway, Gateway]) -> None:
    one, other = pair
    one.answer(2)
    other.answer(3)
    await other.exchange.report()
    one.answer(5, version=4)
    assert await one.counts() == {1: 5, 4: 5}
    assert await other.counts() == {1: 5, 4: 5}
    assert (await one.exchange.messages("4"))[0]["inference_count"] == 5


async def test_only_what_has_changed_is_sent(coordinator: Coordinator, pair: tuple[Gateway, Gateway]) -> None:
    one, _ = pair
    one.answer(1, version=1)
    one.answer(1, version=2)
    await one.exchange.report()
    await one.exchange.report()
    one.answer(1, version=2)
    await one.exchange.report()
    assert coordinator.sent == [2, 1]


async def test_the_figures_of_a_gateway_that_has_ended_stay(
    coordinator: Coordinator, pair: tuple[Gateway, Gateway]
) -> None:
    one, other = pair
    one.answer(2)
    await one.exchange.report()
    coordinator.living.remove("a")
    assert await other.counts() == {1: 2}
    await one.exchange.total()  # a message that was long on its way
    assert await other.counts() == {1: 2}


async def test_a_gateway_that_the_coordinator_does_not_know_yet_is_asked_again(
    coordinator: Coordinator, pair: tuple[Gateway, Gateway]
) -> None:
    one, other = pair
    one.answer(2)
    coordinator.living.remove("a")
    await one.exchange.report()
    assert await other.counts() == {1: 0}
    coordinator.living.add("a")
    await one.exchange.report()
    assert await other.counts() == {1: 2}


def test_of_gateways_that_have_ended_the_sum_is_kept_of_the_versions_that_answered_last() -> None:
    statistics, last = GatheredStatistics(), KEPT_VERSIONS + 10
    for number in range(1, last + 1):
        rows = [VersionStatistics(version, last_inference=number, success=1) for version in (0, number)]
        statistics.exchange(Told(f"gateway {number}", rows, [0, number], asks=False), {f"gateway {number}"})
    others = statistics.exchange(Told("last", [], [], asks=True), {"last"}).others
    counts = {row.version: row.success for row in others}
    assert counts.pop(0) == last
    assert counts == dict.fromkeys(range(last - KEPT_VERSIONS + 2, last + 1), 1)
    assert list(statistics._of) == ["last"]


async def test_a_new_coordinator_is_told_everything_by_those_that_live(
    coordinator: Coordinator, pair: tuple[Gateway, Gateway]
) -> None:
    one, other = pair
    for version in (1, 2, 3):
        one.answer(version, version=version)
    await one.exchange.report()
    coordinator.statistics = GatheredStatistics()
    one.answer(10, version=3)
    await one.exchange.report()
    assert await other.counts() == {1: 1, 2: 2, 3: 13}


async def test_without_a_coordinator_nothing_is_lost_and_nobody_gets_a_part_for_the_whole(
    coordinator: Coordinator, pair: tuple[Gateway, Gateway]
) -> None:
    one, other = pair
    one.answer(2)
    coordinator.away = True
    await one.exchange.report()
    with pytest.raises(TryAgain):
        await one.exchange.total()
    coordinator.away = False
    await one.exchange.report()
    assert await other.counts() == {1: 2}


async def test_a_late_message_takes_nothing_back(coordinator: Coordinator, pair: tuple[Gateway, Gateway]) -> None:
    one, other = pair
    one.answer(1)
    early = [row.copy() for row in one.figures.versions.values()]
    one.answer(1)
    await one.exchange.report()
    coordinator.statistics.exchange(Told("a", early, [1], asks=False), coordinator.living)
    assert await other.counts() == {1: 2}


async def test_a_version_that_nobody_knows_is_named(pair: tuple[Gateway, Gateway]) -> None:
    with pytest.raises(UnknownVersion, match="holds no version 9: version 1 answers"):
        await pair[0].exchange.messages("9")


async def test_a_row_has_all_that_a_client_reads(pair: tuple[Gateway, Gateway]) -> None:
    pair[0].figures.note_unanswered(HTTP, RequestOutcome.INVALID, 0.5)
    (row,) = await pair[0].exchange.messages()
    durations: dict[str, Any] = row["inference_stats"]
    names = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert durations.keys() == names
    assert durations["fail"] == {"count": 1, "ns": 500_000_000}
    assert (row["version"], row["last_inference"], row["batch_stats"]) == ("1", 0, [])


async def test_no_more_versions_are_kept_than_fit_into_a_message(
    coordinator: Coordinator, pair: tuple[Gateway, Gateway]
) -> None:
    one, other = pair
    one.figures.current = 1
    for version in range(1, KEPT_VERSIONS + 3):
        one.answer(1, version=version)
        await one.exchange.report()
    counts = await other.counts()
    assert counts.keys() == {1, *range(4, KEPT_VERSIONS + 3)}, "the one that answers, and the last"
    assert one.figures.total("inference_count") == KEPT_VERSIONS + 2
    assert set(coordinator.sent[:-1]) == {1}
    assert one.exchange._sent.keys() == one.figures.versions.keys()
