"""What one client may cost: each of these held up all others, or took memory without limit, before it was bounded."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from struct import pack

import pytest
from h2.settings import SettingCodes

from aoti_serve.gateway.http2.floods import CONTROL_FRAMES, RESET_FRAMES
from aoti_serve.gateway.http2.frames import (
    LARGEST_WINDOW,
    PREFACE,
    Flag,
    FrameReader,
    Setting,
    frame,
    reset,
    settings,
    window_update,
)
from aoti_serve.gateway.http2.frames import (
    ErrorCode as Code,
)
from aoti_serve.gateway.http2.frames import (
    FrameType as Kind,
)
from aoti_serve.gateway.http2.session import MAX_STREAMS
from aoti_serve.gateway.http2.stream import STREAM_WINDOW, Stream
from aoti_serve.gateway.http2.windows import ReceiveWindow
from tests.unit.gateway.http2.echoing import WAIT, Echoing, Raw, echoing, headers, whole
from tests.unit.gateway.http2.test_connection import PING, answered, end_of

NO_WINDOW = PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 0})
LAST_HEADERS = headers(1, b"\0\x01t\x01r", Flag.END_HEADERS | Flag.END_STREAM)


@pytest.fixture
def pumped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The streams that were looked at for something to send."""
    found, pump = [], Stream.pump

    def counted(stream: Stream) -> None:
        found.append(stream.number)
        pump(stream)

    monkeypatch.setattr(Stream, "pump", counted)
    return found


def full(served: Echoing, client: Raw, body: bytes) -> None:
    """As many answers as may be wait for a window."""
    for number in range(1, 2 * MAX_STREAMS, 2):
        client.send(whole(number, body))
    served.becomes(lambda: len(served.calls) == MAX_STREAMS and all(call.answered for call in served.calls))


@pytest.mark.parametrize("begin", [NO_WINDOW, PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})])
def test_a_window_that_opens_for_one_stream_costs_the_time_of_one(begin: bytes, pumped: list[int]) -> None:
    with echoing() as served, served.raw(begin) as client:
        full(served, client, bytes(100))
        pumped.clear()
        client.send(window_update(0, 1) * 1000, PING)
        client.until(Kind.PING)
        assert len(pumped) <= 1001


def test_settings_cost_the_time_of_one_however_often_they_are_said(pumped: list[int]) -> None:
    with echoing() as served, served.raw(NO_WINDOW) as client:
        full(served, client, b"a")
        pumped.clear()
        changes = b"".join(pack(">HI", Setting.INITIAL_WINDOW_SIZE, size) for size in (1, 0)) * 1000
        client.send(frame(Kind.SETTINGS, 0, 0, changes), PING)
        client.until(Kind.PING)
        assert pumped == []


def test_settings_that_reach_every_stream_count_as_many_frames() -> None:
    with echoing() as served, served.raw(NO_WINDOW) as client:
        full(served, client, b"a")
        client.send(settings({Setting.INITIAL_WINDOW_SIZE: 0}) * (CONTROL_FRAMES // 10))
        assert end_of(client)[0] == Code.ENHANCE_YOUR_CALM
        assert answered(served)


def test_a_request_ends_once() -> None:
    """Each further end was another answer to the same request."""
    with echoing() as served, served.raw(NO_WINDOW) as client:
        client.send(whole(1, b"a"))
        served.becomes(lambda: bool(served.calls) and served.calls[0].answered)
        client.send(LAST_HEADERS)
        assert client.until(Kind.RST_STREAM, 1)[3] == pack(">I", Code.STREAM_CLOSED)
        assert served.calls[0].lost


@pytest.mark.parametrize(
    "made",
    [
        lambda number: whole(number, b"a", WAIT) + reset(number, Code.CANCEL),
        lambda number: whole(number, b"a", WAIT) + frame(Kind.DATA, 0, number, b"more"),
        lambda number: headers(number, b"\x82"),
    ],
    ids=["by-the-client", "made-by-the-client", "malformed"],
)
def test_resets_are_counted_whoever_sends_them(made: Callable[[int], bytes]) -> None:
    with echoing() as served, served.raw() as client:
        client.send(*[made(2 * count + 1) for count in range(CONTROL_FRAMES // RESET_FRAMES + 1)])
        assert end_of(client)[0] == Code.ENHANCE_YOUR_CALM
        assert answered(served)


def test_who_is_answered_may_give_its_windows_back() -> None:
    """gRPC's own client sends two updates for each answer: 5000 calls in a second ended its connection."""
    with echoing() as served, served.raw() as client:
        for number in range(1, CONTROL_FRAMES // 2 + 2, 2):
            client.send(whole(number, b"abcd"), window_update(0, 4) * 4)
            assert client.until(Kind.DATA, number)[3] == b"abcd"


def test_frames_that_nobody_takes_are_kept() -> None:
    reader = FrameReader()
    for found in reader.feed(PING * 3 + PING[:5]):
        assert found[0] == Kind.PING
        break
    assert len(list(reader.feed(PING[5:]))) == 3


def test_a_client_without_a_table_is_told_that_none_is_used() -> None:
    with echoing() as served:
        client = served.client()
        client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
        assert client.answers(client.ask(b"a"), client.ask(b"b")) == [b"a", b"b"]
        client.close()


def test_a_client_that_leaves_before_it_is_accepted_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    with echoing() as served:
        served.in_loop(partial(left_at_once, served))
        assert answered(served)
    assert caplog.records == []


def left_at_once(served: Echoing) -> None:
    for _ in range(20):
        client = socket.create_connection(served.listener.address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        client.close()


def test_an_empty_answer_does_not_wait_for_a_window() -> None:
    with echoing() as served, served.raw(PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 10})) as client:
        client.send(whole(1, b"", WAIT), settings({Setting.INITIAL_WINDOW_SIZE: 0}), whole(3, bytes(11)), PING)
        client.until(Kind.PING)
        served.tell()
        assert client.until(Kind.HEADERS, 1)[1] == Flag.END_HEADERS
        assert client.until(Kind.HEADERS, 1)[1] & Flag.END_STREAM


def test_a_window_never_becomes_larger_than_there_may_be() -> None:
    window = ReceiveWindow(STREAM_WINDOW)
    window.take(STREAM_WINDOW)
    first = window.give(2**32)
    assert first == LARGEST_WINDOW
    window.take(2**20)
    assert window.give(0) == 2**20


def test_http_1_is_answered_in_http_1_alone() -> None:
    with echoing() as served, served.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") as client:
        assert client.socket.recv(2**16).startswith(b"HTTP/1.1 400 Bad Request\r\n")
