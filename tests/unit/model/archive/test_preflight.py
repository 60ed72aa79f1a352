"""What is said of a package before its code is loaded: by its metadata, and by what this machine is."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from aoti_serve.errors import IncompatiblePackage
from aoti_serve.model.archive import preflight

PACKAGE = Path("/models/demo.pt2")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """This CPU's flags, which the test decides."""
    flags = {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
    monkeypatch.setattr(preflight, "_cpu_flags", lambda: flags)
    return flags


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        pytest.param({"AOTI_MACHINE": "sparc64"}, "compiled for sparc64, this machine is", id="machine"),
        pytest.param({"AOTI_PLATFORM": "plan9"}, "compiled for plan9, this machine is linux", id="system"),
        pytest.param({"AOTI_CPU_ISA": "AVX512 AVX512_VNNI"}, "this CPU lacks avx512_vnni$", id="vnni"),
        pytest.param(
            {"AOTI_CPU_ISA": "AVX512 AVX512_VNNI AMX_TILE"},
            "lacks amx_bf16, amx_int8, amx_tile, avx512_vnni$",
            id="amx",
        ),
        pytest.param({"AOTI_CPU_ISA": "ASIMD"}, "this CPU lacks asimd$", id="arm"),
        pytest.param({"AOTI_CPU_ISA": "ZVECTOR"}, "this CPU lacks vxe$", id="s390x"),
        pytest.param({"AOTI_MACHINE": "sparc64", "AOTI_DEVICE_KEY": "cuda"}, "for sparc64", id="gpu-machine"),
    ],
)
def test_code_for_another_machine_is_refused(cpu: set[str], facts: dict[str, str], reason: str) -> None:
    with pytest.raises(IncompatiblePackage, match=reason):
        preflight.check_machine(PACKAGE, facts)


@pytest.mark.parametrize("flag", ["fma", "avx512dq", "avx512bw", "avx512vl", "avx512f"])
def test_avx512_is_all_that_the_compiler_switched_on(cpu: set[str], flag: str) -> None:
    preflight.check_machine(PACKAGE, {"AOTI_CPU_ISA": "AVX512"})
    cpu.discard(flag)
    with pytest.raises(IncompatiblePackage, match=f"lacks {flag}$"):
        preflight.check_machine(PACKAGE, {"AOTI_CPU_ISA": "AVX512"})


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({}, id="nothing-said"),
        pytest.param({"AOTI_PLATFORM": sys.platform, "AOTI_MACHINE": platform.machine()}, id="this-machine"),
        pytest.param({"AOTI_CPU_ISA": "AVX2"}, id="less-than-this-cpu-has"),
        pytest.param({"AOTI_CPU_ISA": "INVALID_VEC_ISA"}, id="no-vectors"),
        pytest.param({"AOTI_CPU_ISA": "VSX SVE9"}, id="what-cannot-be-known"),
        pytest.param({"AOTI_CPU_ISA": "AMX_TILE", "AOTI_DEVICE_KEY": "cuda"}, id="a-gpu-needs-no-instruction-set"),
    ],
)
def test_code_for_this_machine_passes(cpu: set[str], facts: dict[str, str]) -> None:
    preflight.check_machine(PACKAGE, facts)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        pytest.param("model : x\nflags\t\t: fpu avx2\nbugs : y\nflags : other\n", {"fpu", "avx2"}, id="x86"),
        pytest.param("processor : 0\nFeatures\t: fp asimd sve\n", {"fp", "asimd", "sve"}, id="arm"),
        pytest.param("features\t: esan3 vx vxe\n", {"esan3", "vx", "vxe"}, id="s390x"),
    ],
)
def test_the_cpus_flags_are_read(monkeypatch: pytest.MonkeyPatch, text: str, flags: set[str]) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert preflight._cpu_flags() == flags


def test_a_cpu_that_tells_no_flags_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "cpu : POWER9, altivec supported\n")
    preflight.check_machine(PACKAGE, {"AOTI_CPU_ISA": "AVX512 AVX512_VNNI AMX_TILE"})


@pytest.mark.parametrize(
    ("built", "card", "runs"),
    [
        ("80", "80", True),
        ("80", "86", True),
        ("86", "80", False),
        ("75", "80", False),
        ("80", "90", False),
        ("90", "90", True),
        ("100", "103", False),  # Triton's sm_100a runs on 10.0 only
        ("100", "90", False),
        ("100", "100", True),
        ("gfx90a", "gfx90a", True),
        ("gfx90a", "gfx942", False),
        ("80", "gfx90a", False),
        ("", "80", True),
    ],
)
def test_kernels_run_on_their_own_generation_of_cards(tmp_path: Path, built: str, card: str, runs: bool) -> None:
    (tmp_path / "kernel.cubin").touch()
    facts = {"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": built}
    if runs:
        preflight.check_kernels(PACKAGE, facts, tmp_path, card, 1)
        return
    with pytest.raises(IncompatiblePackage, match=f"compute capability {built}, card 1 has {card}"):
        preflight.check_kernels(PACKAGE, facts, tmp_path, card, 1)


@pytest.mark.parametrize("name", ["kernel.fatbin", "kernel.ptx", "notes.txt"])
def test_without_kernels_for_one_card_any_card_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    preflight.check_kernels(PACKAGE, {"AOTI_COMPUTE_CAPABILITY": "75"}, tmp_path, "80", 0)
