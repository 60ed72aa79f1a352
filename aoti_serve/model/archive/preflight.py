"""Checks before any native code of a package is loaded: its metadata, its kernels, the symbols of its compiled library,
and the operators that its code calls. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Symbol, SymbolTableSection
from pydantic import AliasPath, BaseModel, Field, ValidationError

from aoti_serve.errors import IncompatiblePackage, MissingOperators, UnreadablePackage
from aoti_serve.signature.tensors import CPU

TORCH_KEY = "aoti_serve.torch"
_DEVICE_KEY = "AOTI_DEVICE_KEY"

# Inductor's names for instruction sets, and the CPU flags that its compiler switches stand for
# (torch/_inductor/cpu_vec_isa.py). POWER's kernel lists no flags, so VSX cannot be checked.
_ISA_FLAGS = {
    "AVX2": "avx2 fma f16c",
    "AVX512": "avx512f avx512bw avx512dq avx512vl fma",
    "AVX512_VNNI": "avx512_vnni",
    "AMX_TILE": "amx_tile amx_bf16 amx_int8",
    "ASIMD": "asimd",
    "NEON": "asimd",
    "ZVECTOR": "vxe",
    "VSX": "",
}
# From 9.0 on Triton compiles for sm_90a, sm_100a, ...: code for that one card generation.
_FIRST_EXACT_CAPABILITY = 90
_C_ABI = "AOTInductorModelContainer"
_REQUIRED = tuple(
    _C_ABI + name
    for name in (
        "CreateWithDevice",
        "UpdateUserManagedConstantBufferPairs",
        "ExtractConstantsMapEntries",
        "RunConstantFolding",
        "FreeInactiveConstantBuffer",
        "SwapConstantBuffer",
    )
)


class _ExternNode(BaseModel):
    target: str = Field(validation_alias=AliasPath("node", "target"))


class _ExternNodes(BaseModel):
    """torch._export.serde.schema.ExternKernelNodes, as far as it matters here."""

    nodes: tuple[_ExternNode, ...]


def check_machine(path: Path, metadata: Mapping[str, str]) -> None:
    """Refuse code for another system, machine or CPU."""
    for key, here in (("AOTI_PLATFORM", sys.platform), ("AOTI_MACHINE", platform.machine())):
        built = metadata.get(key, here)
        if built != here:
            raise IncompatiblePackage(path=path, reason=f"compiled for {built}, this machine is {here}")
    if metadata.get(_DEVICE_KEY, CPU) == CPU:
        missing = _required_cpu_flags(metadata.get("AOTI_CPU_ISA", "")) - _cpu_flags()
        if missing:
            raise IncompatiblePackage(path=path, reason=f"this CPU lacks {', '.join(sorted(missing))}")


def check_kernels(path: Path, metadata: Mapping[str, str], folder: Path, card: str, index: int) -> None:
    """Refuse kernels that were compiled for another generation of cards than card `index`, with capability `card`.

    Binaries for one card (*.cubin, *.hsaco) bind a package to it; multi-architecture ones hold code that the driver
    compiles for later cards, and the libraries' own kernels (cuBLAS) are none of the package's.
    """
    built = metadata.get("AOTI_COMPUTE_CAPABILITY", "")
    bound = any(next(folder.glob(pattern), None) for pattern in ("*.cubin", "*.hsaco"))
    if built and bound and not _fits(built, card):
        reason = f"its kernels are compiled for compute capability {built}, card {index} has {card}"
        raise IncompatiblePackage(path=path, reason=f"{reason}; compile it on such a card")


def check_library(path: Path, folder: Path, *, built: str, here: str, has_symbol: Callable[[str], bool]) -> None:
    """Refuse a library for another machine, with symbols that this torch lacks, or without those needed here.

    `built` and `here` are the versions of the torch that compiled it and of this one. Raises UnreadablePackage if there
    is no library, if it is no ELF file, or not AOTInductor's.
    """
    library = library_of(path, folder)
    wanted, exported = _symbols(path, library)
    if not any(name.startswith(_C_ABI) for name in exported):
        raise UnreadablePackage(path=path, detail=f"{library.name} was not compiled by AOTInductor")
    if lacking := [name for name in _REQUIRED if name not in exported]:
        reason = f"compiled by an older torch ({built}), it lacks {_some(lacking)}; compile it again"
        raise IncompatiblePackage(path=path, reason=reason)
    if lacking := sorted(name for name in wanted if not has_symbol(name)):
        reason = f"compiled by torch {built}, it needs {_some(lacking)}, which torch {here} here lacks"
        raise IncompatiblePackage(path=path, reason=f"{reason}; compile it again")


def extern_operators(path: Path, folder: Path) -> tuple[str, ...]:
    """The operators that the code calls through torch's proxy executor ("mylib::op", "aten::index.Tensor"), sorted.

    If there are any, only torch's own runner can run the model. Raises UnreadablePackage if their list is damaged.
    """
    # torch's runner looks for it beside the library, under the same name.
    listed = library_of(path, folder).with_suffix(".json")
    if not listed.exists():
        return ()
    try:
        found = _ExternNodes.model_validate_json(listed.read_bytes())
    except (OSError, ValidationError) as error:
        raise UnreadablePackage(path=path, detail=f"{listed.name}: {error}") from error
    return tuple(sorted({node.target for node in found.nodes}))


def check_operators(path: Path, folder: Path, has_operator: Callable[[str], bool]) -> None:
    """Raise MissingOperators for those that are not registered; without "::" they are torch's own constructs."""
    missing = [name for name in extern_operators(path, folder) if "::" in name and not has_operator(name)]
    if missing:
        raise MissingOperators(path=path, names=missing)


def library_of(path: Path, folder: Path) -> Path:
    libraries = list(folder.glob("*.so"))
    if len(libraries) != 1:
        detail = f"a model needs one compiled library, {folder.name} has {len(libraries)} (package_cpp_only?)"
        raise UnreadablePackage(path=path, detail=detail)
    return libraries[0]


def _required_cpu_flags(isa: str) -> set[str]:
    return {flag for word in isa.split() for flag in _ISA_FLAGS.get(word, "").split()}


def _cpu_flags() -> set[str]:
    """This CPU's flags; all of them where the system does not tell (POWER), so that nothing is refused."""
    found = re.search(r"^(?:flags|features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M | re.I)
    return set(found[1].split()) if found else _required_cpu_flags(" ".join(_ISA_FLAGS))


def _fits(built: str, card: str) -> bool:
    if built == card or not (built.isdecimal() and card.isdecimal()):
        return built == card
    same_major, not_newer = built[:-1] == card[:-1], built[-1] <= card[-1]
    return int(built) < _FIRST_EXACT_CAPABILITY and same_major and not_newer


def _symbols(path: Path, library: Path) -> tuple[set[str], set[str]]:
    """The names that the library needs of torch's C shims, and those that it exports."""
    try:
        kind, symbols = _read_elf(library)
    except Exception as error:  # pyelftools raises whatever its parsing stumbles over
        raise UnreadablePackage(path=path, detail=f"{library.name} is no ELF library: {error}") from error
    if kind != _own_kind():
        raise IncompatiblePackage(path=path, reason=f"its library is {kind}, this process is {_own_kind()}")
    wanted = {symbol.name for symbol in symbols if _is_wanted(symbol)}
    return wanted, {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"}


def _read_elf(library: Path) -> tuple[str, list[Symbol]]:
    with library.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".dynsym")
        symbols = list(table.iter_symbols()) if isinstance(table, SymbolTableSection) else []
        return _kind(elf), symbols


def _kind(elf: ELFFile) -> str:
    order = "little" if elf.little_endian else "big"
    return f"{str(elf['e_machine']).removeprefix('EM_')} {elf.elfclass}-bit {order}-endian"


@functools.cache
def _own_kind() -> str:
    with Path("/proc/self/exe").open("rb") as file:
        return _kind(ELFFile(file))


def _is_wanted(symbol: Symbol) -> bool:
    undefined = symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
    return undefined and symbol.name.startswith(("aoti_torch_", "torch_"))


def _some(names: Iterable[str]) -> str:
    first, *others = [name.removeprefix(_C_ABI) for name in names]
    named = ", ".join([first, *others[:3]])
    return f"{named} and {len(others) - 3} more" if len(others) > 3 else named
