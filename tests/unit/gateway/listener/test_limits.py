"""What a connection may cost is bounded: each limit, on the wire, in simulated time."""

from __future__ import annotations

import asyncio
import socket

import orjson
import pytest
from starlette.types import Receive, Scope, Send

from aoti_serve.gateway.listener import server
from tests.unit.gateway.listener.wired import Wired, answer, echo, everything, status_of, wired

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


def refused(answered: bytes) -> tuple[int, str]:
    """The status and the words of a refusal, which ends the connection and is short JSON."""
    head, _, body = answered.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert len(body) < 1024
    return status_of(head), orjson.loads(body)["error"]


def sent(served: Wired, request: bytes) -> bytes:
    """All that comes back for these bytes."""
    with served.connect() as client:
        client.sendall(request)
        return everything(client)


def delivered(served: Wired, client: socket.socket) -> None:
    """The listener has read all that this client has sent: it answers another who has come later."""
    connection = served.http()
    connection.request("POST", "/", b"later")
    assert connection.getresponse().read() == b"later"
    connection.close()


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        pytest.param(b"hello\r\n\r\n", 400, "HTTP/1.1 request: Invalid method", id="no-http"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "Host", id="no-host"),
        pytest.param(HEAD + b"host: y\r\n\r\n", 400, "Host", id="two-hosts"),
        pytest.param(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "chunked", id="coding"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "no TLS", id="tls-to-a-plain-port"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "grpc_port", id="http-2-without-an-upgrade"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "path", id="connect"),
        pytest.param(b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505, "HTTP/1.1", id="version"),
        pytest.param(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", 414, "max_header_bytes", id="target"),
        pytest.param(HEAD + b"a: " + b"b" * 40_000 + b"\r\n\r\n", 431, "max_header_bytes", id="header"),
        pytest.param(HEAD + b"a: b\r\n" * 100 + b"\r\n", 431, "max_headers", id="headers"),
        pytest.param(HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400, "HTTP", id="two-lengths"),
        pytest.param(
            HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP", id="smuggling"
        ),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\nx\r\n", 400, "HTTP", id="no-chunk"),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"t: r\r\n" * 100,
            431,
            "max_headers",
            id="trailers",
        ),
    ],
)
def test_a_bad_request_is_refused_in_json(request_: bytes, status: int, word: str) -> None:
    with wired(echo) as served:
        got, text = refused(sent(served, request_))
        assert got == status
        assert word in text


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(HEAD + b"a: ", id="header"),
        pytest.param(b"GET /", id="target"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n1;", id="chunk-extension"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\na: ", id="trailer"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\na: ", id="trailer-of-a-body"),
    ],
)
def test_a_line_that_never_ends_is_refused_after_a_few_pieces(begin: bytes) -> None:
    with wired(echo) as served, served.connect() as client:
        client.sendall(begin)
        client.settimeout(0.01)
        for _ in range(1000):
            try:
                client.sendall(b"b" * 40_000)
                answered = client.recv(2**16)
            except TimeoutError:
                continue
            break
        assert refused(answered)[0] in (400, 431)


def test_a_line_of_forty_megabytes_is_refused_without_a_reset() -> None:
    with wired(echo) as served:
        assert refused(sent(served, HEAD + b"a: " + b"b" * 40_000_000))[0] == 431


@pytest.mark.parametrize("begun", [b"\r\n", b"GET", HEAD, HEAD + b"a: b"], ids=["blank", "verb", "line", "half"])
def test_a_head_that_does_not_come_is_refused_in_time(begun: bytes) -> None:
    with wired(echo) as served, served.connect() as client:
        client.sendall(begun)
        delivered(served, client)
        served.after(9)
        delivered(served, client)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(20)
        served.after(2)
        assert refused(everything(client))[0] == 408


def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    """Browsers open some in advance, and would take a word for the answer to what they ask next."""
    with wired(echo) as served, served.connect() as client:
        delivered(served, client)
        served.after(11)
        assert everything(client) == b""


def test_an_idle_connection_is_closed_without_a_word() -> None:
    with wired(echo) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status_of(client.recv(2**16)) == 200
        served.after(61)
        assert everything(client) == b""


def test_a_body_that_stalls_is_refused() -> None:
    with wired(echo) as served, served.connect() as client:
        client.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        delivered(served, client)
        served.after(32)
        assert refused(everything(client))[0] == 408


def test_a_body_may_take_as_long_as_it_keeps_pace() -> None:
    megabyte = b"a" * 2**20
    with wired(echo, body_timeout_s=3) as served, served.connect() as client:
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % (20 * 2**20))
        for _ in range(20):
            client.sendall(megabyte)
            delivered(served, client)
            served.after(1)
        assert status_of(client.recv(2**16)) == 200


def test_a_body_that_waits_for_the_application_is_not_late() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await released.wait()
        await echo(scope, receive, send)

    released = asyncio.Event()
    size = 8 * 2**20
    with wired(slow) as served, served.connect() as client:
        client.sendall(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        client.setblocking(False)
        left = size
        try:
            while True:
                left -= client.send(b"a" * min(left, 2**20))
        except BlockingIOError:
            pass
        client.settimeout(20)
        delivered(served, client)
        served.after(100)
        served.call(released.set)
        client.sendall(b"a" * left)
        assert status_of(client.recv(2**16)) == 200
        assert left > 0


def test_a_client_that_waits_for_100_continue_is_not_late() -> None:
    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await asyncio.Event().wait()
        await echo(scope, receive, send)

    with wired(busy) as served, served.connect() as client:
        client.sendall(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        delivered(served, client)
        served.after(100)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_a_client_that_takes_nothing_is_cut() -> None:
    async def much(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, b"a" * 64 * 2**20)

    with wired(much) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        client.recv(1)
        served.after(62)
        assert len(everything(client)) < 64 * 2**20


def test_connections_beyond_the_limit_are_told_to_come_later() -> None:
    with wired(echo, max_connections=2) as served, served.connect() as one, served.connect() as two:
        for client in (one, two):
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert status_of(client.recv(2**16)) == 200
        answered = sent(served, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert refused(answered)[0] == 503
        assert b"retry-after: 1\r\n" in answered
        one.shutdown(socket.SHUT_WR)
        assert everything(one) == b"", "the server has seen its end"
        one_more = served.http()
        one_more.request("GET", "/")
        assert one_more.getresponse().status == 200


def test_a_flood_of_pipelined_requests_ends_after_those_that_are_answered() -> None:
    with wired(echo) as served:
        answered = sent(served, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
        assert answered.count(b"HTTP/1.1 200") == 65
        assert refused(answered[answered.rindex(b"HTTP/1.1") :])[0] == 400


def test_a_flood_of_connections_gets_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SURPLUS", 0)
    with wired(echo, max_connections=1) as served, served.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status_of(one.recv(2**16)) == 200
        with served.connect() as two:
            assert two.recv(1) == b""
