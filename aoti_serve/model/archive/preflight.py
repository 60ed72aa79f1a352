"""Checks of a package's metadata and kernels, before any native code is loaded. Nothing here imports torch."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from aoti_serve.errors import IncompatiblePackage
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
