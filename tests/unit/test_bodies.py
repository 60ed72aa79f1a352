"""Bodies are bounded before they are read."""

from __future__ import annotations

import pytest
from starlette.types import Message

from aoti_serve.errors import BodyTooLarge
from aoti_serve.gateway.bodies import read_body, stream_body


class Sender:
    """An HTTP client as ASGI shows it; counts the pieces that were asked of it."""

    def __init__(self, *pieces: bytes, length: str | None = None) -> None:
        self.asked = 0
        self._pieces = pieces
        self.headers = {} if length is None else {b"content-length": length.encode()}

    async def receive(self) -> Message:
        piece, last = self._pieces[self.asked], self.asked == len(self._pieces) - 1
        self.asked += 1
        return {"type": "http.request", "body": piece, "more_body": not last}


async def read(sender: Sender, limit: int) -> bytes | bytearray:
    return await read_body(sender.receive, sender.headers, limit, "s")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((b"0123456789",), id="one-piece"),
        pytest.param((b"01234", b"", b"56789"), id="pieces"),
        pytest.param((b"0123456789", b""), id="an-empty-end"),
    ],
)
@pytest.mark.parametrize("length", [pytest.param("10", id="announced"), pytest.param(None, id="chunked")])
async def test_a_body_up_to_the_limit_is_read_whole(pieces: tuple[bytes, ...], length: str | None) -> None:
    assert await read(Sender(*pieces, length=length), 10) == b"0123456789"


async def test_a_body_may_be_empty() -> None:
    assert await read(Sender(b""), 10) == b""


@pytest.mark.parametrize("length", [pytest.param("11", id="one-too-many"), pytest.param("9" * 5000, id="endless")])
async def test_an_announced_body_that_is_too_large_is_not_read_at_all(length: str) -> None:
    sender = Sender(b"x" * 11, length=length)
    with pytest.raises(BodyTooLarge, match=r"10 bytes \(gateway\.max_body_bytes\)"):
        await read_body(sender.receive, sender.headers, 10, "gateway.max_body_bytes")
    assert sender.asked == 0


@pytest.mark.parametrize(
    "length", [pytest.param(None, id="chunked"), pytest.param("3", id="a-lie"), pytest.param("many", id="nonsense")]
)
async def test_a_body_that_grows_too_large_is_not_read_to_its_end(length: str | None) -> None:
    sender = Sender(*[b"1234"] * 1000, length=length)
    with pytest.raises(BodyTooLarge):
        await read(sender, 10)
    assert sender.asked == 3


async def test_pieces_are_handed_on_as_they_come() -> None:
    sender = Sender(b"a", b"", b"bc")
    seen = [(piece, sender.asked) async for piece in stream_body(sender.receive, sender.headers, 10, "s")]
    assert seen == [(b"a", 1), (b"bc", 3)]
