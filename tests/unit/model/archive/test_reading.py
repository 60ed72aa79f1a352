"""The `.pt2` zip, built by hand: what is in it, and what is refused."""

from __future__ import annotations

import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.errors import UnreadablePackage
from aoti_serve.model.archive import reading

ROOT = "demo/"
MODEL = ROOT + "data/aotinductor/model/"
METADATA = MODEL + "abc.wrapper_metadata.json"
LIBRARY = MODEL + "abc.wrapper.so"
MEMBERS = {METADATA: b"{}", LIBRARY: b"\x7fELF code", ROOT + "extra/aoti_serve/notes.txt": b"hello"}


def written(path: Path, files: dict[str, bytes] = MEMBERS, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def test_the_models_are_named(tmp_path: Path) -> None:
    more = {ROOT + "data/aotinductor/encoder/x.wrapper_metadata.json": b'{"a": "b"}', ROOT + "data/weights/w": b""}
    path = written(tmp_path / "model.pt2", MEMBERS | more)
    assert reading.names_in_archive(path) == ("encoder", "model")
    assert reading.metadata(path, "encoder") == b'{"a": "b"}'
    with pytest.raises(UnreadablePackage, match=r"no model 'other'; it holds model, encoder"):
        reading.metadata(path, "other")


def test_an_archive_without_a_top_folder_is_read_as_well(tmp_path: Path) -> None:
    bare = {name.removeprefix(ROOT): value for name, value in MEMBERS.items()}
    path = written(tmp_path / "model.pt2", bare)
    assert reading.names_in_archive(path) == ("model",)
    assert reading.read(path, "extra/aoti_serve/notes.txt") == b"hello"


def test_a_member_is_read_by_its_name_below_the_top_folder(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", compression=zipfile.ZIP_DEFLATED)
    assert reading.read(path, "extra/aoti_serve/notes.txt") == b"hello"
    assert reading.read(path, "notes.txt") is None
    assert reading.read(path, "extra") is None


def test_the_members_of_a_folder_are_named_below_the_top_folder(tmp_path: Path) -> None:
    bare = {name.removeprefix(ROOT): value for name, value in MEMBERS.items()}
    for files in (MEMBERS, bare):
        path = written(tmp_path / "model.pt2", files)
        assert set(reading.members(path, "data/aotinductor/model/")) == {
            "data/aotinductor/model/abc.wrapper.so",
            "data/aotinductor/model/abc.wrapper_metadata.json",
        }
        assert reading.members(path, "data/weights/") == ()


def test_a_member_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "model.pt2")
    monkeypatch.setattr(reading, "_MOST_READ", 5)
    assert reading.read(path, "extra/aoti_serve/notes.txt") == b"hello"
    monkeypatch.setattr(reading, "_MOST_READ", 4)
    with pytest.raises(UnreadablePackage, match=r"notes\.txt is larger than 4 bytes"):
        reading.read(path, "extra/aoti_serve/notes.txt")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param({}, "no compiled model", id="empty"),
        pytest.param({"demo/data/weights/model/a.wrapper_metadata.json": b""}, "no compiled model", id="elsewhere"),
        pytest.param({"a/b/data/aotinductor/m/x.wrapper_metadata.json": b""}, "no compiled model", id="too-deep"),
        pytest.param(MEMBERS | {MODEL + "b.wrapper_metadata.json": b""}, "several models", id="one-model-twice"),
        pytest.param(
            MEMBERS | {"other/data/aotinductor/m/b.wrapper_metadata.json": b""}, "several models", id="two-folders"
        ),
    ],
)
def test_what_is_no_package_is_refused(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    path = written(tmp_path / "model.pt2", files)
    for attempt in (reading.names_in_archive, lambda path: reading.read(path, "x")):
        with pytest.raises(UnreadablePackage, match=rf"model\.pt2.*{reason}"):
            attempt(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("import this")
    (tmp_path / "half").write_bytes(written(tmp_path / "model.pt2").read_bytes()[:100])
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("text", "not a .pt2"), ("half", "not a .pt2"), (".", "regular"), ("pipe", "regular")):
        with pytest.raises(UnreadablePackage, match=reason):
            reading.names_in_archive(tmp_path / name)
    with pytest.raises(UnreadablePackage, match=r"gone\.pt2: no such file"):
        reading.names_in_archive(tmp_path / "gone.pt2")


@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_raises_anything_but_unreadable_package(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "model.pt2"), compression=zipfile.ZIP_DEFLATED)
        bytes_ = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes_)
        with suppress(UnreadablePackage):
            reading.metadata(path, "model")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(LIBRARY, b"\x7fELF other")
    for attempt in (reading.names_in_archive, lambda path: reading.read(path, "x")):
        with pytest.raises(UnreadablePackage, match="two of its members have one name"):
            attempt(path)
