"""Connections, on the wire: what is asked is answered, and what a client may cost is bounded, in simulated time."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

import pytest
from h2.events import StreamReset

from aoti_serve.gateway.http2 import floods
from aoti_serve.gateway.http2.frames import (
    LARGEST_WINDOW,
    LONGEST_FRAME,
    PREFACE,
    Flag,
    Setting,
    frame,
    frame_head,
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
from aoti_serve.gateway.http2.stream import STREAM_WINDOW
from tests.unit.gateway.http2.echoing import BLOCK, FULL, HELLO, WAIT, Echoing, Raw, echoing, headers, whole

PING = frame(Kind.PING, 0, 0, bytes(8))
SIZES = (0, 1, LONGEST_FRAME, LONGEST_FRAME + 1, 2**16, 3 * 2**20)


CONTROL_FRAMES = 1_000  # in the place of ten times as many: those may take longer than the second in which they count


@pytest.fixture
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floods, "CONTROL_FRAMES", CONTROL_FRAMES)


@pytest.fixture(scope="module")
def served() -> Iterator[Echoing]:
    with echoing() as served:
        yield served


def end_of(client: Raw) -> tuple[Code, str]:
    """Why the server has ended the connection."""
    (last,) = [payload for kind, _, _, payload in client.frames if kind == Kind.GOAWAY]
    return Code(int.from_bytes(last[4:8], "big")), last[8:].decode()


def answered(served: Echoing) -> bool:
    """Somebody else is answered."""
    client = served.client()
    try:
        return client.answers(client.ask(b"still here")) == [b"still here"]
    finally:
        client.close()


@pytest.mark.parametrize("window", [1000, 2**16 - 1, 2**20])
def test_bodies_of_every_size_come_back(served: Echoing, window: int) -> None:
    client = served.client(window=window)
    for size in SIZES:
        body = bytes(range(256)) * (size // 256 + 1)
        assert client.answers(client.ask(body[:size])) == [body[:size]]
    client.close()


def test_many_requests_share_a_connection(served: Echoing) -> None:
    client = served.client()
    bodies = [b"%d" % number * 1000 for number in range(200)]
    assert client.answers(*[client.ask(body) for body in bodies]) == bodies
    client.close()


def test_padding_priorities_trailers_and_headers_in_pieces_are_understood(served: Echoing) -> None:
    with served.raw() as client:
        flags = Flag.PADDED | Flag.PRIORITY
        client.send(
            frame(Kind.HEADERS, flags, 1, b"\x02" + bytes(5) + BLOCK[:3] + bytes(2)),
            frame(Kind.CONTINUATION, 0, 1, BLOCK[3:5]),
            frame(Kind.CONTINUATION, Flag.END_HEADERS, 1, BLOCK[5:]),
            frame(Kind.PRIORITY, 0, 1, bytes(5)),
            frame(99, 0, 1, b"of a later time"),
            frame(Kind.DATA, Flag.PADDED, 1, b"\x03body" + bytes(3)),
            frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 1, b"\0\x01t\x01r"),
        )
        assert client.until(Kind.DATA, 1)[3] == b"body"


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        pytest.param(PING, Code.PROTOCOL_ERROR, "no SETTINGS", id="no-settings"),
        pytest.param(HELLO[24:] + whole(2), Code.PROTOCOL_ERROR, "not begun", id="even-stream"),
        pytest.param(HELLO[24:] + frame(Kind.DATA, 0, 1, b"a"), Code.PROTOCOL_ERROR, "not begun", id="idle-stream"),
        pytest.param(HELLO[24:] + frame(Kind.DATA, 0, 0, b"a"), Code.PROTOCOL_ERROR, "not begun", id="no-stream"),
        pytest.param(HELLO[24:] + headers(1, b"\xff" * 9), Code.COMPRESSION_ERROR, "HPACK", id="no-hpack"),
        pytest.param(HELLO[24:] + headers(1, BLOCK, 0) + PING, Code.PROTOCOL_ERROR, "interrupted", id="interrupted"),
        pytest.param(HELLO[24:] + frame(Kind.CONTINUATION, 4, 1), Code.PROTOCOL_ERROR, "not begun", id="continuation"),
        pytest.param(HELLO[24:] + frame(Kind.PUSH_PROMISE, 4, 1), Code.PROTOCOL_ERROR, "pushes", id="push"),
        pytest.param(HELLO[24:] + frame(Kind.PING, 0, 0, b"a"), Code.FRAME_SIZE_ERROR, "8 bytes", id="ping"),
        pytest.param(HELLO[24:] + frame(Kind.SETTINGS, 0, 0, b"a"), Code.FRAME_SIZE_ERROR, "6 each", id="settings"),
        pytest.param(HELLO[24:] + frame(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR, "of a stream", id="settings-of-one"),
        pytest.param(HELLO[24:] + window_update(0, 0), Code.PROTOCOL_ERROR, "by nothing", id="window-by-0"),
        pytest.param(HELLO[24:] + window_update(0, LARGEST_WINDOW), Code.FLOW_CONTROL_ERROR, "window", id="window"),
        pytest.param(
            HELLO[24:] + settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR, "window", id="first"
        ),
        pytest.param(HELLO[24:] + frame_head(LONGEST_FRAME + 1, Kind.DATA, 0, 1), Code.FRAME_SIZE_ERROR, "at most",
                     id="long-frame"),
        pytest.param(
            HELLO[24:] + headers(1, b"\0\x01a\x7f\x81\xff\x02" + bytes(2**14 - 7), 0)
            + frame(Kind.CONTINUATION, 0, 1, bytes(2**14)) * 8,
            Code.ENHANCE_YOUR_CALM, "gateway.max_header_bytes", id="long-headers"),
        pytest.param(
            HELLO[24:] + headers(1, BLOCK + b"\x90" * 16_000), Code.ENHANCE_YOUR_CALM, "gateway.max_headers",
            id="many-headers"),
        pytest.param(
            HELLO[24:] + headers(1, BLOCK, 0) + frame(Kind.CONTINUATION, 0, 1) * (CONTROL_FRAMES + 1),
            Code.ENHANCE_YOUR_CALM, "for nothing", id="continuation-flood"),
        pytest.param(HELLO[24:] + PING * (CONTROL_FRAMES + 1), Code.ENHANCE_YOUR_CALM, "for nothing", id="ping-flood"),
        pytest.param(HELLO[24:] + settings({}) * (CONTROL_FRAMES + 1), Code.ENHANCE_YOUR_CALM, "for nothing",
                     id="settings-flood"),
        pytest.param(
            HELLO[24:] + headers(1) + frame(Kind.DATA, 0, 1) * (CONTROL_FRAMES + 1),
            Code.ENHANCE_YOUR_CALM, "for nothing", id="empty-data-flood"),
        pytest.param(
            HELLO[24:] + headers(1) + frame(Kind.DATA, 0, 1, bytes(LONGEST_FRAME)) * 4 + headers(3)
            + frame(Kind.DATA, Flag.PADDED, 3, b"\xff" + bytes(9)),
            Code.PROTOCOL_ERROR, "padding", id="padding"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("few_frames")
def test_what_breaks_the_rules_ends_its_connection_in_words_and_no_other(
    served: Echoing, sent: bytes, code: Code, words: str
) -> None:
    with served.raw(PREFACE) as client:
        client.send(sent)
        found, text = end_of(client)
    assert (found, words in text) == (code, True), text
    assert answered(served)


def test_data_beyond_the_window_ends_the_connection(served: Echoing) -> None:
    with served.raw() as client:
        client.send(headers(1, FULL), frame(Kind.DATA, 0, 1, bytes(LONGEST_FRAME)) * (STREAM_WINDOW // LONGEST_FRAME))
        client.send(PING)
        client.until(Kind.PING)
        client.send(frame(Kind.DATA, 0, 1, b"a"))
        assert end_of(client) == (Code.FLOW_CONTROL_ERROR, "1 bytes beyond the window")
    assert answered(served)


@pytest.mark.parametrize(
    "block",
    [b"\x82", BLOCK + b"\0\x01A\x01b", b"\0\x01a\x01b" + BLOCK, BLOCK + b"\0\x0aconnection\x05close", BLOCK + BLOCK],
    ids=["no-path", "upper-case", "order", "connection", "twice"],
)
def test_a_malformed_request_ends_its_stream_alone(served: Echoing, block: bytes) -> None:
    with served.raw() as client:
        client.send(headers(1, block), whole(3, b"next"))
        found = []
        for kind, _, number, payload in client.frames:
            found.append((kind, number, payload))
            if (kind, number) == (Kind.DATA, 3):
                break
    assert (Kind.RST_STREAM, 1, pack(">I", Code.PROTOCOL_ERROR)) in found
    assert found[-1][2] == b"next"


def test_data_after_the_end_of_a_request_resets_it() -> None:
    with echoing() as served, served.raw() as client:
        wait = BLOCK + b"\0\x01a\x01b"
        client.send(headers(1, wait), frame(Kind.DATA, 0, 1, b"a"), frame(Kind.DATA, Flag.END_STREAM, 1))
        client.send(frame(Kind.DATA, 0, 1, b"more"), whole(3, b"next"))
        assert client.until(Kind.DATA, 3)[3] == b"next"


def test_a_client_that_gives_up_is_no_longer_answered() -> None:
    with echoing() as served:
        client = served.client()
        number = client.ask(b"a", "/wait")
        client.answers(client.ask(b"read"))
        client.h2.reset_stream(number)
        assert client.answers(client.ask(b"next")) == [b"next"]
        assert [call.lost for call in served.calls] == [True, False, False]
        client.close()


def test_streams_at_once_are_bounded() -> None:
    with echoing() as served, served.raw() as client:
        client.send(*[headers(2 * number + 1) for number in range(MAX_STREAMS + 1)])
        assert client.until(Kind.RST_STREAM, 2 * MAX_STREAMS + 1)[3] == pack(">I", Code.REFUSED_STREAM)
        client.send(*[reset(2 * number + 1, Code.CANCEL) for number in range(MAX_STREAMS)])
        client.send(whole(2 * MAX_STREAMS + 3, b"room again"))
        assert client.until(Kind.DATA, 2 * MAX_STREAMS + 3)[3] == b"room again"


@pytest.mark.usefixtures("few_frames")
def test_frames_for_nothing_are_counted_by_the_second() -> None:
    with echoing() as served, served.raw() as client:
        for number in (1, 3, 5):
            client.send(PING * (CONTROL_FRAMES // 2 + 1), whole(number, b"a"))
            assert client.until(Kind.DATA, number)[3] == b"a"
            served.after(1)


def test_http_1_is_told_where_it_is_answered(served: Echoing) -> None:
    with served.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") as client:
        pieces = b""
        while data := client.socket.recv(2**16):
            pieces += data
    assert b"HTTP/1.1 400 Bad Request" in pieces
    assert b"gateway.http_port" in pieces


@pytest.mark.parametrize("begin", [b"", PREFACE[:10], PREFACE, HELLO + headers(1, BLOCK, 0)])
def test_a_head_that_does_not_come_ends_the_connection(begin: bytes) -> None:
    with echoing() as served, served.raw(begin) as client:
        assert answered(served)
        served.after(served.config.header_timeout_s + 2)
        assert end_of(client) == (Code.NO_ERROR, "headers did not arrive within gateway.header_timeout_s")


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    with echoing() as served, served.raw() as idle:
        client = served.client()
        number = client.ask(b"patience", "/wait")
        assert answered(served)
        served.after(served.config.idle_timeout_s + 2)
        assert end_of(idle)[0] == Code.NO_ERROR
        served.tell()
        assert client.answers(number) == [b"patience"]
        client.close()


def test_a_client_that_is_no_more_is_noticed_by_its_silence() -> None:
    """It is asked whether it is there; `h2` answers by itself, this one does not."""
    with echoing() as served, served.raw(HELLO + headers(1)) as client:
        assert answered(served)
        served.after(2 * served.config.idle_timeout_s + 3)
        assert [kind for kind, *_ in client.frames][-1] == Kind.PING
        assert served.calls[0].lost


def test_an_answer_that_is_not_taken_is_cancelled() -> None:
    with echoing() as served:
        client = served.client(window=1000)
        client.takes = False
        number = client.ask(bytes(5000))
        assert client.answers(client.ask(b"small")) == [b"small"]
        served.after(served.config.write_timeout_s + 2)
        events = [event for event in client.events() if isinstance(event, StreamReset)]
        assert [event.stream_id for event in events] == [number]
        client.close()


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    with echoing() as served, served.raw(PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})) as client:
        client.send(window_update(0, LARGEST_WINDOW - 2**16))
        body = frame(Kind.DATA, 0, 1, bytes(LONGEST_FRAME))
        client.send(headers(1))
        for _ in range(2000):
            client.send(body)
        client.send(frame(Kind.DATA, Flag.END_STREAM, 1))
        served.becomes(lambda: served.calls[0].answered)
        served.after(served.config.write_timeout_s + 2)
        served.becomes(lambda: served.listener.connections == 0)


def test_connections_beyond_the_limit_are_told_so() -> None:
    with echoing(max_connections=1) as served:
        client = served.client()
        assert client.answers(client.ask(b"a")) == [b"a"]
        with served.raw() as other:
            assert end_of(other) == (
                Code.ENHANCE_YOUR_CALM,
                "this gateway has gateway.max_connections connections",
            )
        assert client.answers(client.ask(b"b")) == [b"b"]
        client.close()


def test_what_has_begun_is_answered_before_the_end() -> None:
    with echoing() as served, served.raw() as client:
        client.send(whole(1, b"begun", WAIT), whole(3, b"read"))
        client.until(Kind.DATA, 3)
        served.leave()
        told = client.until(Kind.GOAWAY)[3]
        assert told == pack(">II", LARGEST_WINDOW, Code.NO_ERROR) + b"this server is being stopped"
        client.send(whole(5, b"not heard yet"))
        assert client.until(Kind.DATA, 5)[3] == b"not heard yet"
        served.tell()
        assert client.until(Kind.DATA, 1)[3] == b"begun"
        served.clock.now += 2
        assert client.until(Kind.GOAWAY)[3] == pack(">II", 5, Code.NO_ERROR)


def test_a_stream_window_is_what_it_says(served: Echoing) -> None:
    with served.raw() as client:
        (hello,) = [payload for kind, flags, _, payload in [client.until(Kind.SETTINGS)] if not flags]
        assert pack(">HI", Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW) in hello
