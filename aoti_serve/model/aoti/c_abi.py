"""AOTInductor's C ABI through ctypes: the only unsafe file.

The functions are declared in torch/include/torch/csrc/inductor/aoti_runtime/interface.h; every compiled library
exports them. ctypes releases the GIL for the length of each call, which is why several runners really run at the same
time; torch's own Python loader holds it (upstream #197516). Nothing here checks shapes, dtypes or states: that is the
container's work, and nobody but the container may call this.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aoti_serve.errors import IncompatiblePackage, RuntimeFailed

_PREFIX = "AOTInductorModelContainer"
# Loading several models at once races in the loader's JSON parsing (upstream #194128).
_construction = threading.Lock()

_aoti: Any = torch._C._aoti
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Entry(ctypes.Structure):
    """AOTInductorConstantMapEntry."""

    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


class NativeConstant(NamedTuple):
    """A constant as the library knows it: its internal name, its FQN, whether folding makes it, its bytes."""

    name: str
    fqn: str
    folded: bool
    nbytes: int


class NativeContainer:
    """An AOTInductorModelContainer: one library, `num_runners` model instances, two constant buffers.

    `device` is "cpu" or "cuda:<index>". All methods may be called from any thread; `swap` takes the runtime's writer
    lock, which readers overtake (upstream #144459): call it only while no run is in flight.
    """

    def __init__(self, folder: Path, num_runners: int, device: str) -> None:
        library = next(folder.glob("*.so"))
        with _construction:
            self._library = ctypes.CDLL(str(library))
            self._require("UpdateConstantBufferPairs", library)
            self._handle = ctypes.c_void_p()
            self._call(
                "CreateWithDevice",
                ctypes.byref(self._handle),
                ctypes.c_size_t(num_runners),
                device.encode(),
                str(folder).encode(),
                handle=False,
            )
        self._num_outputs = self._size("GetNumOutputs")
        self.num_inputs = self._size("GetNumInputs")
        self.constants = [self._constant(index) for index in range(self._size("GetNumConstants"))]
        self._names = {constant.fqn: constant.name.encode() for constant in self.constants if not constant.folded}
        # Only this variant accepts host tensors for a model that lives on a card.
        self._update = "UpdateConstantBufferPairs" if device == "cpu" else "UpdateConstantBufferFromCpuPairs"
        self._require(self._update, library)

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on a free runner; waits for one. The stream is the caller's current one (CUDA) or none (CPU)."""
        handles = _own(inputs)
        stolen = (ctypes.c_void_p * len(handles))(*handles)
        outputs = (ctypes.c_void_p * self._num_outputs)()
        self._call(
            "Run",
            stolen,
            ctypes.c_size_t(len(handles)),
            outputs,
            ctypes.c_size_t(self._num_outputs),
            self._stream(inputs),
            None,
        )
        return _adopt(outputs)

    def update_inactive(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy host tensors, by FQN, into the inactive buffer."""
        handles = _own(tensors.values())
        entries = [_Entry(self._names[fqn], handle) for fqn, handle in zip(tensors, handles, strict=True)]
        try:
            pairs = (_Entry * len(entries))(*entries)
            inactive, whole = ctypes.c_bool(True), ctypes.c_bool(False)
            self._call(self._update, pairs, ctypes.c_size_t(len(entries)), inactive, whole)
        finally:
            _adopt(handles)

    def fold_inactive(self) -> None:
        """Compute what the compiler derived from constants, in the inactive buffer; else the first run would."""
        self._call("RunConstantFolding", ctypes.c_bool(True), None, None)

    def swap(self) -> None:
        """Exchange the active and the inactive buffer."""
        self._call("SwapConstantBuffer")

    def free_inactive(self) -> None:
        """Give back the inactive buffer's memory; what it held can no longer be swapped to."""
        self._call("FreeInactiveConstantBuffer")

    def delete(self) -> None:
        """Give back everything; no other method may be called afterwards."""
        self._call("Delete")

    def _call(self, name: str, *arguments: Any, handle: bool = True) -> None:
        function = getattr(self._library, _PREFIX + name)
        if function(*((self._handle, *arguments) if handle else arguments)):
            message = ctypes.c_char_p()
            self._library.AOTInductorGetLastError(ctypes.byref(message))
            raise RuntimeFailed(call=_PREFIX + name, detail=(message.value or b"no detail").decode(errors="replace"))

    def _require(self, name: str, library: Path) -> None:
        if not hasattr(self._library, _PREFIX + name):
            raise IncompatiblePackage(path=library, reason=f"compiled by an older torch, it lacks {_PREFIX}{name}")

    def _size(self, name: str) -> int:
        value = ctypes.c_size_t()
        self._call(name, ctypes.byref(value))
        return value.value

    def _constant(self, index: int) -> NativeConstant:
        def get(what: str, value: Any) -> Any:
            self._call("GetConstant" + what, ctypes.c_size_t(index), ctypes.byref(value))
            return value.value

        return NativeConstant(
            get("Name", ctypes.c_char_p()).decode(),
            get("OriginalFQN", ctypes.c_char_p()).decode(),
            get("FromFolded", ctypes.c_bool()),
            get("DataSize", ctypes.c_size_t()),
        )

    @staticmethod
    def _stream(inputs: Sequence[torch.Tensor]) -> ctypes.c_void_p | None:
        if not inputs or inputs[0].device.type != "cuda":
            return None
        return ctypes.c_void_p(torch.cuda.current_stream(inputs[0].device).cuda_stream)


def _own(tensors: Iterable[torch.Tensor]) -> list[int]:
    """New AtenTensorHandles; whoever gets them owns them."""
    return [_capsule_pointer(capsule, None) for capsule in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))]


def _adopt(handles: Iterable[int]) -> list[torch.Tensor]:
    """The tensors behind owned handles; the handles are consumed."""
    capsules = [_new_capsule(handle, None, None) for handle in handles]
    adopted: list[torch.Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
    return adopted
