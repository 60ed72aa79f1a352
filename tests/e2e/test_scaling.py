"""Gateways and replicas come and go with the load, and nobody's request is lost over it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import httpx
import psutil
import pytest

from tests.e2e import labour
from tests.e2e.draining import assert_cuts_off_a_long_run
from tests.e2e.labour import INFER, ask, assert_doubled, row
from tests.e2e.served import START_S, Server, serving
from tests.e2e.wire import until

CLIENTS = 8
SOON = {"min": 1, "max": 2, "upscale_delay_s": 1, "downscale_delay_s": 3}


@pytest.fixture(scope="module")
def served(labour_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Up to two replicas, each of which takes one row at a time and should have three in hand; up to two gateways."""
    folder = tmp_path_factory.mktemp("scaling")
    config = labour.write_config(
        labour_dir,
        folder,
        {"replicas": SOON | {"target_ongoing_requests": 4}},
        replicas=SOON | {"target_ongoing_requests": 3},
        batching={"max_batch_size": 1, "max_queue_wait_ms": None},
    )
    with labour.at_work(folder), serving(config, "--drain-seconds", "1") as server:
        yield server


def test_replicas_and_gateways_follow_the_load_and_lose_nothing(served: Server) -> None:
    """Eight clients, then one."""
    assert counts(served) == (1, 1)
    with asking(served, 1):
        with asking(served, CLIENTS - 1):
            until(lambda: counts(served) == (2, 2), START_S)
        until(lambda: counts(served) == (1, 1), START_S)


def test_it_ends_when_the_time_to_drain_is_over(served: Server) -> None:
    assert_cuts_off_a_long_run(served, signals=1, says="1 s are over")


def counts(server: Server) -> tuple[int, int]:
    """How many replicas and gateways there are."""
    titles = [title_of(process) for process in server.launched.family()]
    return sum("labour-replica" in title for title in titles), sum("default:gateway" in title for title in titles)


def title_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # it has ended meanwhile
        return " ".join(process.cmdline())
    return ""


@contextmanager
def asking(server: Server, clients: int) -> Iterator[None]:
    """So many clients that ask again as soon as they are answered; every answer is checked."""
    stop = Event()

    def client(tag: float) -> None:
        body, headers = ask(row(tag), 0.05)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            while not stop.is_set():
                assert_doubled(http.post(INFER, content=body, headers=headers), tag)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, float(tag)) for tag in range(clients)]
        try:
            yield
        finally:
            stop.set()
    for done in running:
        done.result()
