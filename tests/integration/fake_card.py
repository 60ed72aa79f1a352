"""A card that is none: every call that a real one would get is written down, and the work happens on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.model.device import CHUNK
from aoti_serve.model.device.cuda import CardBlock, CudaDevice


class FakeStream:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.cuda_stream = 0
        self._calls = calls

    def synchronize(self) -> None:
        self._calls.append(f"{self.name} synchronized")

    def wait_stream(self, other: FakeStream) -> None:
        self._calls.append(f"{self.name} waits for {other.name}")


class FakeEvent:
    def __init__(self, number: int, calls: list[str]) -> None:
        self.number = number
        self._calls = calls
        self.stream = "nothing"

    def record(self, stream: FakeStream) -> None:
        self.stream = stream.name
        self._calls.append(f"event {self.number} on {stream.name}")

    def synchronize(self) -> None:
        self._calls.append(f"wait for event {self.number} on {self.stream}")


class FakeBlock(CardBlock):
    """A card's block in the host's memory, on a card that has `room` bytes left."""

    room = 2**30

    def _available(self) -> int:
        return self.room


class FakeCard(CudaDevice):
    """The product's own order of calls, over streams and events that only take notes in `calls`."""

    def __init__(self, num_runners: int) -> None:
        self.calls: list[str] = []
        self._events = 0
        self._made: set[int] = set()
        self._names = iter([*(f"runner {number}" for number in range(num_runners)), "copies"])
        self._asker: Any = FakeStream("the asker", self.calls)
        super().__init__(0, num_runners)
        self.place = torch.device("cpu")

    def allocate(self, nbytes: int) -> CardBlock:
        block = FakeBlock(nbytes, self.place)
        self._made.add(block.tensor.untyped_storage()._cdata)
        return block

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.calls.append("copy")
        super().copy(target, source)

    def copy_bytes(self, target: torch.Tensor, source: NDArray[np.uint8]) -> None:
        self.calls.append("copy")
        super().copy_bytes(target, source)

    def _holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._made

    def _current(self) -> Any:
        return self._asker

    def _on(self, stream: Any) -> AbstractContextManager[object]:
        return self._noted(stream)

    @contextmanager
    def _noted(self, stream: FakeStream) -> Iterator[None]:
        self.calls.append(f"on {stream.name}")
        yield

    def _new_stream(self) -> Any:
        return FakeStream(next(self._names), self.calls)

    def _new_event(self) -> Any:
        self._events += 1
        return FakeEvent(self._events, self.calls)

    def _new_pinned(self) -> Any:
        return torch.empty(CHUNK, dtype=torch.uint8), self._new_event()
