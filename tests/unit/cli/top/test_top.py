"""`aoti-serve top`: what it makes of totals, how it draws that, and what a pipe gets."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import Any

import pytest
from rich.console import Console

from aoti_serve.cli.top.samples import FiguresWindow, Sample, quantile
from aoti_serve.cli.top.view import line_of, sparkline, top_view
from tests.unit.cli.played import NOW, Played, Reply, Stay, as_json, playing, receipt, weights_status

LEFT = b"\x1b[?25h\x1b[?1049l"  # the cursor is shown again, and the screen from before
SAMPLE = Sample(41.25, 0.8, 3.14, 1.5, 7, 0)


def figures(answered: int, failed: int = 0, gateway: str = "g", others: bool = True) -> Any:
    total = {"answered": 2 * answered, "failed": failed, "rows": 6 * answered, "runs": answered}
    latency = {"bounds": [0.001, 0.01], "counts": [answered, 0, 0]}
    own = {"gateway": gateway, "answered": answered, "failed": {"invalid": failed}, "latency": latency}
    return own | {"all": total if others else None, "waiting": 3, "batches": 0, "runners": 1, "replicas": []}


def test_a_sample_is_what_came_since_the_last_seconds_began() -> None:
    window = FiguresWindow()
    assert window.take(figures(100), 0) is None
    assert window.take(figures(110, failed=4), 2) == Sample(12, 0.5, 0.99, 6, 3, 2)
    for second in range(3, 20):
        last = window.take(figures(110, failed=4), second)
    assert last == Sample(0, None, None, None, 3, 0)


def test_gateways_that_take_turns_are_told_apart_and_one_that_has_restarted_begins_anew() -> None:
    window = FiguresWindow()
    assert window.take(figures(100), 0) is None
    assert window.take(figures(900, gateway="other"), 1) is None
    for second in (2, 4):
        for gateway, answered in (("g", 100), ("other", 900)):
            found = window.take(figures(answered + 10 * second, gateway=gateway), second + (gateway == "other"))
            assert found is not None
            assert found.requests == pytest.approx(20)
    assert window.take(figures(5, gateway="other"), 6) is None
    assert window.take(figures(150), 12) is None, "a sample is of the last seconds"


def test_without_a_coordinator_the_gateways_own_counts_are_shown() -> None:
    window = FiguresWindow()
    window.take(figures(100, others=False), 0)
    found = window.take(figures(110, failed=1, others=False), 1)
    assert found is not None
    assert (found.requests, found.errors, found.rows) == (11, 1, None)
    for answered, others in ((120, True), (130, True), (140, False)):  # it comes and goes: nothing is missing
        found = window.take(figures(answered, failed=1, others=others), answered / 10 - 10)
        assert found is not None


@pytest.mark.parametrize(
    ("counts", "part", "milliseconds"),
    [([4, 0, 0], 0.5, 0.5), ([0, 10, 0], 0.5, 5.5), ([0, 0, 3], 0.99, 10), ([0, 0, 0], 0.5, None)],
)
def test_a_quantile_lies_within_its_bucket(counts: list[int], part: float, milliseconds: float | None) -> None:
    assert quantile(counts, [0.001, 0.01], part) == (milliseconds and pytest.approx(milliseconds))


def test_a_sparkline_has_a_gap_where_nothing_is_known() -> None:
    assert sparkline([0, 1, None, 2]) == "▁▅ █"
    assert len(sparkline(range(1000))) < 50
    assert sparkline([]) == ""


def test_it_fits_80_columns() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None)
    on_cpu = {"device": "cpu", "gpu_ids": (), "pid": 4194303, "stage_milliseconds": 1434.1}  # as long as things are
    replicas = tuple(receipt(name, 3, 2).model_copy(update=on_cpu) for name in ("junslvhx", "pefsr8wy"))
    console.print(top_view([SAMPLE] * 100, weights_status(replicas=replicas), "the server has gone", "q ends it", NOW))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("q ends it"), "a terminal of 24 lines cuts off what is below"
    assert any(line.startswith("p99 ms") and "3.14" in line for line in lines)
    assert "the server has gone; trying again" in text.getvalue()
    at = next(at for at, line in enumerate(lines) if line.startswith("junslvhx"))
    assert lines[at + 1].startswith("pefsr8wy"), "a row is a line"
    assert " 3f3a9c1e88d2 " in lines[at]


def test_a_line_has_all_of_it() -> None:
    line = line_of("m", SAMPLE, weights_status())
    assert line.startswith("m  version 3 (step 300)  requests/s 41.2  p50 ms 0.8  p99 ms 3.14  rows in a batch 1.5")
    assert line_of("m", None, None).startswith("m  version -  requests/s -")


def top_of(played: Played, **process: Any) -> subprocess.Popen[str]:
    played.replies["GET /v2/models"] = Reply({"models": ["m"]})
    played.replies["GET /v2/models/m/figures"] = Reply(figures(1))
    command = [sys.executable, "-m", "aoti_serve", "top", "--url", played.url]
    env = {"AOTI_SERVE_ADMIN_TOKEN": "t", "PYTHONPATH": ":".join(sys.path), "TERM": "xterm"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, **(piped | process))


def test_in_a_terminal_it_draws_a_screen_until_q_is_pressed() -> None:
    with playing() as played:
        played.replies["GET /v2/models/m/weights"] = Reply(as_json(weights_status()))
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        with top_of(played, stdin=its, stdout=its, stderr=its) as process:
            os.close(its)
            seen = b""
            while b"q ends it" not in seen or b"requests/s" not in seen or b"version 3" not in seen:
                seen += os.read(ours, 2**16)
            os.write(ours, b"q")
            with suppress(OSError):  # EIO once it has gone
                while rest := os.read(ours, 2**16):
                    seen += rest
        os.close(ours)
        assert process.returncode == 0
        assert seen.rstrip().endswith(LEFT)


def test_a_pipe_gets_a_line_a_second_which_says_when_no_status_comes() -> None:
    with playing() as played:
        played.replies["GET /v2/models/m/weights"] = Reply(as_json(weights_status()))
        played.streams.append([as_json(weights_status()), Stay()])
        with top_of(played) as process:
            assert process.stdout is not None
            assert [next(process.stdout).split("  ")[:2] for _ in range(2)] == [["m", "version 3 (step 300)"]] * 2
            played.replies["GET /v2/models/m/weights/events"] = Reply({"error": "the token was taken back"}, 401)
            played.closing.set()  # ends the stream
            assert any("m: the token was taken back" in line for line in process.stdout)
            process.terminate()


def test_a_wrong_token_ends_it_at_once_and_is_sent_once() -> None:
    with playing() as played:
        played.replies["GET /v2/models/m/weights"] = Reply({"error": "the token is wrong"}, 401)
        with top_of(played) as process:
            assert "the token is wrong" in process.communicate()[1]
        assert process.returncode == 1
        assert played.asked_for("/v2/models/m/weights/events") == []
