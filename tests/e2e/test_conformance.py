"""The gateway on the wire, byte by byte: what each request is answered, and what becomes of the connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.e2e import labour
from tests.e2e.draining import assert_answers_what_is_in_flight
from tests.e2e.labour import INFER, ask, asked, assert_doubled, infer, noted, outputs_of, posted, row
from tests.e2e.served import Server, serving
from tests.e2e.wire import Wire, head, until

MAX_BODY = 20 * 2**20
MAX_QUEUED = 8
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(labour_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One replica, one runner, one row per run."""
    folder = tmp_path_factory.mktemp("conformance")
    batching = {"max_batch_size": 1, "max_queued_rows": MAX_QUEUED, "max_queue_wait_ms": None}
    config = labour.write_config(labour_dir, folder, {"max_body_bytes": MAX_BODY}, batching=batching)
    with labour.at_work(folder), serving(config) as server:
        yield server


def names(response: httpx.Response) -> set[str]:
    """`Connection: close` comes with what is refused before its body was read."""
    return set(response.headers) - {"date", "connection"}


# Headers and ids


def test_an_answer_in_json_says_what_it_is_and_no_more(served: Server) -> None:
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "seconds", "datatype": "FP32", "shape": [1, 1], "data": [0]},
    ]
    response = served.http.post(INFER, json={"id": "seven", "inputs": tensors, "outputs": [{"name": "doubled"}]})
    assert response.json()["outputs"][0]["data"] == [2, 4]
    assert response.json()["id"] == "seven"
    assert names(response) == {"content-type", "content-length", "x-request-id"}
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Length"] == str(len(response.content))


def test_a_binary_answer_says_where_its_header_ends(served: Server) -> None:
    response = infer(served, 3.0)
    assert_doubled(response, 3.0)
    assert names(response) == {"content-type", "content-length", "x-request-id", "inference-header-content-length"}
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Length"] == str(len(response.content))


def test_the_request_id_is_echoed_or_made_up(served: Server) -> None:
    mine = {"X-Request-ID": "mine"}
    for response in (infer(served, 1.0, headers=mine), served.http.get("/", headers=mine)):
        assert response.headers.get_list("X-Request-ID") == ["mine"]
    made = {served.http.get(path).headers["X-Request-ID"] for path in ("/v2", "/v2", "/nowhere")}
    assert len(made) == 3


# Errors

# One of each status; tests/unit/gateway/http has the others.
ERRORS = [
    pytest.param("POST", INFER, {"content": b"{"}, 400, id="no JSON"),
    pytest.param("GET", "/v2/" + "a" * 8000, {}, 404, id="long path"),
    pytest.param("POST", "/v2/models/other/infer", {"content": b"{}"}, 404, id="model"),
    pytest.param("GET", INFER, {}, 405, id="GET for POST"),
    pytest.param("GET", "/v2/models/labour/weights", {}, 401, id="no token"),
]


@pytest.mark.parametrize(("method", "path", "what", "status"), ERRORS)
def test_an_error_has_its_true_status_and_says_why(
    served: Server, method: str, path: str, what: dict[str, Any], status: int
) -> None:
    response = served.http.request(method, path, **what)
    assert_error(response, status)
    assert names(response) - {"www-authenticate", "allow"} == {
        "content-type",
        "content-length",
        "x-request-id",
    }
    assert ("www-authenticate" in response.headers) == (status == 401)


def assert_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.json().keys() - {"type"} == {"error"}
    assert response.json()["error"]
    assert response.headers["Content-Type"] == "application/json"


def test_a_run_that_fails_is_a_500_and_the_next_one_does_not(served: Server) -> None:
    assert_error(infer(served, float("nan")), 500)
    assert_doubled(infer(served, 1.0), 1.0)


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(served: Server) -> None:
    with Wire(served.port) as wire:
        wire.send(posted(b"", {"Content-Length": str(MAX_BODY + 1)}))
        answer = wire.answer()
    assert answer.status == 413
    assert "gateway.max_" in json.loads(answer.body)["error"]


def test_a_chunked_body_beyond_the_limit_is_refused_where_it_passes_it(served: Server) -> None:
    response = served.http.post(INFER, content=iter([b"x" * MAX_BODY, b"x"]))
    assert_error(response, 413)


def test_a_body_of_exactly_the_limit_is_read(served: Server) -> None:
    binary = {"Inference-Header-Content-Length": "2"}
    assert_error(served.http.post(INFER, content=b"{}" + b"x" * (MAX_BODY - 2), headers=binary), 400)


def test_more_rows_than_may_wait_are_told_when_to_come_again(served: Server) -> None:
    with ThreadPoolExecutor(2 * MAX_QUEUED) as clients:
        responses = list(clients.map(lambda tag: infer(served, tag, 0.2), range(2 * MAX_QUEUED)))
    refused = [response for response in responses if response.status_code != 200]
    assert len(refused) >= MAX_QUEUED - 2
    for response in refused:
        assert_error(response, 503)
        assert int(response.headers["Retry-After"]) >= 1
    for tag, response in enumerate(responses):
        if response not in refused:
            assert_doubled(response, tag)


# Deadlines


def test_a_deadline_that_passes_while_a_request_waits_is_a_504_and_costs_no_run(served: Server) -> None:
    body, fields = ask(row(1001.0), parameters={"timeout": 1_000_000})
    with ThreadPoolExecutor(1) as others:
        first = others.submit(infer, served, 1000.0, 3.0)
        until(lambda: 1000.0 in noted(served))
        with Wire(served.port) as wire:
            wire.send(posted(body, fields) + body)
            late = wire.answer()
            assert not first.done()
            assert (late.status, json.loads(late.body)["type"]) == (504, "DeadlineExceeded")
            assert late.headers["content-type"] == "application/json"
            wire.send(asked(1002.0))
            assert wire.answer().status == 200
        assert_doubled(first.result(), 1000.0)
    assert 1001.0 not in noted(served)


def test_a_deadline_that_passes_during_the_run_is_a_504_and_harms_nobody(served: Server) -> None:
    body, fields = ask(row(18.0), 3.0)
    began = time.monotonic()
    timeout = {"X-Request-Timeout-Seconds": "1"}
    assert_error(served.http.post(INFER, content=body, headers=fields | timeout), 504)
    assert time.monotonic() - began < 3.0
    assert_doubled(infer(served, 19.0), 19.0)


def test_a_deadline_that_passes_while_a_request_is_read_is_a_504_as_well(served: Server) -> None:
    count = 400_000  # numbers in JSON: to read them takes longer than there is
    x = {"name": "x", "datatype": "FP32", "shape": [1, count], "data": [0] * count}
    seconds = {"name": "seconds", "datatype": "FP32", "shape": [1, 1], "data": [0]}
    request = {"inputs": [x, seconds], "outputs": [{"name": "doubled"}], "parameters": {"timeout": 1_000}}
    assert_error(served.http.post(INFER, content=json.dumps(request).encode()), 504)


# Clients that go


def test_a_client_that_goes_while_its_request_waits_costs_no_run(served: Server) -> None:
    with ThreadPoolExecutor(1) as others, ExitStack() as gone:
        first = others.submit(infer, served, 20.0, 1.0)
        until(lambda: 20.0 in noted(served))
        for tag in (21.0, 22.0, 23.0):
            gone.enter_context(Wire(served.port)).send(asked(tag, 1.0))
        assert served.http.get("/v2/health/live").status_code == 200
        gone.close()
        assert_doubled(first.result(), 20.0)
    assert_doubled(infer(served, 24.0), 24.0)
    assert not {21.0, 22.0, 23.0} & set(noted(served))


def test_a_client_that_goes_while_its_request_runs_harms_nobody(served: Server) -> None:
    with Wire(served.port) as wire:
        wire.send(asked(30.0, 0.5))
        until(lambda: 30.0 in noted(served))
    for tag in (31.0, 32.0):
        assert_doubled(infer(served, tag), tag)
    assert noted(served).count(30.0) == 1


def test_a_client_that_goes_takes_no_run_of_others_with_it(served: Server) -> None:
    two_rows, fields = ask(np.repeat(row(33.0), 2, 0), 0.5)
    with ThreadPoolExecutor(1) as others, Wire(served.port) as wire:
        wire.send(posted(two_rows, fields) + two_rows)
        until(lambda: 33.0 in noted(served))
        other = others.submit(infer, served, 34.0)
        until(lambda: noted(served).count(33.0) == 2)  # by now the other's run is at the replica's door
        wire.close()
        assert_doubled(other.result(), 34.0)


def test_a_client_that_goes_in_the_middle_of_its_body_harms_nobody(served: Server) -> None:
    with Wire(served.port) as wire:
        wire.send(asked(40.0)[:-8])
    assert_doubled(infer(served, 41.0), 41.0)
    assert 40.0 not in noted(served)


# Connections


def test_a_connection_is_kept_for_many_requests(served: Server) -> None:
    with Wire(served.port) as wire:
        for tag in range(50):
            wire.send(asked(tag))
            answer = wire.answer()
            assert answer.status == 200
            found = outputs_of(answer.body, answer.headers["inference-header-content-length"])
            np.testing.assert_array_equal(found["doubled"], 2 * row(tag))
        assert wire.connections <= 2


def test_an_error_does_not_end_the_connection(served: Server) -> None:
    with Wire(served.port) as wire:
        for _ in range(3):
            wire.send(posted(b"{", {}) + b"{" + asked(1.0))
            assert [wire.answer().status, wire.answer().status] == [400, 200]


def test_requests_sent_ahead_are_answered_in_order(served: Server) -> None:
    with Wire(served.port) as wire:
        wire.send(asked(50.0, 0.2) + asked(51.0) + head("GET", "/nowhere") + asked(52.0))
        answers = [wire.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 404, 200]
    for tag, answer in ((50.0, answers[0]), (51.0, answers[1]), (52.0, answers[3])):
        found = outputs_of(answer.body, answer.headers["inference-header-content-length"])
        np.testing.assert_array_equal(found["doubled"], 2 * row(tag))


@pytest.mark.parametrize(
    "request_head", [head("GET", "/v2", version="1.0"), head("GET", "/v2", {"Connection": "close"})]
)
def test_a_connection_ends_when_the_client_says_so(served: Server, request_head: bytes) -> None:
    with Wire(served.port) as wire:
        wire.send(request_head)
        answer = wire.answer()
        assert (answer.status, json.loads(answer.body)["name"]) == (200, "aoti-serve")
        assert wire.ended()


def test_bytes_that_are_no_http_get_a_400_and_the_end(served: Server) -> None:
    with Wire(served.port) as wire:
        wire.send(b"nonsense\r\n\r\n")
        assert wire.answer().status == 400
        assert wire.ended()


def test_a_client_may_ask_before_it_sends_the_body(served: Server) -> None:
    body, fields = ask(row(60.0))
    with Wire(served.port) as wire:
        wire.send(posted(body, fields, Expect="100-continue"))
        assert wire.answer().status == 100
        wire.send(body)
        assert wire.answer().status == 200


def test_a_body_in_chunks_is_a_body(served: Server) -> None:
    body, fields = ask(row(61.0))
    assert_doubled(served.http.post(INFER, content=iter([body[:7], body[7:200], body[200:]]), headers=fields), 61.0)


def test_many_headers_are_passed_over(served: Server) -> None:
    headers = {f"X-Header-{number}": "value" * 10 for number in range(80)} | {"X-Long": "v" * 4000}
    assert_doubled(infer(served, 62.0, headers=headers), 62.0)


def test_a_body_that_trickles_in_holds_up_nobody(served: Server) -> None:
    whole = asked(70.0)
    with Wire(served.port) as wire:
        for start in range(0, len(whole), 32):
            wire.send(whole[start : start + 32])
            assert_doubled(infer(served, start), start)
        answer = wire.answer()
    assert answer.status == 200


def test_a_client_that_does_not_read_holds_up_nobody(served: Server) -> None:
    wide = row(71.0, 2**22)
    body, fields = ask(wide, 0.0, "doubled")
    with Wire(served.port) as wire:
        wire.send(posted(body, fields) + body)
        until(lambda: 71.0 in noted(served))
        for tag in range(10):
            assert_doubled(infer(served, tag), tag)
        answer = wire.answer()
    assert np.array_equal(
        outputs_of(answer.body, answer.headers["inference-header-content-length"])["doubled"], 2 * wide
    )


@pytest.mark.parametrize("output", ["doubled", "copies"])
def test_16_mb_go_in_and_64_mb_come_out(served: Server, output: str) -> None:
    wide = np.arange(2**22, dtype=np.float32)[None]
    body, fields = ask(wide, 0.0, output)
    response = served.http.post(INFER, content=body, headers=fields)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Length"] == str(len(response.content))
    found = outputs_of(response.content, response.headers["Inference-Header-Content-Length"])[output]
    assert np.array_equal(found, np.tile(2 * wide, 4 if output == "copies" else 1))


# Health; the last ones, as they kill


def test_health_follows_the_replica(served: Server) -> None:
    """While there is none the server lives and is not ready; then all is as before."""
    assert health(served) == [200, 200, 200]
    (replica,) = processes(served, "labour-replica")
    replica.kill()
    until(lambda: health(served) == [200, 503, 503])
    until(lambda: processes(served, "labour-replica") not in ([], [replica]) and health(served) == [200, 200, 200])
    assert_doubled(infer(served, 80.0), 80.0)


def test_what_is_in_flight_at_sigterm_is_answered(served: Server) -> None:
    assert_answers_what_is_in_flight(served)


def processes(server: Server, deployment: str) -> list[psutil.Process]:
    found = []
    for process in server.launched.family():
        with suppress(psutil.Error):
            if f"ServeReplica:default:{deployment}" in "".join(process.cmdline()):
                found.append(process)
    return found


def health(server: Server) -> list[int]:
    """The statuses of live, ready, and the model's ready; fewer if nobody answers."""
    paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/labour/ready")
    with suppress(httpx.TransportError):
        return [server.http.get(path).status_code for path in paths]
    return []
