"""The order of calls on a card: what must have arrived before a fold, and what must have ended before a refill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest
import torch
from fake_card import FakeCard
from models import Compiled

from aoti_serve.model import container as container_module
from aoti_serve.model.container import Container
from aoti_serve.model.variants import Variants

RUNNERS = 2


class OnFake(NamedTuple):
    """A container whose device and runtime take notes."""

    container: Container
    calls: list[str]


@pytest.fixture
def on_fake(mixed: Compiled, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnFake]:
    card = FakeCard(RUNNERS)
    monkeypatch.setattr(container_module, "device_of", lambda device, num_runners: card)
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


def test_copies_have_arrived_before_the_runtime_folds_or_flips(on_fake: OnFake, mixed: Compiled) -> None:
    calls = swap(on_fake, mixed.weights())
    last_copy = max(index for index, call in enumerate(calls) if call == "copy")
    arrived = len(calls) - 1 - calls[::-1].index("copies synchronized")
    assert last_copy < arrived < calls.index("runtime.stage") < calls.index("runtime.swap")
    assert calls.count("copy") == len(mixed.package.constants)


def test_pinned_memory_is_reused_only_when_its_copy_has_left(on_fake: OnFake, mixed: Compiled) -> None:
    """Two pieces of pinned memory take turns; each waits for the event of its own last copy, and records a new one."""
    calls = [call for call in swap(on_fake, mixed.weights()) if "event" in call]
    waits = [call.removeprefix("wait for ") for call in calls if call.startswith("wait for") and "copies" in call]
    records = [call for call in calls if call.endswith("on copies") and not call.startswith("wait")]
    assert waits == records[:-2]  # the third copy waits for the first, and so on


def test_the_old_buffer_is_refilled_only_after_every_runners_stream_has_passed_the_flip(
    on_fake: OnFake, mixed: Compiled
) -> None:
    first = swap(on_fake, mixed.weights())
    recorded = first[first.index("runtime.swap") + 1 :]
    assert [call.split(" on ")[1] for call in recorded] == [f"runner {number}" for number in range(RUNNERS)]
    second = swap(on_fake, mixed.weights())
    before = second[: second.index("copy")]
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
