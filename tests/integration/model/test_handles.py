"""Handles to tensors come back from every call into the runtime, also from one that fails."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from aoti_serve.errors import RuntimeFailed
from aoti_serve.model.aoti import c_abi
from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.archive.preflight import library_of
from aoti_serve.model.container import Container
from tests.integration.models import Compiled

Watched = Callable[[], object]


def watched() -> tuple[torch.Tensor, Watched]:
    """A tensor, and its memory for as long as anything holds it."""
    array = np.zeros(16, np.float32)
    return torch.from_numpy(array), weakref.ref(array)


def test_a_run_that_fails_before_it_takes_its_inputs_holds_none(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: NativeContainer, name: str, *arguments: Any) -> None:
        raise RuntimeFailed(call=name, detail="Unknown constant state")

    (variant,) = container._versions.runtime._variants
    tensor, memory = watched()
    with monkeypatch.context() as patch:
        patch.setattr(NativeContainer, "_call", refused)
        with pytest.raises(RuntimeFailed, match="constant state"):
            variant.runtime.run([tensor])
    assert memory() is not None
    del tensor
    gc.collect()
    assert memory() is None


class Failing:
    """torch's C shim, of which the second call fails."""

    def __init__(self) -> None:
        self._real: Any = c_abi.libtorch
        self._left = 1

    def aoti_torch_new_tensor_handle(self, handle: ctypes.c_void_p, alias: Any) -> int:
        self._left -= 1
        return int(self._real.aoti_torch_new_tensor_handle(handle, alias)) if self._left >= 0 else 1


def test_aliases_that_are_not_all_made_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, memory = watched()
    handles = c_abi._own([tensor, tensor])
    with monkeypatch.context() as patch:
        patch.setattr(c_abi, "libtorch", Failing())
        with pytest.raises(RuntimeFailed, match="no new handle"):
            c_abi._aliased(handles)
    c_abi.adopt(handles)
    del tensor
    gc.collect()
    assert memory() is None


def test_a_container_that_cannot_be_described_is_deleted(mixed: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[NativeContainer] = []

    def broken(self: NativeContainer, index: int) -> None:
        raise RuntimeFailed(call="GetConstantName", detail="no such constant")

    def delete(self: NativeContainer) -> None:
        deleted.append(self)

    monkeypatch.setattr(NativeContainer, "_constant", broken)
    monkeypatch.setattr(NativeContainer, "delete", delete)
    with pytest.raises(RuntimeFailed, match="no such constant"):
        NativeContainer(library_of(mixed.package.path, mixed.package.extract()), 1, "cpu")
    assert len(deleted) == 1
