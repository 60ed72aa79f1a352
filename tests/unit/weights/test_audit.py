"""The audit log: a line for every attempt, whatever stands in it, and never in the way of a swap."""

from __future__ import annotations

import json
import logging
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.weights import audit
from aoti_serve.weights.audit import AuditLog


def lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.decode("ascii").splitlines()]


def test_a_line_says_what_was_told_and_when(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    facts: dict[str, Any] = {"who": "token 1a2b", "action": "swap", "version": 3, "error": None, "seconds": 0.25}
    log.write(**facts)
    log.write(outcome="refused", where=Path("/x"))
    first, second = lines(tmp_path / "audit.jsonl")
    assert {name: first[name] for name in facts} == facts
    assert datetime.fromisoformat(first["time"]).utcoffset() == timedelta(0)
    assert (second["outcome"], second["where"]) == ("refused", "/x")


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").write(who="me")
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


@given(text=st.text())
def test_no_text_breaks_a_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "audit.jsonl"
    path.unlink(missing_ok=True)
    AuditLog(path).write(label=text, who="\n\r\x00\u2028\ud800{}")
    [line] = lines(path)
    assert line["label"] == text


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").write(error="x" * 10**6)
    assert len(lines(tmp_path / "audit.jsonl")[0]["error"]) == audit.MAX_TEXT


def test_it_is_rotated_and_its_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_FILE_BYTES", 1000)
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(200):
        log.write(number=number)
    names = ["audit.jsonl.4", "audit.jsonl.3", "audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    kept = [line["number"] for name in names for line in lines(tmp_path / name)]
    assert kept == list(range(kept[0], 200))
    assert all((tmp_path / name).stat().st_size < 1200 for name in names)


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    threads = [threading.Thread(target=lambda: log.write(text="x" * 3000)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path / "audit.jsonl")) == 16


def test_a_line_that_broke_off_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"time": "20')
    AuditLog(path).write(who="me")
    assert json.loads(path.read_text().splitlines()[1])["who"] == "me"


def test_without_a_file_the_logger_has_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "aoti_serve.audit"):
        AuditLog(None).write(who="me %s")
    [record] = caplog.records
    assert json.loads(record.getMessage())["who"] == "me %s"


def test_a_disk_that_refuses_hands_the_lines_to_the_logger_and_complains_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(tmp_path / "gone" / "audit.jsonl")
    with caplog.at_level(logging.WARNING, "aoti_serve.audit"):
        for number in range(3):
            log.write(number=number)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 4
    assert "cannot be written" in texts[0]
    assert [json.loads(text)["number"] for text in texts[1:]] == [0, 1, 2]
    (tmp_path / "gone").mkdir()
    log.write(number=3)
    assert lines(tmp_path / "gone" / "audit.jsonl")[0]["number"] == 3


def test_a_full_disk_stops_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(AuditLog, "_rotate", lambda *_: None)
    AuditLog(Path("/dev/full")).write(who="me")
    assert "No space left" in caplog.text
    assert '"who": "me"' in caplog.text


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "other")
    AuditLog(tmp_path / "audit.jsonl").write(who="me")
    assert not (tmp_path / "other").exists()
    assert '"who": "me"' in caplog.text
