"""Bodies are bounded before they are read."""

from __future__ import annotations

import pytest
from starlette.types import Message

from aoti_serve.errors import BodyTooLarge, InvalidBody, JsonTooLarge, ReadingTooMuch
from aoti_serve.gateway.http.bodies import BodyStream, read_body, stream_body
from aoti_serve.gateway.in_flight import SMALL, BodyLimits, ReadingBudget, Share


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


async def read(sender: Sender, limit: int) -> BodyStream:
    with Share(ReadingBudget(2**30)) as share:
        return await read_body(sender.receive, sender.headers, BodyLimits(limit, "gateway.max_body_bytes"), share)


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
        await read(sender, 10)
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
    seen = [(piece, sender.asked) async for piece in stream_body(sender.receive, sender.headers, BodyLimits(10, "s"))]
    assert seen == [(b"a", 1), (b"bc", 3)]


async def test_a_bound_says_what_is_raised_beyond_it() -> None:
    sender = Sender(b"x" * 11, length="11")
    with Share(ReadingBudget(100)) as share, pytest.raises(JsonTooLarge, match=r"10 bytes \(s\); send the tensors"):
        await read_body(sender.receive, sender.headers, BodyLimits(10, "s", JsonTooLarge), share)


async def test_a_compressed_stream_is_refused_in_few_words() -> None:
    sender = Sender(b"")
    sender.headers[b"content-encoding"] = b"gzip" * 5_000
    with pytest.raises(InvalidBody, match="Content-Encoding 'gzipgzip") as caught:
        await anext(stream_body(sender.receive, sender.headers, BodyLimits(10, "s")))
    assert len(str(caught.value)) < 200


LARGE = 2 * SMALL
BOUND = BodyLimits(100 * LARGE, "s")


async def read_together(sender: Sender, share: Share) -> BodyStream:
    return await read_body(sender.receive, sender.headers, BOUND, share)


async def test_an_announced_body_has_its_room_before_it_is_read_and_until_it_is_answered() -> None:
    budget = ReadingBudget(3 * LARGE)
    first, second = (Sender(b"x" * LARGE, length=str(LARGE)) for _ in range(2))
    large = Sender(b"", length=str(2 * LARGE + 1))
    with Share(budget) as one:
        await read_together(first, one)
        assert budget.held == LARGE
        with Share(budget) as other, pytest.raises(ReadingTooMuch, match=r"gateway\.max_reading_bytes.* again in 1 s"):
            await read_together(large, other)
        with Share(budget) as other:
            await read_together(second, other)
            assert budget.held == 2 * LARGE
    assert budget.held == 0


async def test_a_body_that_finds_no_room_is_not_read_at_all() -> None:
    budget, sender = ReadingBudget(LARGE), Sender(b"", length=str(LARGE + 1))
    with Share(budget) as share, pytest.raises(ReadingTooMuch) as caught:
        await read_together(sender, share)
    assert (sender.asked, budget.held, caught.value.http_status) == (0, 0, 503)


@pytest.mark.parametrize("length", [pytest.param(None, id="chunked"), pytest.param("3", id="a-lie")])
async def test_a_body_that_is_not_announced_takes_room_as_it_comes(length: str | None) -> None:
    budget, sender = ReadingBudget(LARGE), Sender(*[b"x" * SMALL] * 10, length=length)
    with Share(budget) as share, pytest.raises(ReadingTooMuch):
        await read_together(sender, share)
    assert (sender.asked, budget.held) == (3, 0)


async def test_small_bodies_are_read_however_many_large_ones_are_on_their_way() -> None:
    budget = ReadingBudget(LARGE)
    with Share(budget) as hog, Share(budget) as share:
        hog.grow(LARGE)
        assert len(await read_together(Sender(b"x" * SMALL, length=str(SMALL)), share)) == SMALL
        assert budget.held == LARGE


async def test_the_room_is_given_back_when_a_request_fails() -> None:
    budget = ReadingBudget(LARGE)
    share = Share(budget)
    share.grow(LARGE)
    with pytest.raises(ValueError, match="mine"), share:
        raise ValueError("mine")
    assert budget.held == 0


async def test_an_announced_body_lies_in_memory_that_may_be_written() -> None:
    sender = Sender(b"a" * SMALL, b"b" * SMALL, length=str(LARGE))
    with Share(ReadingBudget(LARGE)) as share:
        body = await read_together(sender, share)
    assert (bytes(body), memoryview(body).readonly) == (b"a" * SMALL + b"b" * SMALL, False)


@pytest.mark.parametrize("pieces", [pytest.param(1, id="less"), pytest.param(3, id="more")])
async def test_a_body_has_the_length_that_was_announced(pieces: int) -> None:
    sender = Sender(*[b"x" * SMALL] * pieces, b"", length=str(LARGE))
    with Share(ReadingBudget(LARGE)) as share, pytest.raises(InvalidBody, match=f"Content-Length is {LARGE}"):
        await read_together(sender, share)
