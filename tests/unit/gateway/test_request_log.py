"""What the log has of requests: lines on demand and by sample, and every failure of ours once."""

from __future__ import annotations

import logging

import pytest

from aoti_serve.errors import AotiServeError, DeadlineExceeded, MissingInput, NotServed, QueueFull, RuntimeFailed
from aoti_serve.gateway.request_log import RequestLog, RequestNote, note_error, note_model, note_run

FULL = QueueFull(model="m", waiting="9 rows", limit="8", setting="max_queued_rows", retry_after=1)
LATE = DeadlineExceeded(model="m", timeout=1.0)
BROKEN = RuntimeFailed(call="run", detail="an illegal memory access")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(log: RequestLog, error: AotiServeError | None = None, version: int | None = None, path: str = "/infer") -> None:
    with RequestNote(log, ("127.0.0.1", 4711), "POST", path, "mine") as note:
        note.status = error.http_status if error else 200
        note_model("digits")
        if error is not None:
            note_error(error)
        if version is not None:
            note_run(version, "r1")


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_line_names_the_request_and_the_version_that_answered(caplog: pytest.LogCaptureFixture) -> None:
    ask(RequestLog(1), version=7)
    [record] = caplog.records
    assert record.message.startswith('127.0.0.1:4711 "POST /infer" 200 ')
    assert record.message.endswith(" ms version 7")
    facts = vars(record)
    known = {"request_id": "mine", "status": 200, "weights_version": 7, "error": "", "model": "digits", "ran_on": "r1"}
    sent = {"client": "127.0.0.1:4711", "method": "POST", "path": "/infer"}
    assert facts.items() >= (known | sent).items()
    assert 0 <= facts["duration_ms"] < 10_000


def test_all_access_lines_have_the_same_fields(caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(1)
    ask(log, version=7)
    ask(log, MissingInput(name="secret"))
    log.refused(("127.0.0.1", 4711), 431, "too many headers")
    assert len({frozenset(vars(record)) for record in caplog.records}) == 1


def test_a_failure_names_its_model(caplog: pytest.LogCaptureFixture) -> None:
    ask(RequestLog(0), BROKEN)
    [record] = caplog.records
    assert vars(record)["model"] == "digits"


def test_what_is_never_served_is_the_clients_error(caplog: pytest.LogCaptureFixture) -> None:
    ask(RequestLog(0), NotServed(what="shared memory", instead="send the tensors"))
    assert not caplog.records


def test_a_clients_error_is_one_line_by_its_name_and_only_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    ask(RequestLog(0), MissingInput(name="secret"))
    assert not caplog.records
    ask(RequestLog(1), MissingInput(name="secret"))
    [record] = caplog.records
    assert record.message.endswith(" ms MissingInput")
    assert record.exc_info is None


def test_a_failure_of_ours_is_a_line_each_time_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(0)
    for _ in range(3):
        ask(log, BROKEN)
    assert caplog.messages == ["/infer: RuntimeFailed: run: an illegal memory access"] * 3
    assert all(record.exc_info is None and vars(record)["request_id"] == "mine" for record in caplog.records)


def test_an_overload_is_a_line_a_second_that_counts_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RequestLog(0, clock)
    for _ in range(100):
        ask(log, FULL)
    clock.now = 1.0
    ask(log, LATE)
    first, second = caplog.messages
    assert first == f"/infer: QueueFull: {FULL}"
    assert second == f"/infer: DeadlineExceeded: {LATE} (99 others since the last such line)"


def test_a_rate_is_the_part_of_the_requests_that_get_a_line(caplog: pytest.LogCaptureFixture) -> None:
    chances = iter([0.005, 0.5, 0.01, 0.0099])
    log = RequestLog(0.01, chance=lambda: next(chances))
    for _ in range(4):
        ask(log)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("path", ["/\n200 forged", "/\x1b[2J", "/" + "x" * 10_000])
def test_no_path_makes_two_lines_of_one(path: str, caplog: pytest.LogCaptureFixture) -> None:
    ask(RequestLog(1), BROKEN, path=path)
    assert len(caplog.messages) == 2
    assert all(line.isprintable() and len(line) < 500 for line in caplog.messages)


def test_what_was_refused_before_it_was_a_request_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    RequestLog(1).refused(("127.0.0.1", 4711), 431, "too many headers")
    assert caplog.messages == ['127.0.0.1:4711 "" 431 too many headers']


def test_outside_of_a_request_nothing_is_noted() -> None:
    note_run(1, "r1")
    note_model("digits")
    note_error(BROKEN)
