"""The two ends of a link in two processes, as a gateway and a replica have them, and what goes between them costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import uvloop
from numpy.typing import NDArray

from aoti_serve.address import Address
from aoti_serve.link.client import Link
from aoti_serve.link.messages import AnswerMessage, BatchMessage
from aoti_serve.link.server import LinkServer

KB, MB = 2**10, 2**20
SMALL, LARGE = 4 * KB, 64 * MB
LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
NODES = {"Unix": "here", "TCP": "elsewhere"}
Bytes = NDArray[np.uint8]


class Wanted(IntEnum):
    """What the replica's end is to do; it goes as the batch's fence, which has no other use here."""

    ECHO = 0
    TAKE = 1  # and answer with next to nothing
    GIVE = 2  # as many bytes as TAKE has taken
    CPU = 3  # seconds of its process


class Trips(NamedTuple):
    """Seconds of each, and the CPU of each end, in µs for each."""

    seconds: list[float]
    gateway: float
    replica: float


class Cost(NamedTuple):
    """Of 4 KB there and back in µs, of 64 MB there, and back, in GB/s; CPU in µs for each batch of 4 KB."""

    median: float
    p99: float
    there: float
    back: float
    gateway: float
    replica: float


async def measured(address: Address, node: str, rounds: int) -> Cost:
    link = await Link("mlp", address, "gateway").connect(node)
    trips = await echoed(link, SMALL, rounds)
    few = max(rounds // 100, 5)
    there = await times(link, np.ones(LARGE, np.uint8), Wanted.TAKE, few)
    back = await times(link, np.zeros(1, np.uint8), Wanted.GIVE, few)
    link.transport.close()
    await link.closed
    median, p99 = (1e6 * float(np.quantile(trips.seconds, share)) for share in (0.5, 0.99))
    return Cost(median, p99, _speed(there), _speed(back), trips.gateway, trips.replica)


async def echoed(link: Link, size: int, rounds: int) -> Trips:
    """So many bytes there and back, one batch at a time."""
    array = np.zeros(size, np.uint8)
    await times(link, array, Wanted.ECHO, rounds // 10)
    theirs, ours = await cpu(link), time.process_time()
    seconds = await times(link, array, Wanted.ECHO, rounds)
    gateway, replica = time.process_time() - ours, await cpu(link) - theirs
    return Trips(seconds, 1e6 * gateway / rounds, 1e6 * replica / rounds)


def _speed(seconds: list[float]) -> float:
    return LARGE / statistics.median(seconds) / 1e9


async def times(link: Link, array: Bytes, wanted: Wanted, rounds: int) -> list[float]:
    """Seconds of each; the first ones, which fetch pages, are left out."""
    found = []
    for turn in range(rounds + 2):
        began = time.perf_counter()
        await link.ask(BatchMessage([array], wanted))
        if turn >= 2:
            found.append(time.perf_counter() - began)
    return found


async def cpu(link: Link) -> float:
    answer = await link.ask(BatchMessage([np.zeros(1, np.uint8)], Wanted.CPU))
    return float(answer.outputs[0][0])


@contextmanager
def replica(loop: str) -> Iterator[Address]:
    """A replica's end in a process of its own, with this event loop."""
    spawning: Any = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=replied, args=(loop, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def replied(loop: str, parent: Connection) -> None:
    LOOPS[loop](answering(parent))


async def answering(parent: Connection) -> None:
    kept = np.ones(LARGE, np.uint8)

    async def run(_: str, batch: BatchMessage) -> AnswerMessage:
        outputs: dict[int, list[NDArray[Any]]] = {
            Wanted.ECHO: list(batch.arrays),
            Wanted.TAKE: [kept[:1]],
            Wanted.GIVE: [kept],
            Wanted.CPU: [np.array([time.process_time()])],
        }
        return AnswerMessage(1, 1, outputs[batch.fence])

    server = LinkServer(run)
    await server.open()
    port = await server.open_to_nodes("127.0.0.1")
    parent.send(Address("replica", NODES["Unix"], server.path, 1, server.key, ("127.0.0.1", port)))
    await asyncio.get_running_loop().run_in_executor(None, parent.recv)
    server.close()
