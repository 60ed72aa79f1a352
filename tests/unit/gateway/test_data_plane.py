"""A gateway of several models joins all of them, and serves those that it can."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from ray.serve.handle import DeploymentHandle

from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.errors import Stopping, TryAgain, UnknownModel
from aoti_serve.gateway import data_plane
from aoti_serve.gateway.data_plane import REFUSED_S, DataPlane
from aoti_serve.gateway.request_log import RequestLog, RequestNote
from aoti_serve.gateway.served_model import ServedModel
from tests.unit.clock import in_simulated_time, now, settled
from tests.unit.gateway.http.gateway import NODE, SIGNATURE, Coordinator


def model_of(name: str, coordinator: Coordinator) -> ServedModel:
    config = ModelConfig.model_validate({"name": name, "package": "m.pt2"})
    handle = cast(DeploymentHandle[Any], coordinator)
    return ServedModel("gateway", NODE, config, SIGNATURE, handle, GatewayConfig())


def served(name: str, monkeypatch: pytest.MonkeyPatch, joined: asyncio.Event) -> ServedModel:
    """A model whose coordinator lets the gateway join when the event is set."""
    made = model_of(name, Coordinator())

    async def join() -> None:
        await joined.wait()
        made.membership.joined = True

    monkeypatch.setattr(made.membership, "join", join)
    return made


async def test_a_model_that_cannot_be_joined_keeps_no_gateway_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_plane, "JOIN_S", 0.01)
    good, bad = asyncio.Event(), asyncio.Event()
    models = [served("good", monkeypatch, good), served("bad", monkeypatch, bad)]
    plane = DataPlane(models, 2**20)
    joining = asyncio.create_task(plane.join())
    await asyncio.wait([joining], timeout=0.1)
    assert not joining.done(), "one has to be there"
    good.set()
    await joining
    plane.check_health()
    with pytest.raises(TryAgain, match="'bad'"):
        await plane.model("bad").infer(cast(Any, None), [])
    bad.set()
    await asyncio.wait(plane._joining)
    assert plane.model("bad").membership.joined
    await plane.close()


async def test_a_join_that_fails_is_told_to_the_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_plane, "JOIN_S", 0.01)
    good, bad = asyncio.Event(), asyncio.Event()
    models = [served("good", monkeypatch, good), served("bad", monkeypatch, bad)]

    async def fail() -> None:
        await bad.wait()
        raise RuntimeError("it cannot hold what is committed")

    monkeypatch.setattr(models[1].membership, "join", fail)
    plane = DataPlane(models, 2**20)
    good.set()
    await plane.join()
    bad.set()
    await asyncio.wait(plane._joining)
    with pytest.raises(RuntimeError, match="cannot hold"):
        plane.check_health()
    await plane.close()


async def test_what_is_not_ready_says_of_which_model_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = asyncio.Event()
    models = [served(name, monkeypatch, joined) for name in ("a", "b")]
    plane = DataPlane(models, 2**20)
    models[0].membership.joined = True
    assert plane.reason_not_ready == (
        "model 'a': no replica is connected; model 'b': this gateway has not reached its coordinator yet"
    )
    assert [entry["reason"] for entry in plane.index()] == plane.reason_not_ready.split("; ")
    plane.leave()
    assert plane.reason_not_ready == "the gateway is being stopped"
    with plane.door:
        pass  # whoever still comes is answered
    plane.drain()
    with pytest.raises(Stopping):
        plane.door.__enter__()
    await plane.close()


async def test_a_gateway_waits_for_replicas_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = DataPlane([served("a", monkeypatch, asyncio.Event())], 2**20)
    waiting = asyncio.create_task(plane.become_ready())
    assert not (await asyncio.wait({waiting}, timeout=0.01))[0]
    waiting.cancel()
    monkeypatch.setattr(data_plane, "JOIN_S", 0.01)
    await plane.become_ready()
    assert plane.reason_not_ready
    await plane.close()


async def guess(plane: DataPlane, number: int, model: str = "m") -> None:
    """Try so many wrong tokens, one after the other."""
    for _ in range(number):
        plane.note_refused(model, "GET /", "192.0.2.1", "the token is wrong")
        await settled()


def counts(coordinator: Coordinator) -> list[str]:
    """How many attempts each line of the audit tells of."""
    return [facts["since_last"] for method, facts in coordinator.calls if method == "refused"]


@in_simulated_time
async def test_refused_attempts_have_a_line_a_second_and_all_are_counted_though_nobody_tries_again() -> None:
    coordinator = Coordinator()
    plane = DataPlane([model_of("m", coordinator)], 2**20)
    others = asyncio.all_tasks()
    await guess(plane, 5)
    assert counts(coordinator) == ["1"]
    await asyncio.sleep(REFUSED_S)
    assert counts(coordinator) == ["1", "4"]
    await asyncio.sleep(10 * REFUSED_S)
    assert asyncio.all_tasks() == others
    await guess(plane, 2, model="made up")
    assert counts(coordinator) == ["1", "4"]
    await guess(plane, 1)
    assert counts(coordinator) == ["1", "4", "3"]
    await plane.close()


@in_simulated_time
async def test_a_gateway_that_closes_writes_the_line_that_is_due() -> None:
    coordinator = Coordinator()
    plane = DataPlane([model_of("m", coordinator)], 2**20)
    await guess(plane, 3)
    await plane.close()
    assert counts(coordinator) == ["1", "2"]
    assert now() < REFUSED_S


async def test_the_log_line_of_a_request_names_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = DataPlane([served("good", monkeypatch, asyncio.Event())], 2**20)
    with RequestNote(RequestLog(0), None, "GET", "/", "1") as note:
        plane.model("good")
        with pytest.raises(UnknownModel):
            plane.model("bad")
    assert note.model == "good"
    await plane.close()
