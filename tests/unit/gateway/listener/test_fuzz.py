"""Any bytes on a connection are answered in HTTP, or end it; and the next good request is answered."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.gateway.listener.wired import Wired, echo, everything, wired

COUNT = pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
GOOD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
# 501 is for transfer codings, 505 for HTTP/2 and the like.
ANSWERS = {200, 400, 408, 413, 414, 431, 501, 505}

LINES = st.sampled_from(
    [
        *(b"Host: h", b"Host: h\r\nHost: i", b"Content-Length: 4", b"Content-Length: 5", b"Content-Length: -1"),
        *(b"Content-Length: 9" + b"9" * 30, b"Content-Length: 4\r\nContent-Length: 5", b"Content-Length: 0x4"),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, identity"),
        *(b"Expect: 100-continue", b"Expect: 200", b"Connection: close", b"Connection: upgrade\r\nUpgrade: h2c"),
        *(b"X: " + b"x" * 5000, b"X:" + b"\t" * 100, b": nothing", b"X\x00: y", b"X : y", b" folded", b"\xff: \xfe"),
    ]
)
STARTS = st.sampled_from(
    [
        *(b"POST / HTTP/1.1", b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"HEAD * HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        *(b"GET http://h:1/ HTTP/1.1", b"CONNECT h:1 HTTP/1.1", b"GET /%ff%zz HTTP/1.1", b"GET /\xff HTTP/1.1"),
        *(b"PRI * HTTP/2.0", b"GET /", b"GET  / HTTP/1.1", b"get / http/1.1", b"POST / HTTP/9.9", b"x" * 200),
    ]
)
BODIES = st.sampled_from(
    [b"", b"body", b"4\r\nbody\r\n0\r\n\r\n", b"ffffffffffffffff1\r\n", b"0\r\nX: y\r\n\r\n", GOOD]
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One request or two, nearly right; perhaps damaged; or any bytes."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=200))
    pieces = []
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        lines = [draw(STARTS), *draw(st.lists(LINES, max_size=4))]
        pieces.append(b"\r\n".join([*lines, b"", draw(BODIES)]))
    whole = b"".join(pieces)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(whole)))
        whole = draw(st.sampled_from([whole[:at], whole[:at] + draw(st.binary(max_size=3)) + whole[at + 1 :]]))
    return whole


@pytest.fixture(scope="module")
def served() -> Iterator[Wired]:
    with wired(echo) as made:
        yield made


def said(served: Wired, message: bytes) -> bytes:
    """All that comes back for a message, whose end is that of the connection. Raises TimeoutError if none comes."""
    with served.connect() as sock:
        try:
            sock.sendall(message)
            sock.shutdown(socket.SHUT_WR)
            return everything(sock)
        except ConnectionError:
            return b""


def parts_of(answer: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer, but for those that only say that the client may go on."""
    parts = re.split(rb"HTTP/1\.1 (?=[1-5]\d\d )", answer)
    assert parts[0] == b""
    found = [(int(part[:3]), part.partition(b"\r\n\r\n")[2]) for part in parts[1:]]
    return [(status, body) for status, body in found if status != 100]


@COUNT
def test_any_bytes_are_answered_or_ended_and_the_next_good_request_is_answered(served: Wired, count: int) -> None:
    statuses: set[int] = set()

    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(message=messages())
    def ask(message: bytes) -> None:
        for status, body in parts_of(said(served, message)):
            statuses.add(status)
            assert status in ANSWERS
            assert status == 200 or json.loads(body)["error"]
        assert said(served, GOOD).endswith(b"\r\n\r\nbody")

    ask()
    assert {200, 400} <= statuses
