"""scripts/bench hostile: its payloads are what they say, and what a server says is told apart."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from httpbench.hostile import payloads
from httpbench.hostile.probe import Waits, summed_up
from httpbench.hostile.report import Outcome
from httpbench.hostile.wire import CLOSED, SILENT, Target, said, unread

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _body(request: bytes) -> Any:
    head, _, body = request.partition(b"\r\n\r\n")
    assert int(head.partition(b"Content-Length: ")[2].split()[0]) == len(body)
    return json.loads(body)


def test_twins_are_as_many_as_asked_for_and_two_share_a_name() -> None:
    names = [entry["name"] for entry in _body(payloads.twins("mlp", 1000))["inputs"]]
    assert len(names) == 1000
    assert [count for _, count in Counter(names).most_common(2)] == [2, 1]


def test_one_output_is_asked_for_many_times() -> None:
    assert _body(payloads.same_output("mlp", "y", 1000))["outputs"] == [{"name": "y"}] * 1000


def test_a_shape_is_nested_as_deep_as_said() -> None:
    assert b'"shape":[[[[[1]]]]]' in payloads.nested_shape("mlp", 5)


@pytest.mark.parametrize("made", [payloads.numbers, payloads.empty_lists, payloads.unknown_inputs])
def test_json_is_valid_and_nearly_as_large_as_said(made: Callable[[str, int], bytes]) -> None:
    request = made("mlp", 200_000)
    _body(request)
    assert 180_000 < len(request) <= 200_500


def test_header_lines_never_end() -> None:
    lines = b"".join(payloads.header_lines(200_000))
    assert len(lines) > 150_000
    assert b"\r\n\r\n" not in lines


async def test_a_status_an_end_and_silence_are_told_apart() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read()

    async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        pass

    async def ignore(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    assert await _said(answer, 10.0) == "413"
    assert await _said(hang_up, 10.0) == CLOSED
    assert await _said(ignore, 0.05) == SILENT


async def test_an_answer_that_was_cut_off_is_told_from_one_that_is_whole() -> None:
    async def whole(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrows")

    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\nrows")

    assert await _serving(whole, lambda to: unread(to, b"x", 0.05)) == "200"
    assert await _serving(cut, lambda to: unread(to, b"x", 0.05)) == "200 cut off"


def test_a_case_fails_if_small_requests_wait_longer_or_fail() -> None:
    calm = Waits(100, 2.0, 5.0, 0)
    assert _outcome(calm, Waits(100, 3.0, 300.0, 0)).met
    assert not _outcome(calm, Waits(100, 3.0, 306.0, 0)).met
    assert not _outcome(calm, Waits(100, 3.0, 5.0, 1)).met


def test_waits_are_summed_up_in_milliseconds() -> None:
    assert summed_up([0.001] * 99 + [0.5], 2) == Waits(100, 1.0, 500.0, 2)
    assert summed_up([], 0) == Waits(0, 0.0, 0.0, 0)


def _outcome(before: Waits, during: Waits) -> Outcome:
    return Outcome("case", "bytes", {"400": 1}, before, during, 0.0, 1.0)


async def _said(handle: Handle, patience: float) -> str:
    return await _serving(handle, lambda to: said(to, [b"x"], patience))


async def _serving(handle: Handle, ask: Callable[[Target], Awaitable[str]]) -> str:
    """Each connection ends with its handler."""

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await handle(reader, writer)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(handled, "127.0.0.1", 0)
    async with server:
        found = await ask(Target("127.0.0.1", server.sockets[0].getsockname()[1], ""))
        await ended.wait()
    return found
