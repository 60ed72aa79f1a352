"""Requests and answers over the listener, as clients of every kind send them."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from typing import Any

import orjson
import pytest
from starlette.types import Receive, Scope, Send

from tests.unit.gateway.listener.wired import LARGE, PATIENCE_S, answer, echo, everything, read, status_of, wired


def test_an_answer_says_when_it_was_made_and_no_more() -> None:
    with wired(echo) as served:
        client = served.http()
        client.request("POST", "/", b"hello")
        response = client.getresponse()
        assert response.read() == b"hello"
        assert {name for name, _ in response.getheaders()} == {"date", "content-length"}
        client.close()


def test_a_large_body_comes_and_goes_whole() -> None:
    with wired(echo) as served:
        client = served.http()
        client.request("POST", "/", LARGE)
        assert client.getresponse().read() == LARGE
        client.close()


def test_pipelined_requests_are_answered_in_order() -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n%02d"
    with wired(echo) as served, served.connect() as client:
        client.sendall(
            b"".join(request % number for number in range(50))
            + b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        answered = everything(client)
    bodies = [part.split(b"\r\n\r\n")[1] for part in answered.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"%02d" % number for number in range(50)] + [b""]


def test_a_bad_request_behind_good_ones_is_refused_after_their_answers() -> None:
    with wired(echo) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2 + b"rubbish\r\n\r\n")
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", everything(client))
    assert statuses == [b"200", b"200", b"400"]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_without_a_length_is_framed_as_the_version_says(version: bytes) -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    with wired(stream) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n" % version)
        head, _, body = everything(client).partition(b"\r\n\r\n")
    chunked = b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert body == (chunked if version == b"1.1" else b"onetwo")
    assert (b"transfer-encoding" in head) == (version == b"1.1")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_an_offer_of_another_protocol_is_passed_over(protocol: bytes) -> None:
    offer = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: %b\r\n" % protocol
    with wired(echo) as served, served.connect() as client:
        client.sendall(offer + b"content-length: 5\r\n\r\nhel")
        client.sendall(b"lo" + offer + b"transfer-encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n")
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answered = everything(client)
    assert [part.split(b"\r\n\r\n")[1] for part in answered.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"hello",
        b"you",
        b"",
    ]


def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    async def five(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, b"hello")

    with wired(five) as served, served.connect() as client:
        client.sendall(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answered = everything(client)
    assert b"content-length: 5\r\n" in answered
    assert answered.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0"])
def test_a_line_break_in_a_header_of_the_answer_is_an_error_of_ours(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def injected(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, b"", (b"x-request-id", value))

    with wired(injected) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answered = everything(client)
    assert status_of(answered) == 500
    assert b"set-cookie" not in answered
    assert "control character" in caplog.text


def test_an_application_that_fails_is_answered_for_in_json(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a secret")

    with wired(fails) as served, served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answered = everything(client)
    assert status_of(answered) == 500
    assert "log" in orjson.loads(answered.partition(b"\r\n\r\n")[2])["error"]
    assert b"secret" not in answered
    assert "a secret" in caplog.text


def test_work_that_nobody_waits_for_any_more_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with wired(works) as served:
        with served.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert began.wait(PATIENCE_S)
        assert cancelled.wait(PATIENCE_S)
    assert not caplog.records


def test_who_still_reads_is_told_that_the_client_has_gone() -> None:
    told = threading.Event()

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    with wired(reads) as served:
        with served.connect() as client:
            client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
        assert told.wait(PATIENCE_S)


def test_what_proxies_say_of_a_client_is_not_believed() -> None:
    async def whose(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, repr((scope["client"][0], scope["scheme"])).encode())

    with wired(whose) as served, served.connect() as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\n\r\n"
        )
        assert everything(client).endswith(b"('127.0.0.1', 'http')")


def test_an_application_learns_that_its_client_has_gone() -> None:
    gone = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/gone":
            await gone.wait()
            return await answer(send, 200, b"gone")
        assert await read(receive) == b""
        assert (await receive())["type"] == "http.disconnect"
        gone.set()
        return None

    with wired(waits) as served:
        with served.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        client = served.connect()
        client.sendall(b"GET /gone HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert status_of(everything(client)) == 200
        client.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_an_application_that_reads_slowly_holds_the_client_back(chunked: bool) -> None:
    taken: list[int] = []
    turn, hurry = asyncio.Semaphore(0), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        more: Any = True
        while more:
            if not hurry.is_set():
                await turn.acquire()
            message = await receive()
            taken.append(len(message["body"]))
            more = message["more_body"]
        await answer(send, 200, b"")

    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(LARGE)
    body = (b"40\r\n" + b"a" * 64 + b"\r\n") * 2**19 + b"0\r\n\r\n" if chunked else LARGE
    with wired(slow) as served, served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % length)
        client.setblocking(False)
        left = memoryview(body)
        for _ in range(10):
            left = pushed(client, left)
            served.call(turn.release)
        stuck = len(left)
        client.settimeout(20)
        served.call(hurry.set)
        served.call(turn.release)
        client.sendall(left)
        assert status_of(client.recv(2**16)) == 200
    assert stuck > 0
    assert max(taken) <= 2**20


def pushed(client: socket.socket, left: memoryview) -> memoryview:
    """What is left when the kernel takes no more."""
    try:
        while left:
            left = left[client.send(left) :]
    except BlockingIOError:
        pass
    return left


def test_bad_requests_leave_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), wired(echo) as served, served.connect() as client:
        client.sendall(b"rubbish\r\n\r\n")
        everything(client)
    assert caplog.text == ""
