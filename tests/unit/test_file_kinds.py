"""A file that was given in the place of another is called what it is, wherever it was given."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from aoti_serve.errors import InvalidConfig, UnreadablePackage, UnreadableWeights
from aoti_serve.errors.file_kinds import FileKind, kind_of
from aoti_serve.launcher.configuration.config_file import read_config
from aoti_serve.model.archive.reading import names_in_archive
from aoti_serve.weights.files.index import read_index

ARRAYS = {"w": np.ones(2, np.float32)}


def package(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", "pt2")


def writes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


MAKERS: dict[FileKind, Callable[[Path], object]] = {
    FileKind.EMPTY: writes(b""),
    FileKind.SAFETENSORS: lambda path: save_file(ARRAYS, path),
    FileKind.PACKAGE: package,
    FileKind.TORCH: lambda path: torch.save({"w": torch.ones(2)}, path),
    FileKind.NUMPY: lambda path: np.savez(path.open("wb"), w=ARRAYS["w"]),
    FileKind.GGUF: writes(b"GGUF\x03\0\0\0" + bytes(40)),
    FileKind.HDF5: writes(b"\x89HDF\r\n\x1a\n" + bytes(40)),
    FileKind.LFS: writes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    FileKind.PAGE: writes(b"\n<!DOCTYPE html><html><body>Not Found</body></html>"),
    FileKind.COMPRESSED: writes(gzip.compress(b"weights")),
    FileKind.LIBRARY: writes(b"\x7fELF" + bytes(40)),
    FileKind.TEXT: writes("gewöhnlicher Text\n".encode() * 99),
    FileKind.UNKNOWN: writes(bytes(range(255, 0, -1))),
}


@pytest.fixture(params=MAKERS, ids=lambda kind: kind.name)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileKind, Path]:
    path = tmp_path / "file"
    MAKERS[request.param](path)
    return request.param, path


def test_each_kind_is_told_by_how_it_begins(made: tuple[FileKind, Path]) -> None:
    kind, path = made
    assert kind_of(path) is kind


def test_an_array_alone_is_numpys_as_well(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAYS["w"])
    assert kind_of(tmp_path / "a.npy") is FileKind.NUMPY


def test_given_as_weights_it_is_called_by_its_kind(made: tuple[FileKind, Path]) -> None:
    kind, path = made
    if kind is FileKind.SAFETENSORS:
        assert read_index(path).keys() == {"w"}
        return
    with pytest.raises(UnreadableWeights, match="pickle" if kind is FileKind.TORCH else f"it is {kind}"):
        read_index(path)


def test_given_as_a_package_it_is_called_by_its_kind(made: tuple[FileKind, Path]) -> None:
    kind, path = made
    known = kind not in (FileKind.PACKAGE, FileKind.UNKNOWN)
    with pytest.raises(UnreadablePackage, match=f"it is {kind}" if known else "no compiled model|damaged"):
        names_in_archive(path)


def test_given_as_a_configuration_it_is_called_by_its_kind(made: tuple[FileKind, Path]) -> None:
    kind, path = made
    known = kind not in (FileKind.TEXT, FileKind.UNKNOWN)
    with pytest.raises(InvalidConfig, match=f"it is {kind}, and no config" if known else "not YAML|no list"):
        read_config(path)


def test_weights_where_a_package_belongs_are_told_where_to_go(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "w.safetensors")
    with pytest.raises(UnreadablePackage, match=r"it goes under `weights`, and the \.pt2 file"):
        names_in_archive(tmp_path / "w.safetensors")


def test_a_package_where_a_configuration_belongs_comes_with_the_command_that_makes_one(tmp_path: Path) -> None:
    package(tmp_path / "my model.pt2")
    with pytest.raises(InvalidConfig, match=r"`aoti-serve init --package '.*my model\.pt2'` writes one"):
        read_config(tmp_path / "my model.pt2")


def test_weights_that_are_cut_in_their_tensors_say_how_much_is_missing(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-3])
    with pytest.raises(UnreadableWeights, match=f"it was cut: its tensors take {len(whole)} bytes, and it has"):
        read_index(tmp_path / "cut")


@pytest.mark.parametrize("cut", range(4))
def test_text_is_text_wherever_its_beginning_ends(cut: int, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * cut + "ö€𝄞" * 400)
    assert kind_of(tmp_path / "text") is FileKind.TEXT


def test_text_with_a_brace_where_a_header_begins_is_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("gateway:{ port: [")
    with pytest.raises(InvalidConfig, match="not YAML"):
        read_config(tmp_path / "text")


@pytest.mark.parametrize("kept", [3, 8, 30])
def test_weights_that_are_cut_in_their_header_are_no_other_kind(kept: int, tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "w.safetensors")
    (tmp_path / "cut").write_bytes((tmp_path / "w.safetensors").read_bytes()[:kept])
    with pytest.raises(UnreadableWeights, match="it was cut" if kept > 8 else "it is of no kind that is known"):
        read_index(tmp_path / "cut")
