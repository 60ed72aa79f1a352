"""What a soak makes of what it has seen: latencies by minute, slopes, charts, and the page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from chaoslab.counts import Counts
from chaoslab.nodes import Nodes
from chaoslab.soak.latencies import Latencies
from chaoslab.soak.page import write_page
from chaoslab.soak.plot import round_up
from chaoslab.soak.processes import Processes, Sample, grown
from chaoslab.soak.report import Report, read, report_of, steepest, write

MINUTES = [float(minute) for minute in range(11)]


def processes_seen(**roles: dict[int, list[Sample]]) -> Processes:
    found = Processes(Nodes(0, 0, {}, keep=False))
    found.seen.update({(role, pid): samples for role, series in roles.items() for pid, samples in series.items()})
    return found


def samples(minutes: list[float], memory: float = 100.0, mb_per_minute: float = 0.0) -> list[Sample]:
    return [Sample(minute, memory + mb_per_minute * minute, 20) for minute in minutes]


@pytest.fixture
def report() -> Report:
    latencies = Latencies()
    for milliseconds in range(1, 1001):
        latencies.take(float(milliseconds))
    seen = processes_seen(
        gateway={1: samples(MINUTES), 2: samples(MINUTES, mb_per_minute=0.5)}, replica={3: samples(MINUTES, 300.0)}
    )
    done = {"faults": {"killed replica": 3}, "changes": {"committed": 40}, "rude": {"slow": 7}}
    seconds = {"asked": 600.0, "storm": 300.0, "calm": 300.0}
    return report_of(Counts(requests=1000, retried=4, slowest_ms=1000.0), latencies, seen, seconds, done)


def test_latencies_are_told_by_minute() -> None:
    latencies = Latencies()
    assert latencies.by_minute() == []
    for milliseconds in range(1, 101):
        latencies.take(float(milliseconds))
    assert latencies.by_minute() == [
        {"minute": 1, "requests": 100, "p50_ms": 50.5, "p99_ms": 99.0, "slowest_ms": 100.0}
    ]


def test_a_peak_does_not_make_a_slope() -> None:
    values = [100.0] * len(MINUTES)
    values[5] = 900.0
    assert grown(MINUTES, values).slope == 0.0
    assert grown(MINUTES, [100 + minute for minute in MINUTES]).slope == pytest.approx(60.0)


def test_only_processes_that_lived_through_the_second_half_have_slopes() -> None:
    seen = processes_seen(replica={1: samples(MINUTES), 2: samples(MINUTES[:9]), 3: samples(MINUTES[7:])})
    assert [lived.pid for lived in seen.lived()] == [1]


def test_of_each_kind_the_steepest_process_is_told(report: Report) -> None:
    growth = steepest(report, "memory")
    assert set(growth) == {"gateway", "replica"}
    assert growth["gateway"]["slope"] == pytest.approx(30.0)
    assert growth["replica"]["slope"] == 0.0


def test_a_report_can_be_read_again_and_makes_the_same_page(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path / "soak")
    again = read(tmp_path / "soak")
    pages = []
    for found, name in ((report, "one"), (again, "two")):
        (tmp_path / name).mkdir()
        write_page(found, tmp_path / name / "endurance.md")
        pages.append((tmp_path / name / "endurance.md").read_text())
    assert pages[0] == pages[1]


def test_the_page_has_the_figures_and_its_charts_are_there(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path / "endurance.md")
    page = (tmp_path / "endurance.md").read_text()
    assert "| answers, each checked | 1,000 |" in page
    assert "| **lost** | **0** |" in page
    assert re.search(r"^\| gateway \| 102 \| 105 \| \+30\.0 \| ", page, re.MULTILINE), page
    charts = re.findall(r"\]\((\S+\.svg)\)", page)
    assert len(charts) == 4
    for chart in charts:
        assert ElementTree.parse(tmp_path / chart).getroot().tag.endswith("svg")


@pytest.mark.parametrize(("value", "top"), [(0.7, 1), (1, 1), (3, 5), (51, 100), (1001, 2000)])
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert round_up(value) == pytest.approx(top)
