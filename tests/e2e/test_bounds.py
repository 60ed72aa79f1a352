"""What one client may cost: each kind of excess against a live server, which serves a small client all the while."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from aoti_serve.cluster.transfer.actor import TransferActor
from tests.e2e import labour
from tests.e2e.draining import assert_cuts_off_a_long_run
from tests.e2e.labour import INFER, ask, assert_doubled, infer, noted, posted, row
from tests.e2e.served import Server, serving
from tests.e2e.wire import Wire, head, until

SECONDS = 1
MAX_BODY = 4 * 2**20
MAX_CONNECTIONS = 100
LIMITS = {
    "header_timeout_s": SECONDS,
    "body_timeout_s": SECONDS,
    "idle_timeout_s": 5 * SECONDS,
    "max_connections": MAX_CONNECTIONS,
    "max_body_bytes": MAX_BODY,
    "max_reading_bytes": 2 * MAX_BODY,
    "max_request_rows": 1000,
}
UPLOAD = 128 * 2**20
WEIGHTS = "/v2/models/labour/weights"
LONGEST_ERROR = 1100  # a text of 1 KB in its JSON


@pytest.fixture(scope="module")
def served(labour_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One replica, one runner, eight rows per run, small limits."""
    folder = tmp_path_factory.mktemp("bounds")
    config = labour.write_config(labour_dir, folder, LIMITS, batching={"max_batch_size": 8})
    with labour.at_work(folder), serving(config) as server:
        yield server


@pytest.fixture(autouse=True)
def _is_well_afterwards(served: Server) -> Iterator[None]:
    yield
    if served.launched.process.poll() is None:
        assert_doubled(infer(served, 1.0), 1.0)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]} | changes


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


LABOUR = tensor(name="seconds", shape=[1, 1], data=[0])
EXCESSES = [
    pytest.param({"inputs": [tensor(name=f"x{n}") for n in range(40_000)] + [tensor(), tensor()]}, id="40,002 inputs"),
    pytest.param({"inputs": [tensor(), LABOUR, tensor()]}, id="an input twice"),
    pytest.param({"inputs": [tensor(), LABOUR], "outputs": [{"name": "doubled"}] * 100_000}, id="100,000 outputs"),
    pytest.param({"inputs": [tensor(), LABOUR], "outputs": [{"name": "doubled"}] * 2}, id="an output twice"),
    pytest.param({"inputs": [tensor(shape=nested(900)), LABOUR]}, id="a nested shape"),
    pytest.param({"inputs": [tensor(data=nested(900)), LABOUR]}, id="nested data"),
    pytest.param({"inputs": [tensor(shape=[2**47, 0], data=[]), LABOUR]}, id="rows without bytes"),
    pytest.param({"inputs": [tensor(shape=[1001, 1], data=[0] * 1001), LABOUR]}, id="too many rows"),
    pytest.param({"inputs": [tensor(name="n" * 100_000), LABOUR]}, id="a long name"),
    pytest.param({"inputs": [tensor(datatype="d" * 100_000), LABOUR]}, id="a long datatype"),
    pytest.param({"inputs": [tensor(shape=list(range(100_000))), LABOUR]}, id="a long shape"),
    pytest.param({"inputs": [tensor(), LABOUR], "parameters": {"timeout": "t" * 100_000}}, id="a long parameter"),
]


@pytest.mark.parametrize("request_body", EXCESSES)
def test_a_request_beyond_reason_is_a_short_400(served: Server, request_body: Any) -> None:
    response = served.http.post(INFER, json=request_body)
    assert response.status_code == 400, response.text[:200]
    assert len(response.content) < LONGEST_ERROR


HEADS = [
    pytest.param(head("GET", "/v2", {f"X-{n}": "v" for n in range(200)}), 431, id="many"),
    pytest.param(head("GET", "/v2", {"X": "v" * 2**16}), 431, id="large"),
    pytest.param(head("GET", "/" + "p" * 2**16), 414, id="a long path"),
    pytest.param(b"GET /v2 HTTP/1.1\r\nX-Half: ", 408, id="half"),
]


@pytest.mark.parametrize(("said", "status"), HEADS)
def test_headers_are_bounded_in_bytes_in_number_and_in_time(served: Server, said: bytes, status: int) -> None:
    with Wire(served.port) as wire:
        wire.send(said)
        answer = wire.answer()
        assert (answer.status, list(json.loads(answer.body))) == (status, ["error"])
        assert wire.ended()


def test_a_body_that_stops_is_a_408_and_gives_its_room_back(served: Server) -> None:
    body, fields = ask(row(2.0, 2**18))
    with Wire(served.port) as wire:
        wire.send(posted(body, fields) + body[:-1])
        assert wire.answer().status == 408
        assert wire.ended()


def test_bodies_together_are_bounded_and_small_ones_get_in_all_the_same(served: Server) -> None:
    """Whoever has announced a large body and does not send it has its room for a second, so it may take some tries."""
    wide, fields = ask(row(3.0, 2**19))
    answers: list[httpx.Response] = []

    def is_refused() -> bool:
        with half_sent(served, 2):
            answers.append(served.http.post(INFER, content=wide, headers=fields))
            assert_doubled(infer(served, 3.0), 3.0)
        return answers[-1].status_code == 503

    until(is_refused)
    assert "max_reading_bytes" in answers[-1].json()["error"]
    assert answers[-1].headers["Retry-After"]


@contextmanager
def half_sent(server: Server, count: int) -> Iterator[None]:
    """So many clients that have announced all that a body may have, and sent some of it."""
    with ExitStack() as clients:
        for wire in [clients.enter_context(Wire(server.port)) for _ in range(count)]:
            wire.send(posted(b"", {"Content-Length": str(MAX_BODY), "Inference-Header-Content-Length": "9"}) + b"{")
        yield


def test_an_upload_that_nobody_takes_waits_at_its_client(served: Server) -> None:
    """And not in the gateway's memory; it goes on when somebody does."""
    (gateway,), (transfer,) = processes(served, "gateway"), processes(served, f"ray::{TransferActor.__name__}")
    body = bytes(UPLOAD)
    fields = served.admin | {"Content-Type": "application/octet-stream", "Content-Length": UPLOAD}
    with Wire(served.port) as wire:
        transfer.suspend()
        try:
            before = own_memory(gateway)
            wire.send(head("POST", WEIGHTS, fields))
            taken = wire.offer(body, patience_s=2)
            assert taken < UPLOAD // 2
            assert own_memory(gateway) - before < UPLOAD // 2
            assert_doubled(infer(served, 1.0), 1.0)
        finally:
            transfer.resume()
        wire.send(body[taken:])
        assert wire.answer().status == 400  # zeros are no weights


def processes(server: Server, title: str) -> list[psutil.Process]:
    return [process for process in server.launched.family() if title in " ".join(process.cmdline())]


def own_memory(process: psutil.Process) -> int:
    """Bytes; what it shares with others, as Ray's object store, does not count."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def test_the_log_of_refusals_tells_who_has_really_connected(served: Server) -> None:
    forged = {"X-Forwarded-For": "10.0.0.1", "Authorization": "Bearer wrong"}
    assert served.http.post(f"{WEIGHTS}/rollback", headers=forged).status_code == 401
    log = served.store / "refused.jsonl"
    until(lambda: log.exists() and bool(log.read_text()))
    assert json.loads(log.read_text().splitlines()[-1])["who"] == "127.0.0.1 for 10.0.0.1"


def test_a_connection_too_many_is_told_so(served: Server) -> None:
    with ExitStack() as open_ones:
        for _ in range(MAX_CONNECTIONS + 5):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        with Wire(served.port) as wire:
            answer = wire.answer()
        assert (answer.status, "max_connections" in json.loads(answer.body)["error"]) == (503, True)
    until(lambda: is_well(lambda: infer(served, 5.0).status_code == 200))


def is_well(asks: Callable[[], bool]) -> bool:
    try:
        return asks()
    except httpx.TransportError:
        return False


def test_a_large_request_takes_turns_with_small_ones_that_come_later(served: Server) -> None:
    """Of 40 batches: a small request is answered long before all of them have run."""
    rows, fields = ask(np.repeat(row(6.0), 320, 0), 0.1)
    with Wire(served.port) as wire:
        wire.send(posted(rows, fields) + rows)
        until(lambda: 6.0 in noted(served))
        assert_doubled(infer(served, 7.0), 7.0)
        assert noted(served).count(6.0) < 320
        assert wire.answer().status == 200
        assert noted(served).count(6.0) == 320


def test_a_second_signal_ends_it_in_the_middle_of_a_run(served: Server) -> None:
    """The last one: it ends the server."""
    assert_cuts_off_a_long_run(served, signals=2, says="asked again")
