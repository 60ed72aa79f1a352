"""The cases: what a hostile client sends, to which model, and for how long it waits for an answer.

Each is bounded: the server's own limits, at their defaults, end it, or else the client's patience.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import repeat
from typing import NamedTuple

from httpbench.bodies import BINARY
from httpbench.hostile import payloads
from httpbench.hostile.models import COLUMNS, MLP, TOKENS
from httpbench.hostile.wire import Target, counted, in_turn, said, sliced, unread

MB = 10**6
LARGE_JSON = 8 * 2**20 - 2**10  # just below what the configuration lets in by default
DIGITS = 14  # so many, and no more values are in as much JSON than the configuration lets in by default
PATIENCE_S, TIMES = 60.0, 3
HEADER_S, BODY_S, WRITE_S = 15.0, 100.0, 65.0  # a little more than the server's own limits
CONNECTIONS, HELD_S = 4500, 8.0


class Case(NamedTuple):
    """`attack` gives how often the server has said what; `model` is the one that the small client asks meanwhile."""

    name: str
    sends: str
    attack: Callable[[Target], Awaitable[Counter[str]]]
    model: str = MLP


def all_cases(output: str) -> list[Case]:
    """In order of what they strain: JSON, then sizes, then patience."""
    return [*_json_cases(output), *_large_cases(), *_slow_cases()]


def _json_cases(output: str) -> list[Case]:
    return [
        _repeated("twin inputs", "40,000 inputs, two of one name", payloads.twins(MLP, 40_000)),
        _repeated("one output", "one output asked for 100,000 times", payloads.same_output(MLP, output, 100_000)),
        _repeated("nested shape", 'a "shape" nested 1,000 deep', payloads.nested_shape(MLP, 1000)),
        _by_two("numbers", "8 MB of JSON numbers, 2 clients", payloads.numbers(MLP, LARGE_JSON)),
        _by_two("long numbers", "the same with 14 digits each", payloads.numbers(MLP, LARGE_JSON, DIGITS)),
        _by_two("unknown inputs", "8 MB of small unknown inputs, 2 clients", payloads.unknown_inputs(MLP, LARGE_JSON)),
        _by_two("empty lists", "8 MB of [], 2 clients", payloads.empty_lists(MLP, LARGE_JSON)),
        _repeated("empty rows", "a shape of [2^47, 0]", payloads.rows_without_bytes(TOKENS)),
    ]


def _large_cases() -> list[Case]:
    megabytes = payloads.rows(MLP, 4096, 1024)
    many = payloads.rows(TOKENS, 65_536, COLUMNS)
    return [
        Case("many rows", "one request of 65,536 rows", lambda to: in_turn(to, many, 1, PATIENCE_S), TOKENS),
        Case("large bodies", "16 MB bodies, 4 clients", lambda to: _clients(4, to, megabytes, 2)),
        Case("unread answers", "16 MB answers, never read, 4 clients", lambda to: _unread(4, to, megabytes)),
    ]


def _slow_cases() -> list[Case]:
    return [
        Case("half headers", "200 half-sent headers", _half_headers),
        Case("half bodies", "40 half-sent bodies of 60 MB", _half_bodies),
        Case("header lines", "40 MB of header lines", _header_lines),
        Case("idle", f"{CONNECTIONS:,} connections that send nothing", _idle),
        Case("slow weights", "8 uploads of weights, 1 KB a second", _slow_weights),
    ]


def _repeated(name: str, sends: str, request: bytes) -> Case:
    return Case(name, f"{sends} ({_size(request)})", lambda to: in_turn(to, request, TIMES, PATIENCE_S))


def _by_two(name: str, sends: str, request: bytes) -> Case:
    return Case(name, sends, lambda to: _clients(2, to, request, TIMES))


def _size(request: bytes) -> str:
    return f"{len(request) / MB:.1f} MB" if len(request) > MB / 10 else f"{len(request):,} bytes"


async def _clients(count: int, to: Target, request: bytes, times: int) -> Counter[str]:
    """So many clients, each one request after the other."""
    found = await asyncio.gather(*(in_turn(to, request, times, PATIENCE_S) for _ in range(count)))
    return sum(found, Counter())


async def _unread(count: int, to: Target, request: bytes) -> Counter[str]:
    return await counted(unread(to, request, WRITE_S) for _ in range(count))


async def _half_headers(to: Target) -> Counter[str]:
    started = payloads.head(f"/v2/models/{MLP}/infer", None, {"X-Half": "sent"}, ended=False)
    return await counted(said(to, [started], HEADER_S) for _ in range(200))


async def _half_bodies(to: Target) -> Counter[str]:
    path, half = f"/v2/models/{MLP}/infer", bytes(30 * MB)
    started = payloads.head(path, 60 * MB, {"Content-Type": BINARY, "Inference-Header-Content-Length": "200"})
    return await counted(said(to, [started, *sliced(half)], BODY_S) for _ in range(40))


async def _header_lines(to: Target) -> Counter[str]:
    return await counted([said(to, payloads.header_lines(40 * MB), PATIENCE_S)])


async def _idle(to: Target) -> Counter[str]:
    return await counted(said(to, [], HELD_S) for _ in range(CONNECTIONS))


async def _slow_weights(to: Target) -> Counter[str]:
    headers = {"Content-Type": BINARY, "Authorization": f"Bearer {to.token}"}
    started = payloads.head(f"/v2/models/{MLP}/weights", 8 * MB, headers)
    trickle = [started, *repeat(bytes(1000), round(BODY_S))]
    return await counted(said(to, trickle, BODY_S, pause=1.0) for _ in range(8))
