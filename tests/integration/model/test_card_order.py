"""The order of calls on a card: what must have arrived before a fold, and what must have ended before a refill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from aoti_serve.errors import NotEnoughMemory
from aoti_serve.model import container as container_module
from aoti_serve.model.container import Container
from aoti_serve.model.variants import Variants
from aoti_serve.weights.files.index import read_index
from tests.integration.fake_card import FakeBlock, FakeCard
from tests.integration.models import Compiled

RUNNERS = 2
PIECE = 1000  # some of the constants fit, some do not
Swap = Callable[["OnFake", Mapping[str, torch.Tensor]], list[str]]


class OnFake(NamedTuple):
    """A container whose device and runtime take notes."""

    container: Container
    calls: list[str]


@pytest.fixture
def on_fake(mixed: Compiled, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnFake]:
    card = FakeCard(RUNNERS)
    monkeypatch.setattr(container_module, "open_device", lambda device, num_runners: card)
    for name in ("run", "stage", "swap", "free_inactive"):
        noted(monkeypatch, name, card.calls)
    with Container(mixed.package, num_runners=RUNNERS) as container:
        yield OnFake(container, card.calls)


def noted(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[str]) -> None:
    real = getattr(Variants, name)

    def note(*args: object, **kwargs: object) -> object:
        calls.append(f"runtime.{name}")
        return real(*args, **kwargs)

    monkeypatch.setattr(Variants, name, note)


def swap(fake: OnFake, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """The calls of one stage and commit."""
    fake.calls.clear()
    fake.container.stage(weights)
    fake.container.commit()
    return list(fake.calls)


@pytest.fixture
def swap_bytes(tmp_path: Path) -> Swap:
    """The same with a file's bytes; what is asked of their sender is noted, too."""
    path = tmp_path / "weights.safetensors"

    def swap(fake: OnFake, weights: Mapping[str, torch.Tensor]) -> list[str]:
        save_file(dict(weights), path)
        fake.calls.clear()
        fake.container.stage_bytes(read_index(path), pieces(fake.calls))
        fake.container.commit()
        return list(fake.calls)

    def pieces(calls: list[str]) -> Iterator[NDArray[np.uint8]]:
        content = np.fromfile(path, np.uint8)
        for start in range(0, len(content), PIECE):
            calls.append("piece")
            yield content[start : start + PIECE]

    return swap


@pytest.fixture(params=["tensors", "bytes"])
def swapped(request: pytest.FixtureRequest) -> Swap:
    """Either way."""
    return swap if request.param == "tensors" else request.getfixturevalue("swap_bytes")


def test_copies_have_arrived_before_the_runtime_folds_or_flips(on_fake: OnFake, mixed: Compiled, swapped: Swap) -> None:
    calls = swapped(on_fake, mixed.weights())
    last_copy = max(index for index, call in enumerate(calls) if call == "copy")
    arrived = len(calls) - 1 - calls[::-1].index("copies synchronized")
    assert last_copy < arrived < calls.index("runtime.stage") < calls.index("runtime.swap")
    assert calls.count("copy") >= len(mixed.package.constants)


def test_bytes_reach_the_card_as_they_arrive(on_fake: OnFake, mixed: Compiled, swap_bytes: Swap) -> None:
    calls = swap_bytes(on_fake, mixed.weights())
    calls = calls[calls.index("copies waits for the asker") + 1 : calls.index("copies synchronized", 2)]
    assert calls.count("piece") > 2
    for before, call in pairwise(calls):
        if call == "copy":
            assert before in ("piece", "event 1 on copies", "event 2 on copies")
    with Container(mixed.package) as other:
        other.stage(mixed.weights())
        other.commit()
        want = other.run(mixed.inputs)["logits"]
    assert torch.equal(on_fake.container.run(mixed.inputs)["logits"], want)


def test_memory_moves_only_when_it_was_given_back() -> None:
    """The runtime reads where it was told to: nothing tells it of memory that did not say that it moves."""
    block = FakeBlock(1000, torch.device("cpu"))
    place = block.tensor.data_ptr()
    assert not block.hold()
    assert block.tensor.data_ptr() == place
    block.free()
    assert block.hold()


def test_pinned_memory_is_reused_only_when_its_copy_has_left(on_fake: OnFake, mixed: Compiled, swapped: Swap) -> None:
    """Two pieces of pinned memory take turns; each waits for the event of its own last copy, and records a new one."""
    calls = [call for call in swapped(on_fake, mixed.weights()) if "event" in call]
    waits = [call.removeprefix("wait for ") for call in calls if call.startswith("wait for") and "copies" in call]
    records = [call for call in calls if call.endswith("on copies") and not call.startswith("wait")]
    assert waits == records[:-2]  # the third copy waits for the first, and so on


def test_the_old_buffer_is_refilled_only_after_every_runners_stream_has_passed_the_flip(
    on_fake: OnFake, mixed: Compiled, swapped: Swap
) -> None:
    first = swapped(on_fake, mixed.weights())
    recorded = first[first.index("runtime.swap") + 1 :]
    assert [call.split(" on ")[1] for call in recorded] == [f"runner {number}" for number in range(RUNNERS)]
    second = swapped(on_fake, mixed.weights())
    before = [call for call in second[: second.index("copy")] if call != "piece"]
    assert before == ["copies synchronized", *(f"wait for {call}" for call in recorded), "copies waits for the asker"]


def test_the_old_buffer_is_freed_only_after_every_runners_stream_has_passed_the_flip(
    on_fake: OnFake, mixed: Compiled
) -> None:
    swap(on_fake, mixed.weights())
    swap(on_fake, mixed.weights())
    on_fake.calls.clear()
    on_fake.container.release()
    assert on_fake.calls[-1] == "runtime.free_inactive"
    assert len([call for call in on_fake.calls if call.startswith("wait for event")]) == RUNNERS


def test_what_arrived_of_a_file_that_broke_off_is_freed_only_when_it_is_there(on_fake: OnFake, tmp_path: Path) -> None:
    weights = {spec.name: torch.zeros(spec.shape) for spec in on_fake.container.signature.constants}
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)

    def pieces() -> Iterator[NDArray[np.uint8]]:
        yield np.fromfile(path, np.uint8)[:-1]
        raise ConnectionError

    on_fake.calls.clear()
    with pytest.raises(ConnectionError):
        on_fake.container.stage_bytes(read_index(path), pieces())
    last_copy = max(index for index, call in enumerate(on_fake.calls) if call == "copy")
    assert on_fake.calls[last_copy:].index("copies synchronized") > 0
    assert on_fake.calls[-1] == "runtime.free_inactive"
    assert "runtime.stage" not in on_fake.calls


def test_a_run_has_a_stream_to_itself_and_has_ended_when_its_answer_is_given(on_fake: OnFake, mixed: Compiled) -> None:
    swap(on_fake, mixed.weights())
    on_fake.calls.clear()
    on_fake.container.run(mixed.inputs)
    assert on_fake.calls == ["runner 0 waits for the asker", "on runner 0", "runtime.run", "runner 0 synchronized"]


def test_a_failed_run_too_has_ended_before_its_stream_is_used_again(
    on_fake: OnFake, mixed: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap(on_fake, mixed.weights())
    on_fake.calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Variants, "run", raising)
        with pytest.raises(RuntimeError, match="launch failed"):
            on_fake.container.run(mixed.inputs)
    assert on_fake.calls == ["runner 0 waits for the asker", "on runner 0", "runner 0 synchronized"]
    on_fake.container.run(mixed.inputs)
    on_fake.container.run(mixed.inputs)


def raising(*_: object) -> None:
    raise RuntimeError("launch failed")


def test_a_partial_stage_copies_the_rest_on_the_card(on_fake: OnFake, mixed: Compiled) -> None:
    swap(on_fake, mixed.weights())
    on_fake.calls.clear()
    on_fake.container.stage({"last.bias": torch.ones(4)}, partial=True)
    copies, through_host = (
        on_fake.calls.count("copy"),
        sum(" on copies" in call and "event" in call and not call.startswith("wait") for call in on_fake.calls),
    )
    assert (copies, through_host) == (len(mixed.package.constants), 1)


def test_a_thread_runs_on_the_stream_that_it_had_before(on_fake: OnFake, mixed: Compiled) -> None:
    swap(on_fake, mixed.weights())
    on_fake.calls.clear()
    for _ in range(3):
        on_fake.container.run(mixed.inputs)
    assert [call for call in on_fake.calls if call.startswith("on runner")] == ["on runner 0"] * 3


def test_a_card_without_room_refuses_before_anything_changes(
    on_fake: OnFake, mixed: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap(on_fake, mixed.weights())
    on_fake.calls.clear()
    with monkeypatch.context() as full:
        full.setattr(FakeBlock, "room", 10)
        with pytest.raises(NotEnoughMemory, match="10 are available"):
            on_fake.container.stage(mixed.weights())
    assert not on_fake.calls
    swap(on_fake, mixed.weights())


def test_a_trial_has_a_stream_to_itself_and_has_ended_when_it_returns(on_fake: OnFake, mixed: Compiled) -> None:
    swap(on_fake, mixed.weights())
    for _ in range(2):
        on_fake.container.stage(mixed.weights())
        on_fake.calls.clear()
        on_fake.container.try_staged()
        told, run = on_fake.calls.index("runtime.stage"), on_fake.calls.index("runtime.run")
        assert told < run
        stream = on_fake.calls[run - 1].removeprefix("on ")
        assert on_fake.calls[run - 2 : run] == [f"{stream} waits for the asker", f"on {stream}"]
        assert on_fake.calls[run + 1 :] == [f"{stream} synchronized"]
        on_fake.container.commit()
