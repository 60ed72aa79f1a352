"""What a library's symbols say before it is loaded; the libraries are made of bytes here."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoti_serve.errors import IncompatiblePackage, MissingOperators, UnreadablePackage
from aoti_serve.model.archive import preflight

PACKAGE = Path("/models/demo.pt2")
SHIMS = ("aoti_torch_clone", "aoti_torch_cpu_mm_out", "torch_call_dispatcher")
OWN_MACHINE = struct.unpack("<H", Path("/proc/self/exe").read_bytes()[18:20])[0]
SPARC = 43
GLOBAL, WEAK = 1, 2


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


def check(folder: Path, built: str = "2.13.0") -> None:
    preflight.check_library(PACKAGE, folder, built=built, here="2.13.0", has_symbol={*SHIMS}.__contains__)


def test_a_library_that_fits_passes(folder: Path) -> None:
    (folder / "abc.wrapper.so").write_bytes(elf(wants=[*SHIMS, "memcpy"], weak=["aoti_torch_not_yet"]))
    check(folder)


def test_a_library_that_lacks_what_is_needed_here_was_compiled_by_an_older_torch(folder: Path) -> None:
    some = [name for name in preflight._REQUIRED if not name.endswith(("Pairs", "Entries"))]
    (folder / "abc.wrapper.so").write_bytes(elf(exports=some))
    reason = r"an older torch \(2\.6\.0\), it lacks UpdateUserManagedConstantBufferPairs, ExtractConstantsMapEntries; c"
    with pytest.raises(IncompatiblePackage, match=reason):
        check(folder, "2.6.0")


def test_a_library_that_needs_what_this_torch_lacks_is_refused_by_both_versions(folder: Path) -> None:
    later = [f"aoti_torch_later_{letter}" for letter in "abcdef"]
    (folder / "abc.wrapper.so").write_bytes(elf(wants=[*SHIMS, *later]))
    reason = "compiled by torch 2.99, it needs aoti_torch_later_a, .*_d and 2 more, which torch 2.13.0 here lacks"
    with pytest.raises(IncompatiblePackage, match=reason):
        check(folder, "2.99")


@pytest.mark.parametrize(
    ("built", "kind"),
    [
        pytest.param(elf(machine=SPARC), "SPARCV9 64-bit", id="another-machine"),
        pytest.param(
            b"\x7fELF\1\1\1" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 3, 3, 1, 0, 0, 0, 0, 52, 0, 0, 40, 0, 0),
            "386 32-bit",
            id="another-class",
        ),
    ],
)
def test_a_library_for_another_machine_is_refused(folder: Path, built: bytes, kind: str) -> None:
    (folder / "abc.wrapper.so").write_bytes(built)
    with pytest.raises(IncompatiblePackage, match=f"its library is {kind} little-endian, this process is"):
        check(folder)


@pytest.mark.parametrize("content", [b"", b"MZ windows", b"\x7fELF", b"!<arch>\n", elf()[:200], elf()[:-300]])
def test_what_is_no_library_is_refused(folder: Path, content: bytes) -> None:
    (folder / "abc.wrapper.so").write_bytes(content)
    with pytest.raises(UnreadablePackage, match=r"demo\.pt2: abc\.wrapper\.so is no ELF library"):
        check(folder)


def test_a_library_of_somebody_elses_is_refused(folder: Path) -> None:
    """A real one, which came with torch."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    (folder / "abc.wrapper.so").write_bytes((Path(found.origin).parent / "lib" / "libshm.so").read_bytes())
    with pytest.raises(UnreadablePackage, match="was not compiled by AOTInductor"):
        check(folder)


@pytest.mark.parametrize("names", [[], ["a.so", "b.so"]])
def test_a_model_has_one_library(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    for attempt in (lambda: check(tmp_path), lambda: extern(tmp_path)):
        with pytest.raises(UnreadablePackage, match=f"one compiled library, .* has {len(names)}"):
            attempt()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_library_raises_nothing_of_the_parsers_own(folder: Path, data: st.DataObject) -> None:
    content = bytearray(elf())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "abc.wrapper.so").write_bytes(content)
    with suppress(UnreadablePackage, IncompatiblePackage):
        check(folder)


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
