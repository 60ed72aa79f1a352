"""Each answer says which request it belongs to; with an access log, so does a line for each."""

from __future__ import annotations

import logging
import re

import pytest
from starlette.types import Message, Receive, Scope, Send

from aoti_serve.gateway.http.request_id import REQUEST_ID, RequestIdMiddleware
from aoti_serve.gateway.request_log import RequestLog


class Teapot:
    """An ASGI application."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope[REQUEST_ID])
        if scope["path"] == "/crash":
            raise ValueError("mine")
        await send({"type": "http.response.start", "status": 418, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"short and stout"})


async def answer(
    app: RequestIdMiddleware, *headers: tuple[bytes, bytes], path: str = "/", method: str = "GET"
) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    client = ("127.0.0.1", 4711)
    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "client": client}
    await app(scope, receive, send)
    return sent


async def identity(*headers: tuple[bytes, bytes]) -> bytes:
    teapot = Teapot()
    start, _ = await answer(RequestIdMiddleware(teapot, RequestLog(0)), *headers)
    (first, (name, value)) = start["headers"]
    assert (first, name, [value.decode()]) == ((b"a", b"b"), b"x-request-id", teapot.seen)
    assert isinstance(value, bytes)
    return value


@pytest.mark.parametrize("sent", [b"1", b"0af7651916cd43dd8448eb211c80319c", b'a/b;c="d"', b"~" * 128])
async def test_the_clients_name_for_its_request_is_kept(sent: bytes) -> None:
    assert await identity((b"host", b"x"), (b"x-request-id", sent)) == sent


@pytest.mark.parametrize("sent", [b"", b"~" * 129, b"a b", b"a\nb", b"a\x00", b"\xe9", b"a\x1b[2J"])
async def test_a_name_that_is_long_or_cannot_be_printed_is_replaced(sent: bytes) -> None:
    assert re.fullmatch(rb"[0-9a-f]{16}", await identity((b"x-request-id", sent)))


async def test_a_request_without_a_name_gets_one_of_its_own() -> None:
    names = {await identity() for _ in range(100)}
    assert len(names) == 100


async def test_the_access_log_has_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    app = RequestIdMiddleware(Teapot(), RequestLog(1))
    with caplog.at_level(logging.INFO, "aoti_serve.access"):
        await answer(app, (b"x-request-id", b"mine"), path="/v2/models/m/infer", method="POST")
    [line] = caplog.messages
    assert re.fullmatch(r'127\.0\.0\.1:4711 "POST /v2/models/m/infer" 418 \d+\.\d ms', line)
    [record] = caplog.records
    assert (record.request_id, record.status) == ("mine", 418)  # type: ignore[attr-defined]  # `extra` of the call


async def test_a_line_has_no_control_characters_and_an_end(caplog: pytest.LogCaptureFixture) -> None:
    app = RequestIdMiddleware(Teapot(), RequestLog(1))
    await answer(app, (b"x-request-id", b"a\nb"), path="/\n200 forged\x1b" + "x" * 10_000, method="G" * 1_000)
    [line] = caplog.messages
    assert line.isprintable()
    assert len(line) < 500


async def test_a_request_that_is_not_answered_has_its_line_with_status_0(caplog: pytest.LogCaptureFixture) -> None:
    app = RequestIdMiddleware(Teapot(), RequestLog(1))
    with pytest.raises(ValueError, match="mine"):
        await answer(app, path="/crash")
    assert '"GET /crash" 0 ' in caplog.text


async def test_without_an_access_log_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await answer(RequestIdMiddleware(Teapot(), RequestLog(0)))
    assert not caplog.messages
