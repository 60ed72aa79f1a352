"""Processors in real processes that crash and hang: it costs the requests over which they do, and nobody else."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aoti_serve.address import Address
from aoti_serve.config import ProcessorConfig
from aoti_serve.errors import (
    NoProcessor,
    ProcessorDied,
    ProcessorFailed,
    ProcessorHung,
    ProcessorRefused,
)
from aoti_serve.gateway.processing.queue import ProcessorQueue
from aoti_serve.link.pool import Pool
from aoti_serve.processor.packed import Held
from aoti_serve.signature.strings import strings_of

ROOT = Path(__file__).parent.parent.parent.parent
NODE = "node"


class Processors:
    """So many processes, each replaced when it ends, as Serve does."""

    def __init__(self, config: dict[str, Any], replicas: int = 1) -> None:
        self.config = ProcessorConfig.model_validate({"class": "tests.processors:Words"} | config)
        self.pool = Pool("m", "gateway", NODE, self._count)
        self.queue = ProcessorQueue("m", self.config, self.pool.ask)
        self.ended = 0
        self._addresses: dict[str, Address] = {}
        self._running = [asyncio.create_task(self._keep()) for _ in range(replicas)]
        self._processes: set[subprocess.Process] = set()
        self._names = count()

    async def ask(self, *words: bytes, timeout: float | None = None) -> list[int]:
        """The lengths of the words, of one request."""
        tensors = {"text": Held("BYTES", strings_of(words, (len(words),)))}
        found = await self.queue.run("before", tensors, len(words), timeout)
        return list(found["n"].array)

    async def up(self, count: int = 1) -> None:
        async with asyncio.timeout(60):
            while self.queue.processors < count:
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        self.queue.close()
        self.pool.close()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _count(self) -> None:
        self.queue.processors = self.pool.runners

    async def _keep(self) -> None:
        while True:
            name = f"p{next(self._names)}"
            config = self.config.model_dump_json(by_alias=True)
            module = "tests.integration.processor.process"
            process = await subprocess.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                config,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={"PYTHONPATH": f"{ROOT}:{ROOT / 'examples/processors'}"},
            )
            self._processes.add(process)
            assert process.stdout is not None
            found = json.loads(await process.stdout.readline())
            self._addresses[name] = Address(name, NODE, found["path"], 1, bytes.fromhex(found["key"]))
            self.pool.follow(self._addresses.values())
            await process.wait()
            self.ended += 1
            del self._addresses[name]
            self.pool.follow(self._addresses.values())


@asynccontextmanager
async def processors(replicas: int = 1, **config: Any) -> AsyncIterator[Processors]:
    found = Processors({"max_queue_wait_ms": 60_000} | config, replicas)
    try:
        await found.up(replicas)
        yield found
    finally:
        await found.close()


async def test_words_go_and_numbers_come_back() -> None:
    async with processors() as found:
        assert await found.ask(b"a", "größe".encode(), b"") == [1, 5, 0]
        assert await asyncio.gather(*(found.ask(b"x" * n) for n in range(20))) == [[n] for n in range(20)]


@pytest.mark.parametrize(
    ("word", "error"),
    [
        pytest.param(b"die", ProcessorDied, id="crash"),
        pytest.param(b"hang", ProcessorHung, id="hang"),
        pytest.param(b"hold", ProcessorDied, id="hang-with-the-gil"),
        pytest.param(b"raise", ProcessorFailed, id="raise"),
        pytest.param(b"refuse", ProcessorRefused, id="refuse"),
        pytest.param(b"\xff", ProcessorRefused, id="no-utf8"),
    ],
)
async def test_what_breaks_a_processor_fails_alone(word: bytes, error: type[Exception]) -> None:
    async with processors(timeout_ms=500) as found:
        first = asyncio.create_task(found.ask(b"first"))
        await asyncio.sleep(0)
        guilty = asyncio.create_task(found.ask(word))  # these wait for the first, and go together
        others = [asyncio.create_task(found.ask(b"x" * n)) for n in range(5)]
        assert await first == [5]
        with pytest.raises(error):
            await guilty
        assert [await other for other in others] == [[n] for n in range(5)]
        assert await found.ask(b"again") == [5]


async def test_with_a_second_one_nobody_waits_for_a_processor_that_hangs() -> None:
    async with processors(2, timeout_ms=20_000) as found:
        guilty = asyncio.create_task(found.ask(b"hang", timeout=3.0))
        await asyncio.sleep(0.1)
        for n in range(10):
            assert await found.ask(b"x" * n, timeout=1.0) == [n]
        guilty.cancel()


async def test_no_processor_in_time_is_an_answer() -> None:
    async with processors(max_queue_wait_ms=200, timeout_ms=5000) as found:
        guilty = asyncio.create_task(found.ask(b"hang"))
        await asyncio.sleep(0.1)
        with pytest.raises(NoProcessor, match="no processor was free within 200 ms"):
            await found.ask(b"x")
        guilty.cancel()


async def test_more_than_it_may_return_is_refused() -> None:
    async with processors(max_result_bytes=800) as found:
        n = np.arange(101)
        with pytest.raises(ProcessorFailed, match=r"processor\.max_result_bytes"):
            await found.queue.run("after", {"n": Held("int64", n)}, len(n), None)
        small = await found.queue.run("after", {"n": Held("int64", n[:3])}, 3, None)
        assert small["letters"].array.tolist() == [b"", b"x", b"xx"]
