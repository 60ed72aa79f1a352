"""Several threads in one container: what the bare runtime makes of them, and what we do."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aoti_serve.model.aoti import c_abi
from aoti_serve.model.container import Container
from aoti_serve.model.package import Package
from tests.integration import foreign, raw
from tests.integration.foreign import inputs
from tests.integration.models import Compiled
from tests.integration.raw import Lab

Tensors = list[torch.Tensor | None]
LONG = 1 << 17


@pytest.fixture
def folded(lab: Lab) -> Iterator[Container]:
    with Container(Package.open(lab.package("folded"), signature=foreign.NET), num_runners=4) as made:
        yield made


@pytest.fixture
def no_forced_switches() -> Iterator[None]:
    """A thread that does not let go of the GIL itself keeps it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def around(
    patch: pytest.MonkeyPatch, container: Container, enter: Callable[[int], Any], leave: Callable[[], Any]
) -> None:
    """Call `enter` with the number of rows just before native code runs, and `leave` just after."""
    runtime = container._versions.runtime
    native = runtime.run

    def run(given: list[torch.Tensor], stream: int | None) -> Tensors:
        enter(given[0].shape[0])
        outputs = native(given, stream)
        leave()
        return outputs

    patch.setattr(runtime, "run", run)


@pytest.mark.usefixtures("no_forced_switches")
def test_a_run_begins_and_ends_while_another_is_inside_native_code(
    lab: Lab, folded: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lab.endings["loader_holds_the_gil"] == (0, {"inside": False, "ran": 1})
    given, want = inputs(LONG), folded.run(inputs())["logits"]
    alone = folded.run(given)["logits"]
    begun, ended, answers = threading.Event(), threading.Event(), []
    around(monkeypatch, folded, lambda rows: begun.set() if rows == LONG else None, lambda: None)

    def ask() -> None:
        answers.append(folded.run(given)["logits"])
        ended.set()

    thread = threading.Thread(target=ask)
    thread.start()
    begun.wait()
    answer = folded.run(inputs())["logits"]
    assert not ended.is_set()
    thread.join()
    assert torch.equal(answer, want)
    assert torch.equal(answers[0], alone)


async def test_the_event_loop_turns_while_a_run_is_inside_native_code(
    folded: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = threading.Event()
    around(monkeypatch, folded, lambda rows: inside.set(), inside.clear)
    run = asyncio.create_task(asyncio.to_thread(folded.run, inputs(LONG)))
    turns = 0
    while not run.done():
        await asyncio.sleep(0)
        turns += inside.is_set()
    assert turns > 10


def test_answers_are_those_of_torchs_loader_to_the_bit(lab: Lab, folded: Container) -> None:
    assert torch.equal(folded.run(inputs())["logits"], raw.loader(lab.package("folded")).run(inputs())[0])


def test_a_commit_waits_for_the_runs_in_flight_and_for_no_others(
    folded: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 threads saturate 4 runners; the runtime's own lock would let them overtake the swap for seconds."""
    stop, lock, inside, entered, at_swaps = threading.Event(), threading.Lock(), [0], [0], []

    def enter(rows: int) -> None:
        with lock:
            inside[0] += 1
            entered[0] += 1

    def leave() -> None:
        with lock:
            inside[0] -= 1

    def swap() -> None:
        at_swaps.append((inside[0], entered[0]))
        native_swap()

    native_swap = folded._versions.runtime.swap
    monkeypatch.setattr(folded._versions.runtime, "swap", swap)
    around(monkeypatch, folded, enter, leave)
    given = inputs(512)

    def ask() -> None:
        while not stop.is_set():
            folded.run(given)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        folded.stage(foreign.weights(0.5))
        before = entered[0]
        folded.commit()
        running, after = at_swaps[-1]
        assert running == 0
        assert after - before <= 16, "four runs of each thread"
    stop.set()
    for thread in threads:
        thread.join()
    assert len(at_swaps) == 20


def test_eight_threads_load_at_once_and_the_library_is_constructed_by_one_at_a_time(
    mixed: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, overlaps, answers = c_abi._opened, [], []
    start = threading.Barrier(8)

    def open_alone(library: Path) -> Any:
        overlaps.append(not c_abi.construction.locked())
        return opened(library)

    def load() -> None:
        start.wait()
        with Container(mixed.package) as container:
            container.stage(mixed.weights())
            container.commit()
            answers.append(container.run(mixed.inputs)["logits"])

    monkeypatch.setattr(c_abi, "_opened", open_alone)
    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 8
    assert len(answers) == 8
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_a_thread_count_that_is_compiled_in_is_told_and_ours_have_none(lab: Lab, mixed: Compiled) -> None:
    with pytest.warns(UserWarning, match=f"{foreign.FIXED_THREADS} threads"):
        Container(Package.open(lab.package("plain_known")), num_threads=1).close()
    Container(mixed.package, num_threads=1).close()
