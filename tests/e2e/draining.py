"""The ends of a server that is busy. Each test module that has a server for itself ends it in one of these ways."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil

from tests.e2e.labour import INFER, ask, asked, assert_doubled, infer, noted, row
from tests.e2e.served import Server
from tests.e2e.wire import Wire, until

IN_FLIGHT = 6
FIRST_TAG, LATE_TAG = 900.0, 990.0


def assert_answers_what_is_in_flight(server: Server) -> None:
    """One SIGTERM. New requests are refused meanwhile, and health says so; then no process is left.

    The server has one runner, which runs one row at a time.
    """
    with ThreadPoolExecutor(IN_FLIGHT + 1) as clients:
        in_flight = send_ahead(server, clients, 1.0)

        def stop() -> None:
            server.launched.process.terminate()
            until(lambda: server.http.get("/v2/health/ready").status_code == 503)
            latecomer = clients.submit(statuses_until_it_is_gone, server)
            refused = infer(server, LATE_TAG)
            assert (refused.status_code, "stopped" in refused.json()["error"]) == (503, True)
            assert refused.headers["Retry-After"]
            assert refused.headers["Connection"] == "close"
            for number, answer in enumerate(in_flight):
                assert_doubled(answer.result(), FIRST_TAG + number)
            assert latecomer.result() == {503}

        server.launched.assert_leaves_nothing(stop)


def send_ahead(server: Server, clients: ThreadPoolExecutor, seconds: float) -> Sequence[Future[httpx.Response]]:
    """Requests of which one runs and the others wait, all of them seen by the gateway."""
    in_flight = [clients.submit(infer, server, FIRST_TAG, seconds)]
    until(lambda: in_flight[0].done() or FIRST_TAG in noted(server))
    assert not in_flight[0].done(), in_flight[0].result().text
    in_flight += [clients.submit(infer, server, FIRST_TAG + number, seconds) for number in range(1, IN_FLIGHT)]
    for _ in range(20):  # later ones, which are answered: so those before have been read
        assert server.http.get("/v2").status_code == 200
    return in_flight


def statuses_until_it_is_gone(server: Server) -> set[int]:
    """Of requests over one new connection after the other, until none is taken any more."""
    body, fields = ask(row(LATE_TAG))
    found = set()
    with suppress(httpx.TransportError):
        while True:
            found.add(httpx.post(server.url + INFER, content=body, headers=fields, trust_env=False).status_code)
    return found


def assert_cuts_off_a_long_run(server: Server, signals: int, says: str) -> None:
    """So many SIGTERM end it with status 1 in the middle of a run of ten minutes. It says why."""
    with Wire(server.port) as wire:
        family = server.launched.family()
        wire.send(asked(FIRST_TAG, 600.0))
        until(lambda: FIRST_TAG in noted(server))
        for _ in range(signals):
            server.launched.process.send_signal(signal.SIGTERM)
            until(lambda: "stopping" in server.launched.output)
        assert server.launched.process.wait(20) == 1
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert says in server.launched.output
        assert wire.ended()
