"""From a package to runtimes that can run: the checks before its code is loaded, the loading, the checks after."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from aoti_serve.errors import IncompatiblePackage, quantity
from aoti_serve.model.aoti.c_abi import NativeContainer, has_symbol
from aoti_serve.model.aoti.stock import StockContainer
from aoti_serve.model.archive import preflight
from aoti_serve.model.device.cpu import CpuDevice
from aoti_serve.model.device.cuda import CudaDevice, Device, missing_card, visible_cards
from aoti_serve.model.foreign.generated import fixed_threads
from aoti_serve.model.package import Package
from aoti_serve.model.preparation.recipe import code_constants
from aoti_serve.model.resident.buffers import padded
from aoti_serve.model.variants import Runtime, Variant, Variants
from aoti_serve.signature.tensors import CPU, DEVICE_KINDS


def choose_device(package: Package, device: str | None) -> torch.device:
    """Choose the device to run on: of the kind that the package was compiled for, at the index in `device`.

    Raises IncompatiblePackage if `device` is of another kind, or if this machine or its cards cannot run the code.
    """
    try:
        chosen = torch.device(device or package.device)
    except RuntimeError as error:
        raise IncompatiblePackage(path=package.path, reason=str(error)) from error
    if chosen.type != package.device:
        reason = f"compiled for {package.device}, asked to run on {device}"
        raise IncompatiblePackage(path=package.path, reason=reason)
    chosen = torch.device(CPU) if chosen.type == CPU else torch.device(chosen.type, chosen.index or 0)
    preflight.check_machine(package.path, package.metadata)
    if problem := _device_problem(chosen):
        raise IncompatiblePackage(path=package.path, reason=f"compiled for {chosen.type}, {problem}")
    return chosen


def _device_problem(device: torch.device) -> str | None:
    if device.type not in DEVICE_KINDS:
        return f"only {' and '.join(DEVICE_KINDS)} are served"
    return None if device.type == CPU else missing_card(device.index)


def open_device(device: torch.device, num_runners: int) -> Device:
    """Open the device; a card gets as many streams as there are runners."""
    return CpuDevice() if device.type == CPU else CudaDevice(device.index, num_runners)


def warn_of_fixed_threads(package: Package, num_runners: int, num_threads: int | None) -> None:
    """Warn if code for the CPU was compiled for another number of threads than each run is meant to have."""
    if package.device != CPU:
        return
    fixed = fixed_threads(package.path, package.model_name)
    wanted = num_threads or torch.get_num_threads()
    if fixed is not None and fixed != wanted:
        warnings.warn(
            f"package {package.path.name} was compiled for {fixed} threads per run, whatever is configured: "
            f"{num_runners} runners take {num_runners * fixed} threads where {num_runners * wanted} are meant; "
            "compile it with cpp.dynamic_threads, as `aoti-serve package` does",
            stacklevel=3,
        )


class IntraOpThreads:
    """A context that gives the work of the calling thread so many threads; None leaves them as they are.

    At its end the thread has as many as before: it may be a caller's, with work of its own.
    """

    __slots__ = ("_before", "_count")

    def __init__(self, count: int | None) -> None:
        self._count = count

    def __enter__(self) -> None:
        # A thread's first look takes over what any thread has set last, also after a set of its own.
        self._before = torch.get_num_threads()
        if self._count:
            torch.set_num_threads(self._count)  # OpenMP counts per thread

    def __exit__(self, *_: object) -> None:
        if self._count:
            torch.set_num_threads(self._before)


def load(package: Package, num_runners: int, device: torch.device, *, single_threaded: bool = False) -> Variants:
    """Load all variants of the package for a device that `choose_device` gave.

    Raises a PackageError, before any native code runs if it can be known.
    """
    package.import_operators()
    package.check_unchanged()
    folders = [(sizes, package.extract(model)) for sizes, model in package.variants]
    for _, folder in folders:
        if device.type != CPU:
            preflight.check_kernels(package.path, package.metadata, folder, visible_cards()[device.index], device.index)
        built = package.metadata.get(preflight.TORCH_KEY, "of unknown version")
        preflight.check_library(package.path, folder, built=built, here=torch.__version__, has_symbol=has_symbol)
        preflight.check_operators(package.path, folder, _has_operator)
    variants: list[Variant] = []
    try:
        for sizes, folder in folders:
            variants.append(Variant(sizes, _runtime(package, folder, num_runners, device, single_threaded)))
    except BaseException:
        Variants(variants, package.signature).delete()
        raise
    return Variants(variants, package.signature)


def swappable(library: Path, device: torch.device) -> set[str]:
    """Load a library to read which of its constants can be changed, by FQN."""
    native = NativeContainer(library, 1, str(device))
    try:
        return {constant.fqn for constant in native.constants if not constant.folded}
    finally:
        native.delete()


def _runtime(package: Package, folder: Path, num_runners: int, device: torch.device, single_threaded: bool) -> Runtime:
    library = preflight.library_of(package.path, folder)
    if preflight.extern_operators(package.path, folder):
        if single_threaded:
            reason = "it has operators that only torch can call, and torch's runner has no single-threaded mode"
            raise IncompatiblePackage(path=package.path, reason=reason)
        return _checked(package, StockContainer(library, num_runners, str(device)))
    return _checked(package, NativeContainer(library, num_runners, str(device), single_threaded=single_threaded))


def _checked(package: Package, runtime: NativeContainer | StockContainer) -> Runtime:
    """Compare the library with the signature: one for other code would let wrong tensors through to native memory."""
    sizes = {constant.fqn: constant.nbytes for constant in runtime.constants if not constant.folded}
    constants = code_constants(package.signature, package.recipes)
    declared = {spec.name: padded(spec.nbytes) for spec in constants}
    # Without a size from torch's own runner; and not padded where all constants are on a card.
    native = {name: declared.get(name) if size is None else padded(size) for name, size in sizes.items()}
    different = [f"constant '{name}'" for name in sorted({name for name, _ in native.items() ^ declared.items()})]
    signature = package.signature
    outputs = len(signature.output_leaves) + bool(signature.guards)
    if runtime.num_inputs not in (len(signature.inputs), None):
        different.append(f"{quantity(runtime.num_inputs, 'inputs')} instead of {len(signature.inputs)}")
    if runtime.num_outputs not in (outputs, None):
        different.append(f"{quantity(runtime.num_outputs, 'outputs')} instead of {outputs}")
    if different:
        runtime.delete()
        reason = f"its library and its signature differ: {', '.join(different)}"
        raise IncompatiblePackage(path=package.path, reason=reason)
    return runtime


def _has_operator(name: str) -> bool:
    """True if "mylib::op" or "mylib::op.overload" is registered."""
    namespace, _, operator = name.partition("::")
    return hasattr(getattr(torch.ops, namespace), operator.partition(".")[0])
