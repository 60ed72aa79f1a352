"""AOTInductor's C ABI through ctypes. Only this room is unsafe.

The functions are declared in torch/include/torch/csrc/inductor/aoti_runtime/interface.h; every compiled library
exports them. ctypes releases the GIL for the length of each call, so several runners really run at the same time;
torch's own Python loader holds it (upstream #197516). Nothing here checks shapes, dtypes or states: the container does,
and only it, `loading` and `variants` use this.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aoti_serve.errors import IncompatiblePackage, RuntimeFailed
from aoti_serve.signature.tensors import CPU

_PREFIX = "AOTInductorModelContainer"
_TENSOR_CONSTANT = 3  # constant_type.h: a tensor that forward() makes
# Loading several models at once races in the loader's JSON parsing (upstream #194128).
construction = threading.Lock()

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
    """A constant of a library: its internal name, its FQN, whether folding makes it, its size and its type."""

    name: str
    fqn: str
    folded: bool
    nbytes: int | None
    kind: int = 0


class NativeContainer:
    """An AOTInductorModelContainer: one library, `num_runners` model instances, two constant buffers.

    `device` is "cpu" or "cuda:<index>". All methods may be called from any thread; `swap` takes the runtime's writer
    lock, which readers overtake (upstream #144459): call it only while no run is in flight.
    """

    def __init__(self, library: Path, num_runners: int, device: str, *, single_threaded: bool = False) -> None:
        self._run = "RunSingleThreaded" if single_threaded else "Run"
        self._on_host = device == CPU
        self._forgotten = False
        with construction:
            self._library = _opened(library)
            self._handle = ctypes.c_void_p()
            folder = str(library.parent).encode()
            runners = ctypes.c_size_t(num_runners)
            self._call("CreateWithDevice", ctypes.byref(self._handle), runners, device.encode(), folder, handle=False)
        try:
            self.num_outputs = self._size("GetNumOutputs")
            self.num_inputs = self._size("GetNumInputs")
            self.constants = [self._constant(index) for index in range(self._size("GetNumConstants"))]
        except BaseException:
            self.delete()
            raise
        self._names = {constant.fqn: constant.name.encode() for constant in self.constants if not constant.folded}
        self.folds = any(constant.folded for constant in self.constants)
        self.folded_nbytes = sum(constant.nbytes or 0 for constant in self.constants if constant.folded)
        # Folding in the inactive buffer overwrites what is staged of this kind with what is active (model_container.h)
        self._copies_lifted = any(constant.kind == _TENSOR_CONSTANT for constant in self.constants)

    def run(self, inputs: Iterable[torch.Tensor], stream: int | None = None) -> list[torch.Tensor | None]:
        """Run on a free runner; waits for one. `stream` is a CUDA stream's pointer. None for outputs that are None."""
        handles = _own(inputs)
        stolen = (ctypes.c_void_p * len(handles))(*handles)
        outputs = (ctypes.c_void_p * self.num_outputs)()
        sizes = ctypes.c_size_t(len(handles)), ctypes.c_size_t(self.num_outputs)
        try:
            self._call(self._run, stolen, sizes[0], outputs, sizes[1], ctypes.c_void_p(stream), None)
        except BaseException:
            # It leaves null where it took a handle (steal_from_raw_handles_to_raii_handles); the others are ours still.
            adopt(handle for handle in (*stolen, *outputs) if handle)
            raise
        adopted = iter(adopt(handle for handle in outputs if handle))
        return [next(adopted) if handle else None for handle in outputs]

    def extract(self) -> dict[str, torch.Tensor]:
        """The active constants by FQN, without those that folding makes; valid until they change."""
        entries, count = ctypes.POINTER(_Entry)(), ctypes.c_size_t()
        inactive = ctypes.c_bool(False)
        self._call("ExtractConstantsMapEntries", ctypes.byref(entries), ctypes.byref(count), inactive)
        tensors = adopt(_aliased(entries[index].handle for index in range(count.value)))
        return {entries[index].name.decode(): tensor for index, tensor in enumerate(tensors)}

    def stage(self, tensors: Mapping[str, torch.Tensor], moved: bool) -> None:
        """Use the memory of `tensors`, by FQN, as the inactive buffer, and fold them there.

        `moved`: the runtime has not been told yet where they are. It keeps a reference to each for ever (upstream
        #194480), so a tensor is registered once and refilled from then on. If this raises, a runner may be left mapped
        to the inactive buffer: this container must not run again.
        """
        if moved:
            self._register(tensors)
        if not self._copies_lifted and (moved or self.folds or self._forgotten):
            self.fold(inactive=True)
        self._forgotten = False

    def refold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fold anew in the active buffer, whose `tensors` were refilled."""
        if self.folds or self._copies_lifted:
            self.fold(inactive=False)

    def fold(self, inactive: bool) -> None:
        """Compute the tensors that derive from constants; else the first run would, under the exclusive lock.

        Where nothing is to be folded, the compiled code says so once in each container on standard error, `[WARNING]
        Calling constant_folding in model, but ...`: torch writes that line into it (codegen_const_run_driver). It
        means nothing, and could be kept out only with the descriptor of the whole process, or with another generator.
        """
        self._call("RunConstantFolding", ctypes.c_bool(inactive), None, None)

    def swap(self) -> None:
        """Exchange the active and the inactive buffer."""
        self._call("SwapConstantBuffer")
        if self._copies_lifted:
            self.fold(inactive=False)

    def free_inactive(self) -> None:
        """Give back the runtime's own memory in the inactive buffer: built-in weights, folded constants."""
        # It leaves null handles for folded ones, and telling it of memory elsewhere later would follow them.
        if self._on_host or not self.folds:
            self._call("FreeInactiveConstantBuffer")
            self._forgotten = True  # also that it was folded

    def delete(self) -> None:
        """Give back everything but the library's own pages; no other method may be called afterwards.

        Those are the file's, shared and clean; symbols that C++ wants unique keep glibc from ever unmapping them.
        """
        self._call("Delete")

    def _register(self, tensors: Mapping[str, torch.Tensor]) -> None:
        handles = _own(tensors.values())
        entries = [_Entry(self._names[fqn], handle) for fqn, handle in zip(tensors, handles, strict=True)]
        try:
            pairs, inactive, whole = (_Entry * len(entries))(*entries), ctypes.c_bool(True), ctypes.c_bool(False)
            self._call("UpdateUserManagedConstantBufferPairs", pairs, ctypes.c_size_t(len(entries)), inactive, whole)
        finally:
            adopt(handles)

    def _call(self, name: str, *arguments: Any, handle: bool = True) -> None:
        function = getattr(self._library, _PREFIX + name)
        if function(*((self._handle, *arguments) if handle else arguments)):
            message = ctypes.c_char_p()
            self._library.AOTInductorGetLastError(ctypes.byref(message))
            raise RuntimeFailed(call=_PREFIX + name, detail=_first(message.value or b"no detail"))

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
            get("Type", ctypes.c_int32()),
        )


def _first(message: bytes) -> str:
    """Cut off the stack below the message, which is full of this machine's paths."""
    return message.decode(errors="replace").partition("\nException raised from")[0]


def has_symbol(name: str) -> bool:
    """True if torch's libraries in this process have the symbol."""
    return hasattr(libtorch, name)


# It leads to all other libraries, the card's too; libtorch_cpu.so has only its own symbols.
libtorch = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch.so"))


def _opened(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise IncompatiblePackage(path=library, reason=str(error)) from error


def _own(tensors: Iterable[torch.Tensor]) -> list[int]:
    """Make AtenTensorHandles, which the caller owns."""
    return [_capsule_pointer(capsule, None) for capsule in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))]


def adopt(handles: Iterable[int]) -> list[torch.Tensor]:
    """Turn owned handles into their tensors; the handles are gone then."""
    capsules = [_new_capsule(handle, None, None) for handle in handles]
    adopted: list[torch.Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
    return adopted


def _aliased(handles: Iterable[int]) -> list[int]:
    """Make handles, which the caller owns, to the tensors of borrowed ones."""
    made: list[int] = []
    for handle in handles:
        alias = ctypes.c_void_p()
        if libtorch.aoti_torch_new_tensor_handle(ctypes.c_void_p(handle), ctypes.byref(alias)):
            adopt(made)
            raise RuntimeFailed(call="aoti_torch_new_tensor_handle", detail="no new handle")
        assert alias.value is not None
        made.append(alias.value)
    return made
