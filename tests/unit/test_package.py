"""Packages on disk, built by hand: what is read of them, what is refused, where they are unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import IncompatiblePackage, UnknownSignature, UnreadablePackage
from aoti_serve.model import package as package_module
from aoti_serve.model.package import SIGNATURE_KEY, WEIGHTS_APART, WEIGHTS_KEY, Package
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import ConstantSpec, Dim, TensorSpec

FOLDER = "demo/data/aotinductor/model/"
METADATA = FOLDER + "abc.wrapper_metadata.json"
LIBRARY = FOLDER + "abc.so"
BATCH = Dim(symbol="batch", max=64)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(BATCH, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(BATCH,)),),
    constants=(ConstantSpec(name="w", dtype="bfloat16", shape=(4, 2), stride=(2, 1)),),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aoti-serve" / "packages"


def metadata(**changes: str) -> dict[str, str]:
    return {SIGNATURE_KEY: SIGNATURE.model_dump_json(), "AOTI_DEVICE_KEY": "cpu"} | changes


def members(facts: Any = None, **others: bytes) -> dict[str, bytes]:
    return {METADATA: json.dumps(metadata() if facts is None else facts).encode(), LIBRARY: b"\x7fELF code"} | others


def written(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def opened(folder: Path, **facts: str) -> Package:
    return Package.open(written(folder / "model.pt2", members(metadata(**facts))))


def damaged(path: Path, before: bytes, after: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(before) == 1
    assert len(before) == len(after)
    path.write_bytes(content.replace(before, after))
    return path


def test_a_package_says_what_it_is(tmp_path: Path) -> None:
    package = opened(tmp_path, AOTI_DEVICE_KEY="cuda", **{WEIGHTS_KEY: WEIGHTS_APART})
    assert package.path == tmp_path / "model.pt2"
    assert package.signature == SIGNATURE
    assert package.constants == SIGNATURE.constants
    assert (package.device, package.carries_weights) == ("cuda", False)
    assert package.digest == hashlib.sha256((tmp_path / "model.pt2").read_bytes()).hexdigest()


def test_a_package_that_says_nothing_is_for_the_cpu_and_carries_its_weights(tmp_path: Path) -> None:
    package = Package.open(written(tmp_path / "model.pt2", members({})))
    assert (package.device, package.carries_weights) == ("cpu", True)


def test_a_package_without_our_signature_is_told_how_to_get_one(tmp_path: Path) -> None:
    package = Package.open(written(tmp_path / "model.pt2", members({"AOTI_DEVICE_KEY": "cpu"})))
    with pytest.raises(UnknownSignature, match="aoti-serve package"):
        package.signature  # noqa: B018


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param("", id="empty"),
        pytest.param("{}", id="no-fields"),
        pytest.param("{", id="not-json"),
        pytest.param('{"inputs": [], "outputs": [], "constants": [], "later": 1}', id="unknown-field"),
    ],
)
def test_a_signature_that_cannot_be_read_is_refused(tmp_path: Path, signature: str) -> None:
    with pytest.raises(UnreadablePackage, match="signature"):
        opened(tmp_path, **{SIGNATURE_KEY: signature}).signature  # noqa: B018


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="empty-archive"),
        pytest.param({"readme.txt": b"hello"}, id="no-model"),
        pytest.param({"demo/data/weights/model/a.wrapper_metadata.json": b"{}"}, id="a-model-elsewhere"),
        pytest.param({"demo/data/aotinductor/encoder/a.wrapper_metadata.json": b"{}"}, id="a-model-of-another-name"),
        pytest.param(members() | {FOLDER + "b.wrapper_metadata.json": b"{}"}, id="two-models"),
        pytest.param({METADATA: b"not json"}, id="metadata-not-json"),
        pytest.param({METADATA: b""}, id="metadata-empty"),
        pytest.param({METADATA: b'{"a": "\xff"}'}, id="metadata-not-utf8"),
        pytest.param({METADATA: b"1"}, id="metadata-a-number"),
        pytest.param({METADATA: b'["aoti_serve.signature"]'}, id="metadata-a-list"),
        pytest.param({METADATA: b'{"AOTI_CPU_ISA": 5}'}, id="metadata-value-not-a-string"),
        pytest.param({METADATA: b"[" * 100_000}, id="metadata-too-deep"),
    ],
)
def test_an_archive_that_is_no_package_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(UnreadablePackage, match=r"model\.pt2"):
        Package.open(written(tmp_path / "model.pt2", files))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("import this")
    (tmp_path / "nothing").touch()
    (tmp_path / "half").write_bytes(written(tmp_path / "model.pt2", members()).read_bytes()[:100])
    for name, reason in (
        ("text", "not a .pt2"),
        ("nothing", "not a .pt2"),
        ("half", "not a .pt2"),
        (".", "not a .pt2"),
    ):
        with pytest.raises(UnreadablePackage, match=reason):
            Package.open(tmp_path / name)


def test_a_package_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePackage, match=r"gone\.pt2: no such file"):
        Package.open(tmp_path / "gone.pt2")


def test_metadata_that_was_damaged_on_the_way_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", members())
    with pytest.raises(UnreadablePackage):
        Package.open(damaged(path, b'"AOTI_DEVICE_KEY": "cpu"', b'"AOTI_DEVICE_KEY": "gpu"'))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_damage_raises_anything_but_unreadable_package(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "model.pt2"), members(), zipfile.ZIP_DEFLATED)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with suppress(UnreadablePackage):
            Package.open(path)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        pytest.param({"AOTI_MACHINE": "sparc64"}, "compiled for sparc64, this machine is", id="machine"),
        pytest.param({"AOTI_PLATFORM": "plan9"}, "compiled for plan9, this machine is", id="system"),
        pytest.param({"AOTI_CPU_ISA": "AVX512 AMX_TILE"}, "this CPU lacks amx_tile, avx512f", id="instruction-sets"),
        pytest.param({"AOTI_MACHINE": "sparc64", "AOTI_DEVICE_KEY": "cuda"}, "compiled for sparc64", id="gpu-machine"),
    ],
)
def test_a_package_for_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], reason: str
) -> None:
    # What this CPU lacks is not known here, so the test decides it.
    monkeypatch.setattr(package_module, "_cpu_flags", lambda: {"avx2"})
    with pytest.raises(IncompatiblePackage, match=reason):
        opened(tmp_path, **facts).check_runs_here()


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({}, id="nothing-said"),
        pytest.param({"AOTI_PLATFORM": "linux", "AOTI_MACHINE": platform.machine()}, id="this-machine"),
        pytest.param({"AOTI_CPU_ISA": "AVX2"}, id="an-instruction-set-it-has"),
        pytest.param({"AOTI_CPU_ISA": "NEON SVE256"}, id="an-instruction-set-nobody-knows"),
        pytest.param({"AOTI_CPU_ISA": "AVX512", "AOTI_DEVICE_KEY": "cuda"}, id="a-gpu-needs-no-instruction-set"),
    ],
)
def test_a_package_for_this_machine_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str]
) -> None:
    monkeypatch.setattr(package_module, "_cpu_flags", lambda: {"avx2"})
    opened(tmp_path, **facts).check_runs_here()


def test_it_is_unpacked_into_the_users_cache_under_its_digest(tmp_path: Path, cache: Path) -> None:
    package = opened(tmp_path)
    folder = package.extract()
    assert folder == cache / package.digest / FOLDER
    assert (folder / "abc.so").read_bytes() == b"\x7fELF code"
    assert [path.name for path in cache.iterdir()] == [package.digest]


def test_without_xdg_it_is_unpacked_into_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened(tmp_path).extract().is_relative_to(tmp_path / ".cache" / "aoti-serve" / "packages")


def test_it_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: object) -> None:
        pytest.fail("unpacked a second time")

    folder = opened(tmp_path).extract()
    monkeypatch.setattr(zipfile.ZipFile, "extractall", unpack)
    assert opened(tmp_path).extract() == folder


def test_one_that_is_overtaken_while_it_unpacks_takes_what_is_there(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, extractall = opened(tmp_path), zipfile.ZipFile.extractall

    def overtaken(archive: zipfile.ZipFile, path: Path) -> None:
        monkeypatch.setattr(zipfile.ZipFile, "extractall", extractall)
        Package.open(package.path).extract()
        extractall(archive, path)

    monkeypatch.setattr(zipfile.ZipFile, "extractall", overtaken)
    assert (package.extract() / "abc.so").read_bytes() == b"\x7fELF code"
    assert [path.name for path in cache.iterdir()] == [package.digest]


def test_other_content_at_the_same_path_is_unpacked_anew(tmp_path: Path) -> None:
    before = opened(tmp_path).extract()
    written(tmp_path / "model.pt2", members() | {LIBRARY: b"\x7fELF other"})
    after = Package.open(tmp_path / "model.pt2").extract()
    assert (before / "abc.so").read_bytes() == b"\x7fELF code"
    assert (after / "abc.so").read_bytes() == b"\x7fELF other"


def test_many_that_unpack_at_once_find_one_folder(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path / "model.pt2", members() | {FOLDER + str(n): bytes(2000) for n in range(20)})
    together, found = threading.Barrier(6), list[Path]()

    def unpack() -> None:
        package = Package.open(path)
        together.wait(60)
        found.append(package.extract())

    threads = [threading.Thread(target=unpack) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(list(found[0].iterdir())) == 22
    assert len(list(cache.iterdir())) == 1


def test_members_that_point_elsewhere_stay_inside(tmp_path: Path, cache: Path) -> None:
    evil = {"../../escaped": b"1", "/absolute": b"2", f"{FOLDER}../../../../../../up": b"3"}
    package = Package.open(written(tmp_path / "model.pt2", members() | evil))
    package.extract()
    outside = [
        path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(cache / package.digest)
    ]
    assert outside == [tmp_path / "model.pt2"]


def test_a_package_without_a_library_is_refused_when_it_is_unpacked(tmp_path: Path) -> None:
    package = Package.open(written(tmp_path / "model.pt2", {METADATA: b"{}"}))
    with pytest.raises(UnreadablePackage):
        package.extract()


def test_a_damaged_library_is_refused_and_leaves_nothing_unpacked(tmp_path: Path, cache: Path) -> None:
    path = damaged(written(tmp_path / "model.pt2", members()), b"\x7fELF code", b"\x7fELF c0de")
    with pytest.raises(UnreadablePackage):
        Package.open(path).extract()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_os_error(tmp_path: Path, cache: Path) -> None:
    package = opened(tmp_path)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=os.strerror(20)):
        package.extract()
