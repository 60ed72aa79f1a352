"""What calls hold while they are under way, and that they hold nothing afterwards."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import weakref
from struct import pack

import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.grpc.call import GrpcCall, Method
from aoti_serve.gateway.grpc.messages import MessageReader, written
from aoti_serve.gateway.grpc.server import grpc_listener
from aoti_serve.gateway.http2.connection import UNSENT_BYTES, Http2Connection
from aoti_serve.gateway.http2.frames import FrameType as Kind
from aoti_serve.gateway.http2.frames import Setting, settings, window_update
from aoti_serve.gateway.in_flight import BodyLimits, CallBytes, ReadingBudget
from aoti_serve.gateway.listener.server import Listener
from tests.unit.gateway.grpc.test_call import (
    INFER,
    INVALID,
    OF_GRPC,
    OK,
    READY,
    STREAM,
    TOO_MUCH,
    Asker,
    asker,
    clock,
    listener,
)
from tests.unit.gateway.grpc.test_server import config, echo, listener_of, plane, request
from tests.unit.gateway.listener.wired import Clock
from tests.unit.gateway.plane import Plane

FIXTURES = (asker, clock, config, echo, listener, plane)


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[GrpcCall]]:
    """All calls, as long as they are there."""
    found: list[weakref.ref[GrpcCall]] = []
    init = GrpcCall.__init__

    def noted(call: GrpcCall, *arguments: object) -> None:
        init(call, *arguments)  # type: ignore[arg-type]
        found.append(weakref.ref(call))

    monkeypatch.setattr(GrpcCall, "__init__", noted)
    return found


@pytest.mark.parametrize(("message", "code"), [(b"", OK), (b"\xff" * 100, INVALID)], ids=["answered", "failed"])
async def test_nothing_of_a_call_outlives_its_answer(
    asker: Asker, made: list[weakref.ref[GrpcCall]], message: bytes, code: str
) -> None:
    """In a cycle its message would stay until the collector comes, and no limit would count it."""
    gc.disable()
    try:
        for _ in range(3):
            assert (await asker.ask(READY, written(message)))[0] == code
        assert [call() for call in made[:2]] == [None, None]
    finally:
        gc.enable()


async def test_a_call_is_under_way_until_its_answer_is_taken(plane: Plane, config: GatewayConfig) -> None:
    listener = listener_of(plane, config.model_copy(update={"max_connections": 4}))
    await listener.open()
    slow, other = [Asker(*await asyncio.open_connection(*listener.address)) for _ in range(2)]
    slow.write(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    numbers = [slow.begin(INFER) for _ in range(4)]
    for number in numbers:
        slow.send(number, written(request()))
        assert (await slow.next_of(number))[0] == Kind.HEADERS
    assert (await other.ask(INFER, written(request())))[0] == TOO_MUCH
    slow.write(settings({Setting.INITIAL_WINDOW_SIZE: 2**16}))
    assert (await slow.next_of(numbers[-1]))[0] == Kind.DATA
    slow.close()
    other.close()
    await listener.close(0)


async def test_a_stream_whose_answers_are_taken_slowly_goes_on(
    asker: Asker, listener: Listener, clock: Clock, config: GatewayConfig
) -> None:
    """One by one: at each look as much waits as at the last one."""
    first, number = asker.begin(STREAM), asker.begin(STREAM)
    asker.send(first, written(request()))
    while (found := await asker.next_of(first))[0] != Kind.DATA:
        pass
    asker.write(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    asker.send(number, written(request()) * 5)
    for _ in range(5):
        for _ in range(99):
            await asyncio.sleep(0)
        clock.now += config.write_timeout_s * 0.6
        listener.sweep()
        asker.write(window_update(number, len(found[1])))
    assert await asker.end_of(number) == (OK, "")


async def test_a_client_that_reads_nothing_has_no_more_refused(asker: Asker, listener: Listener) -> None:
    last = 0
    for _ in range(30_000):
        last = asker.begin("/no/method")
    other = Asker(*await asyncio.open_connection(*listener.address))
    unsent = 0
    while unsent <= UNSENT_BYTES:
        assert await other.ask(READY, written(b"")) == (OK, "")
        unsent = max(map(_unsent, listener._shared.connections))
    assert unsent < UNSENT_BYTES + 2**14
    assert (await asker.end_of(last))[0] == "12"
    other.close()


def _unsent(connection: object) -> int:
    assert isinstance(connection, Http2Connection)
    return connection.transport.get_write_buffer_size()


def test_a_message_in_small_pieces_takes_the_memory_of_a_message() -> None:
    size = 2**18
    reader = MessageReader(BodyLimits(size, "s"), CallBytes(ReadingBudget(size)))
    sent = bytes(range(256)) * (size // 256)
    pieces = [sent[at : at + 2] for at in range(0, size, 2)]
    assert not list(reader.feed(pack(">BI", 0, size), 1))
    tracemalloc.start()
    try:
        found = [message for piece in pieces[:-1] for message in reader.feed(piece, 1)]
        assert tracemalloc.get_traced_memory()[0] < 2 * size
    finally:
        tracemalloc.stop()
    assert not found
    assert [message.content for message in reader.feed(pieces[-1], 1)] == [sent]


async def test_grpc_web_is_another_protocol(asker: Asker) -> None:
    for kind, wanted in (("-web+proto", "415"), ("+proto", OK), (";charset=utf-8", OK)):
        headers = {**OF_GRPC, "content-type": f"application/grpc{kind}"}
        assert (await asker.ask(READY, written(b""), headers))[0] == wanted


async def test_a_method_that_gives_no_answer_leaves_no_call_behind(plane: Plane, config: GatewayConfig) -> None:
    async def silent(_: GrpcCall) -> None: ...

    listener = grpc_listener({READY: Method(silent)}, plane.budget, config, "the tests")
    await listener.open()
    asker = Asker(*await asyncio.open_connection(*listener.address))
    number = asker.begin(READY)
    asker.send(number, written(b""))
    assert await asker.next_of(number) == (Kind.RST_STREAM, pack(">I", 2))
    asker.close()
    await listener.close(0)
