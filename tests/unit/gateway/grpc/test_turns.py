"""What a stream may hold whose client takes no answers, and that nothing of it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.grpc.messages import MessageReader, written
from aoti_serve.gateway.grpc.methods import SERVICE
from aoti_serve.gateway.grpc.turns import ANSWERS_AHEAD_BYTES, STREAM_AHEAD
from aoti_serve.gateway.http2.frames import FrameType as Kind
from aoti_serve.gateway.http2.frames import Setting, settings
from aoti_serve.gateway.in_flight import SMALL, BodyLimits, CallBytes, ReadingBudget
from aoti_serve.protocol.grpc.written import delimited
from aoti_serve.protocol.messages import InferResponse
from tests.unit.gateway.grpc.test_call import READY, STREAM, Asker, asker, clock, listener
from tests.unit.gateway.grpc.test_server import Echo, Y, call, channel, request
from tests.unit.gateway.listener.wired import HOST, free_port
from tests.unit.gateway.plane import Plane

FIXTURES = (asker, channel, clock, listener)
MIB = 2**20
ANSWER = 4 * MIB
ROOM = 80 * MIB


class Large(Echo):
    """Answers of four megabytes, once they may go on."""

    elements = ANSWER // 4

    async def infer(self, *asked: Any) -> InferResponse:
        await super().infer(*asked)
        return InferResponse("m", 1, None, [(Y, np.zeros((1, self.elements), np.float32))])


@pytest.fixture
def config() -> GatewayConfig:
    return GatewayConfig(host=HOST, grpc_port=free_port(), max_body_bytes=MIB, max_reading_bytes=ROOM)


@pytest.fixture
async def echo(config: GatewayConfig) -> Large:
    return Large(config)


@pytest.fixture
async def plane(echo: Echo) -> Plane:
    return Plane(echo, ROOM)


async def answers_of(asker: Asker, number: int, count: int) -> list[bytes]:
    """So many messages of a stream's answer."""
    reader, found = MessageReader(BodyLimits(2**30, "s"), CallBytes(ReadingBudget(2**30))), list[bytes]()
    while len(found) < count:
        kind, payload = await asker.next_of(number)
        found += [message.content for message in reader.feed(payload if kind == Kind.DATA else b"", count)]
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_answers_that_nobody_takes_count_in_the_budget_and_are_refused_beyond_it(
    asker: Asker, echo: Echo, plane: Plane
) -> None:
    echo.goes_on.clear()
    asker.write(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    number = asker.begin(STREAM)
    asker.send(number, written(request()) * 30)
    for _ in range(30):
        await echo.arrived.get()
    echo.goes_on.set()
    await until(lambda: not plane.door.inside)
    assert ROOM - ANSWER < plane.budget.held <= ROOM
    asker.write(settings({Setting.INITIAL_WINDOW_SIZE: 2**30}))
    answers = await answers_of(asker, number, 30)
    whole = [len(answer) > ANSWER for answer in answers]
    assert whole == [True] * 20 + [False] * 10  # the first is free, nineteen have room
    assert b"gateway.max_reading_bytes" in answers[-1]
    await until(lambda: plane.budget.held == 0)


async def test_a_stream_whose_answers_wait_has_no_more_of_them_made(asker: Asker, echo: Echo, plane: Plane) -> None:
    asker.write(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    number = asker.begin(STREAM)
    for _ in range(STREAM_AHEAD // 2):
        asker.send(number, written(request()), ends=False)
        await asker.next_of(asker.begin(READY, {}))
    assert echo.arrived.qsize() == ANSWERS_AHEAD_BYTES // ANSWER - 1  # there is more to an answer than its tensor
    asker.write(settings({Setting.INITIAL_WINDOW_SIZE: 2**30}))
    answers = await answers_of(asker, number, STREAM_AHEAD // 2)
    assert all(len(answer) > ANSWER for answer in answers)
    await until(lambda: plane.budget.held == 0)


async def test_a_stream_that_is_left_holds_nothing(asker: Asker, echo: Echo, plane: Plane) -> None:
    asker.write(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    asker.send(asker.begin(STREAM), written(request()) * 5)
    await until(lambda: plane.budget.held > ANSWER)
    asker.close()
    await until(lambda: plane.budget.held == 0)


async def test_small_messages_of_one_call_count_together(channel: grpc.aio.Channel, echo: Large, plane: Plane) -> None:
    """Where the budget has no room for more of them they wait, and none is refused."""
    echo.goes_on.clear()
    echo.elements, more = 2, asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        for number in range(60):
            if number == 30:
                await more.wait()
            yield request() + delimited(15, bytes(SMALL // 8))

    open_stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    answers = asyncio.create_task(_all(open_stream(requests(), timeout=30)))
    for _ in range(30):
        await asyncio.wait_for(echo.arrived.get(), 30)
    assert plane.budget.held >= 30 * SMALL // 8
    plane.budget.limit = plane.budget.held
    more.set()
    await call(channel, "ServerReady")
    assert echo.arrived.qsize() == 0
    echo.goes_on.set()
    found = await answers
    assert (len(found), any(b"max_reading_bytes" in answer for answer in found)) == (60, False)
    await until(lambda: plane.budget.held == 0)


async def _all(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [answer async for answer in stream]
