"""What is said of a package before its code is loaded, with libraries that are made of bytes here."""

from __future__ import annotations

import importlib.util
import json
import platform
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoti_serve.errors import IncompatiblePackage, MissingOperators, UnreadablePackage
from aoti_serve.model import preflight
from aoti_serve.model.preflight import TORCH_KEY, Host

PACKAGE = Path("/models/demo.pt2")
SHIMS = ("aoti_torch_clone", "aoti_torch_cpu_mm_out", "torch_call_dispatcher")
OWN_MACHINE = struct.unpack("<H", Path("/proc/self/exe").read_bytes()[18:20])[0]
SPARC = 43
GLOBAL, WEAK = 1, 2
TWO_CARDS = Host("2.13.0", "CUDA 12.8", ("80", "90"), {*SHIMS}.__contains__)
NO_CARD = TWO_CARDS._replace(cards=())
CPU_ONLY = TWO_CARDS._replace(torch="2.13.0+cpu", accelerator=None, cards=())


def elf(
    exports: Iterable[str] = preflight._REQUIRED,
    wants: Iterable[str] = SHIMS,
    weak: Iterable[str] = (),
    machine: int = OWN_MACHINE,
) -> bytes:
    """A shared library without code: a header, a symbol table, its strings, and the table of sections."""
    symbols = [(name, GLOBAL, 1) for name in exports] + [(name, GLOBAL, 0) for name in wants]
    symbols += [(name, WEAK, 0) for name in weak]
    names = b"\0.dynsym\0.dynstr\0"
    strings, table = bytearray(b"\0"), bytearray(24)
    for name, bind, section in symbols:
        table += struct.pack("<IBBHQQ", len(strings), bind << 4 | 2, 0, section, 0, 0)
        strings += name.encode() + b"\0"
    blobs = [bytes(table), bytes(strings), names]
    starts = [64, 64 + len(table), 64 + len(table) + len(strings)]
    kinds = [(1, 11, 2, 24), (9, 3, 0, 0), (0, 3, 0, 0)]  # .dynsym, .dynstr and the sections' own names
    rows = bytes(64) + b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, start, len(blob), link, 1, 8, size)
        for (name, kind, link, size), start, blob in zip(kinds, starts, blobs, strict=True)
    )
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    end = starts[2] + len(names)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, end, 0, 64, 0, 0, 64, 4, 3)
    return header + b"".join(blobs) + rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "abc.wrapper.so").write_bytes(elf())
    (tmp_path / "abc.wrapper_metadata.json").write_text("{}")
    return tmp_path


def extern_nodes(folder: Path, *targets: str) -> None:
    nodes = [{"name": "buf0", "node": {"target": target, "inputs": [], "metadata": {}}} for target in targets]
    (folder / "abc.wrapper.json").write_text(json.dumps({"nodes": nodes}))


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
    ("device", "host", "index", "reason"),
    [
        pytest.param("cuda", CPU_ONLY, 0, r"compiled for cuda, the torch installed here \(2.13.0\+cpu\)", id="no-cuda"),
        pytest.param("cuda", NO_CARD, 0, r"compiled for cuda, torch 2.13.0 \(CUDA 12.8\) sees no card", id="no-card"),
        pytest.param("cuda", TWO_CARDS, 2, "there is no card 2: torch sees 2", id="index"),
        pytest.param("cuda", TWO_CARDS, -1, "there is no card -1", id="negative"),
        pytest.param("xpu", TWO_CARDS, 0, "compiled for xpu, only cpu and cuda are served", id="another-device"),
    ],
)
def test_a_device_that_is_not_here_is_refused(device: str, host: Host, index: int, reason: str) -> None:
    with pytest.raises(IncompatiblePackage, match=reason):
        preflight.check_device(PACKAGE, {"AOTI_DEVICE_KEY": device}, host, index)


@pytest.mark.parametrize("facts", [{}, {"AOTI_DEVICE_KEY": "cpu"}])
def test_code_for_the_cpu_needs_no_card(facts: dict[str, str], folder: Path) -> None:
    preflight.check(PACKAGE, facts, folder, CPU_ONLY)


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
def test_kernels_run_on_their_own_generation_of_cards(folder: Path, built: str, card: str, runs: bool) -> None:
    (folder / "kernel.cubin").touch()
    facts = {"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": built}
    host = TWO_CARDS._replace(cards=("70", card))
    if runs:
        preflight.check(PACKAGE, facts, folder, host, 1)
        return
    with pytest.raises(IncompatiblePackage, match=f"compute capability {built}, card 1 has {card}"):
        preflight.check(PACKAGE, facts, folder, host, 1)


@pytest.mark.parametrize("name", ["kernel.fatbin", "kernel.ptx", "notes.txt"])
def test_without_kernels_for_one_card_any_card_will_do(folder: Path, name: str) -> None:
    (folder / name).touch()
    preflight.check_kernels(PACKAGE, {"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "75"}, folder, TWO_CARDS)


def test_a_library_that_fits_passes(folder: Path) -> None:
    (folder / "abc.wrapper.so").write_bytes(elf(wants=[*SHIMS, "memcpy"], weak=["aoti_torch_not_yet"]))
    preflight.check_library(PACKAGE, {}, folder, TWO_CARDS)


def test_a_library_that_lacks_what_is_needed_here_was_compiled_by_an_older_torch(folder: Path) -> None:
    some = [name for name in preflight._REQUIRED if not name.endswith(("Pairs", "Entries"))]
    (folder / "abc.wrapper.so").write_bytes(elf(exports=some))
    reason = r"an older torch \(2\.6\.0\), it lacks UpdateUserManagedConstantBufferPairs, ExtractConstantsMapEntries; c"
    with pytest.raises(IncompatiblePackage, match=reason):
        preflight.check_library(PACKAGE, {TORCH_KEY: "2.6.0"}, folder, TWO_CARDS)


def test_a_library_that_needs_what_this_torch_lacks_is_refused_by_both_versions(folder: Path) -> None:
    later = [f"aoti_torch_later_{letter}" for letter in "abcdef"]
    (folder / "abc.wrapper.so").write_bytes(elf(wants=[*SHIMS, *later]))
    reason = "compiled by torch 2.99, it needs aoti_torch_later_a, .*_d and 2 more, which torch 2.13.0 here lacks"
    with pytest.raises(IncompatiblePackage, match=reason):
        preflight.check_library(PACKAGE, {TORCH_KEY: "2.99"}, folder, TWO_CARDS)
    with pytest.raises(IncompatiblePackage, match="compiled by torch of unknown version"):
        preflight.check_library(PACKAGE, {}, folder, TWO_CARDS)


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        pytest.param(elf(machine=SPARC), "SPARCV9 64-bit", id="another-machine"),
        pytest.param(
            b"\x7fELF\1\1\1" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 3, 3, 1, 0, 0, 0, 0, 52, 0, 0, 40, 0, 0),
            "386 32-bit",
            id="another-class",
        ),
    ],
)
def test_a_library_for_another_machine_is_refused(folder: Path, library: bytes, kind: str) -> None:
    (folder / "abc.wrapper.so").write_bytes(library)
    with pytest.raises(IncompatiblePackage, match=f"its library is {kind} little-endian, this process is"):
        preflight.check_library(PACKAGE, {}, folder, TWO_CARDS)


@pytest.mark.parametrize("content", [b"", b"MZ windows", b"\x7fELF", b"!<arch>\n", elf()[:200], elf()[:-300]])
def test_what_is_no_library_is_refused(folder: Path, content: bytes) -> None:
    (folder / "abc.wrapper.so").write_bytes(content)
    with pytest.raises(UnreadablePackage, match=r"demo\.pt2: abc\.wrapper\.so is no ELF library"):
        preflight.check_library(PACKAGE, {}, folder, TWO_CARDS)


def test_a_library_of_somebody_elses_is_refused(folder: Path) -> None:
    """A real one, which came with torch."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    (folder / "abc.wrapper.so").write_bytes((Path(found.origin).parent / "lib" / "libshm.so").read_bytes())
    with pytest.raises(UnreadablePackage, match="was not compiled by AOTInductor"):
        preflight.check_library(PACKAGE, {}, folder, TWO_CARDS)


@pytest.mark.parametrize("names", [[], ["a.so", "b.so"]])
def test_a_model_has_one_library(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    for attempt in (lambda: preflight.check_library(PACKAGE, {}, tmp_path, TWO_CARDS), lambda: extern(tmp_path)):
        with pytest.raises(UnreadablePackage, match=f"one compiled library, .* has {len(names)}"):
            attempt()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_library_raises_nothing_of_the_parsers_own(folder: Path, data: st.DataObject) -> None:
    content = bytearray(elf())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "abc.wrapper.so").write_bytes(content)
    with suppress(UnreadablePackage, IncompatiblePackage):
        preflight.check_library(PACKAGE, {}, folder, TWO_CARDS)


def extern(folder: Path) -> tuple[str, ...]:
    return preflight.extern_operators(PACKAGE, folder)


def test_a_model_without_extern_nodes_names_no_operators(folder: Path) -> None:
    (folder / "other.json").write_text("not looked at")
    assert extern(folder) == ()
    preflight.check_operators(PACKAGE, folder, lambda _: False)


def test_operators_are_read_from_beside_the_library(folder: Path) -> None:
    extern_nodes(folder, "mylib::op", "aten::index.Tensor", "mylib::op", "call_torchbind")
    assert extern(folder) == ("aten::index.Tensor", "call_torchbind", "mylib::op")


def test_operators_that_nobody_registered_are_named(folder: Path) -> None:
    extern_nodes(folder, "mylib::op", "yours::op.out", "aten::bincount", "call_torchbind")
    preflight.check_operators(PACKAGE, folder, lambda _: True)
    with pytest.raises(MissingOperators, match=r"here: mylib::op, yours::op\.out; .*`operators`"):
        preflight.check_operators(PACKAGE, folder, lambda name: name.startswith("aten::"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"nodes": [{"node": {}}]}', '{"nodes": [{"node": 1}]}'])
def test_a_list_of_operators_that_cannot_be_read_is_refused(folder: Path, content: str) -> None:
    (folder / "abc.wrapper.json").write_text(content)
    with pytest.raises(UnreadablePackage, match=r"abc\.wrapper\.json"):
        extern(folder)
