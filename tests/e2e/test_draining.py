"""SIGTERM: what is in flight is answered, nothing new is taken, and it ends in time."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e import labour
from tests.e2e.labour import INFER, ask, asked, assert_doubled, infer, row
from tests.e2e.served import Server, serving
from tests.e2e.toil import NOTES
from tests.e2e.wire import Wire, until

FLYING = 6


@contextmanager
def one_runner(package: Path, folder: Path, *options: str) -> Iterator[Server]:
    config = labour.write_config(package, folder, {}, batching={"max_batch_size": 1})
    with labour.at_work(folder), serving(config, *options) as server:
        yield server


def fly(server: Server, clients: ThreadPoolExecutor, seconds: float) -> Sequence[Future[httpx.Response]]:
    """Requests of which one runs and the others wait, all of them seen by the gateway."""
    notes = server.store.parent / NOTES
    flying = [clients.submit(infer, server, 1.0, seconds)]
    until(lambda: flying[0].done() or (notes.exists() and bool(notes.read_text())))
    assert not flying[0].done(), flying[0].result().text
    flying += [clients.submit(infer, server, float(tag), seconds) for tag in range(2, FLYING + 1)]
    for _ in range(20):  # later ones, which are answered: so those before have been read
        assert server.http.get("/v2").status_code == 200
    return flying


def test_what_is_in_flight_at_sigterm_is_answered(labour_dir: Path, tmp_path: Path) -> None:
    """New requests are refused meanwhile, and health says so; then no process is left."""
    with (
        one_runner(labour_dir, tmp_path) as server,
        ThreadPoolExecutor(FLYING + 1) as clients,
    ):
        family = server.launched.family()
        flying = fly(server, clients, 1.0)
        server.launched.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/v2/health/ready").status_code == 503)
        latecomer = clients.submit(statuses_until_it_is_gone, server)
        refused = infer(server, 100.0)
        assert (refused.status_code, "stopped" in refused.json()["error"]) == (503, True)
        assert refused.headers["Retry-After"]
        assert refused.headers["Connection"] == "close"
        for tag, answer in enumerate(flying, 1):
            assert_doubled(answer.result(), tag)
        assert server.launched.process.wait(60) == 0, server.launched.output
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert "Traceback" not in server.launched.output
        assert latecomer.result() == {503}


def statuses_until_it_is_gone(server: Server) -> set[int]:
    """Of requests over one new connection after the other, until none is taken any more."""
    body, fields = ask(row(100.0))
    found = set()
    with suppress(httpx.TransportError):
        while True:
            found.add(httpx.post(server.url + INFER, content=body, headers=fields, trust_env=False).status_code)
    return found


@pytest.mark.parametrize(
    ("options", "signals", "says"),
    [
        pytest.param(("--drain-seconds", "1"), 1, "1 s are over", id="limit"),
        pytest.param((), 2, "asked again", id="second signal"),
    ],
)
def test_it_ends_when_the_time_is_over_or_it_is_asked_twice(
    options: tuple[str, ...], signals: int, says: str, labour_dir: Path, tmp_path: Path
) -> None:
    with one_runner(labour_dir, tmp_path, *options) as server, Wire(server.port) as wire:
        family = server.launched.family()
        wire.send(asked(1.0, 600.0))
        until((tmp_path / NOTES).exists)
        for _ in range(signals):
            server.launched.process.send_signal(signal.SIGTERM)
            until(lambda: "stopping" in server.launched.output)
        assert server.launched.process.wait(20) == 1
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert says in server.launched.output
        assert wire.ended()
