"""Gateways and replicas come and go with the load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import httpx
import labour
import psutil
from labour import INFER, ask, outputs_of, row
from served import Server, serving

CLIENTS = 8
AT_ONCE = {"upscale_delay_s": 0, "downscale_delay_s": 0}


def test_replicas_and_gateways_follow_the_load_and_lose_nothing(labour_dir: Path, tmp_path: Path) -> None:
    """Eight clients against a replica that takes one row at a time, wanted: three rows in hand for each."""
    scaling = {"min": 1, "max": 2, "target_ongoing_requests": 3} | AT_ONCE
    gateway = {"replicas": {"min": 1, "max": 2, "target_ongoing_requests": 4} | AT_ONCE}
    config = labour.write_config(labour_dir, tmp_path, gateway, replicas=scaling, batching={"max_batch_size": 1})
    with labour.at_work(tmp_path), serving(config) as server:
        assert counts(server) == (1, 1)
        with asked_all_the_time(server) as answers:
            wait_until(lambda: counts(server) == (2, 2))
        assert answers
        assert all(status == 200 for status, _, _ in answers), answers[:3]
        assert all(found == 2 * tag for _, tag, found in answers)
        wait_until(lambda: counts(server) == (1, 1))
        assert server.http.get("/v2/health/ready").status_code == 200


def counts(server: Server) -> tuple[int, int]:
    """How many replicas and gateways there are."""
    titles = [title_of(process) for process in server.launched.family()]
    return sum("labour-replica" in title for title in titles), sum("default:gateway" in title for title in titles)


def title_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # it has ended meanwhile
        return " ".join(process.cmdline())
    return ""


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        Event().wait(0.2)


@contextmanager
def asked_all_the_time(server: Server) -> Iterator[list[tuple[int, float, float]]]:
    """Status, what was asked, what came back: of every answer."""
    answers: list[tuple[int, float, float]] = []
    stop = Event()

    def client(tag: float) -> None:
        body, headers = ask(row(tag), 0.05)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            while not stop.is_set():
                response = http.post(INFER, content=body, headers=headers)
                outputs = outputs_of(response.content, response.headers["Inference-Header-Content-Length"])
                answers.append((response.status_code, tag, float(outputs["doubled"][0, 0])))

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client, float(tag)) for tag in range(CLIENTS)]
        try:
            yield answers
        finally:
            stop.set()
    for done in running:
        done.result()
