"""Versions that share bytes: each costs what it changed, reads as it was, and goes without the others."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, load_file, save_file

from aoti_serve.errors import StoreDamaged, StoreFailed
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import check_store
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.layout import Layout, Piece
from aoti_serve.weights.store.objects.objects import open_stored
from aoti_serve.weights.store.repair import export_version
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.store.usage import DiskUse, disk_use
from aoti_serve.weights.version import Version
from tests.unit.weights.store import elsewhere
from tests.unit.weights.store.test_checkup import flip

KB = 2**10
Tensors = dict[str, NDArray[Any]]


def tensors(seed: int = 0) -> Tensors:
    """A table of 1,000 rows, a matrix, and a bias."""
    draw = np.random.default_rng(seed)
    return {
        "table": draw.standard_normal((1000, 64), np.float32),  # 256 kB
        "matrix": draw.standard_normal((128, 128), np.float32),  # 64 kB
        "bias": draw.standard_normal(128, np.float32),
    }


class Shelf:
    """A store in a folder, to which each commit adds what it is given."""

    def __init__(self, folder: Path, keep: int = 8, keep_bytes: int | None = None) -> None:
        self.folder = folder
        self.store = Store(folder / "store", "m", keep, keep_bytes=keep_bytes)
        self._names = itertools.count()

    def add(self, values: Tensors, **facts: Any) -> Version:
        path = self.folder / f"{next(self._names)}.safetensors"
        save_file(values, path, metadata=facts.pop("metadata", None))
        return self.store.add(path, "", **facts)

    def commit(self, values: Tensors, **facts: Any) -> Version:
        version, before = self.add(values, **facts), self.store.committed()
        self.store.commit(version, self.store.epoch + 1, before.version if before else None)
        self.store.make_room()
        return version

    def read(self, version: Version) -> Tensors:
        with self.store.open(version) as file:
            content = file.read()
        assert hashlib.sha256(content).hexdigest() == version.digest
        return load(content)

    @property
    def on_disk(self) -> int:
        """The bytes of all files of versions."""
        return sum(path.stat().st_blocks * 512 for path in (self.folder / "store" / "versions").rglob("*.*"))

    def files(self) -> set[str]:
        versions = self.folder / "store" / "versions"
        return {str(path.relative_to(versions)) for path in versions.rglob("*") if path.is_file()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_version_with_one_other_tensor_costs_that_tensor(shelf: Shelf) -> None:
    first = tensors()
    shelf.commit(first)
    before = shelf.on_disk
    version = shelf.commit(first | {"matrix": first["matrix"] + 1})
    assert shelf.on_disk - before < 64 * KB + 16 * KB
    assert np.array_equal(shelf.read(version)["matrix"], first["matrix"] + 1)
    assert np.array_equal(shelf.read(version)["table"], first["table"])


def test_a_version_with_a_few_other_rows_costs_their_blocks(shelf: Shelf) -> None:
    first = tensors()
    shelf.commit(first)
    changed = first["table"].copy()
    changed[[10, 500]] += 1
    version = shelf.commit(first | {"table": changed})
    assert shelf.store.stored()[1].disk.added < 4 * 4 * KB
    assert np.array_equal(shelf.read(version)["table"], changed)


def test_what_has_all_changed_is_one_file_as_before(shelf: Shelf) -> None:
    shelf.commit(tensors(1))
    shelf.commit(tensors(2))
    assert shelf.files() == {
        f"{number}/{name}" for number in (1, 2) for name in ("weights.safetensors", "version.json")
    }
    assert b"pieces" not in (shelf.folder / "store" / "TERM").read_bytes()


def test_what_was_there_before_another_version_costs_next_to_nothing(shelf: Shelf) -> None:
    first = shelf.commit(tensors(1))
    shelf.commit(tensors(2))
    again = shelf.commit(tensors(1))
    assert again.digest == first.digest
    assert shelf.store.stored()[2].disk.added < KB


def test_tensors_are_found_wherever_they_lie_in_the_file(shelf: Shelf) -> None:
    first = tensors()
    shelf.commit(first)
    version = shelf.commit({**first, "another": np.zeros(5000, np.float64)}, metadata={"step": "2"})
    assert shelf.store.stored()[1].disk.added < 5000 * 8 + 4 * KB
    assert shelf.read(version).keys() == {*first, "another"}


def test_a_chain_of_changes_survives_what_it_began_with(tmp_path: Path) -> None:
    shelf, values = Shelf(tmp_path, keep=2), tensors()
    shelf.commit(values)
    for number in range(6):
        values = values | {"matrix": values["matrix"] + number + 1}
        shelf.commit(values)
    assert [version.number for version in shelf.store.versions()] == [6, 7]
    for version in shelf.store.versions():
        assert np.array_equal(shelf.read(version)["table"], values["table"])
    assert {name for name in shelf.files() if name.startswith(("1/", "2/", "3/", "4/", "5/"))} == {
        "1/weights.safetensors"
    }
    reopened = Shelf(tmp_path, keep=2)
    assert np.array_equal(reopened.read(reopened.store.version(7))["matrix"], values["matrix"])
    assert check_store(Catalog(tmp_path / "store")).whole


def test_a_file_that_none_needs_any_more_goes(tmp_path: Path) -> None:
    shelf, values = Shelf(tmp_path, keep=2), tensors()
    shelf.commit(values)
    shelf.commit(values | {"bias": values["bias"] + 1})
    for seed in (5, 6, 7):
        shelf.commit(tensors(seed))
    assert {name.split("/")[0] for name in shelf.files()} == {"4", "5"}


def test_what_is_left_of_a_file_takes_the_room_of_what_is_needed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, keep=2)
    small, large = tensors(), {"large": np.random.default_rng(3).integers(0, 255, 2**21, np.uint8)}
    shelf.commit(small | large)
    for number in range(1, 4):
        shelf.commit(small | {"large": large["large"] + np.uint8(number)})
    kept = tmp_path / "store" / "versions" / "1" / "weights.safetensors"
    assert kept.stat().st_size > 2**21
    assert kept.stat().st_blocks * 512 < 400 * KB
    for version in shelf.store.versions():
        assert np.array_equal(shelf.read(version)["table"], small["table"])


def test_retention_counts_bytes(tmp_path: Path) -> None:
    """Of whole versions two fit, of those with another matrix many."""
    shelf, values = Shelf(tmp_path, keep=100, keep_bytes=900 * KB), tensors()
    for seed in range(4):
        shelf.commit(tensors(seed))
    assert [version.number for version in shelf.store.versions()] == [3, 4]
    shelf, values = Shelf(tmp_path / "deltas", keep=100, keep_bytes=900 * KB), tensors()
    for number in range(12):
        shelf.commit(values | {"matrix": values["matrix"] + number})
    assert len(shelf.store.versions()) > 6
    assert sum(version.disk.added for version in shelf.store.stored()) <= 900 * KB


def test_what_answers_is_kept_whatever_it_takes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, keep=2, keep_bytes=1)
    first, second = shelf.commit(tensors(1)), shelf.commit(tensors(2))
    assert shelf.store.versions() == [first, second]
    shelf.read(first)


def test_a_listing_says_what_each_version_alone_holds_and_all_add_up(shelf: Shelf) -> None:
    values = tensors()
    sizes = [shelf.commit(values).nbytes]
    for number in (1, 2):
        shelf.commit(values | {"matrix": values["matrix"] + number})
    first, second, third = (version.disk for version in shelf.store.stored())
    assert first.added == sizes[0]
    assert first.alone < 80 * KB, "its matrix, and what is left of the blocks beside it"
    for changed in (second, third):
        assert 64 * KB <= changed.alone == changed.added < 80 * KB


def test_bytes_that_only_one_needs_are_free_when_it_goes() -> None:
    layouts = {
        1: Layout([Piece("versions/1/weights.safetensors", 0, 100)]),
        2: Layout([Piece("versions/1/weights.safetensors", 0, 60), Piece("versions/2/own.bin", 0, 40)]),
        3: Layout([Piece("versions/1/weights.safetensors", 10, 20), Piece("versions/2/own.bin", 0, 40)]),
    }
    room = {"versions/1/weights.safetensors": 100, "versions/2/own.bin": 40}
    assert disk_use(layouts, room) == {
        1: DiskUse(alone=40, added=100),
        2: DiskUse(alone=0, added=40),
        3: DiskUse(alone=0, added=0),
    }
    del layouts[1]
    assert disk_use(layouts, room)[2] == DiskUse(alone=40, added=140)


def test_a_store_of_before_is_read_and_shared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = tensors()
    with monkeypatch.context() as before:
        before.setattr(Store, "_shared", lambda *_: None)
        old = Shelf(tmp_path)
        first = old.commit(values)
        second = old.commit(values | {"matrix": values["matrix"] + 1})
    new = Shelf(tmp_path)
    assert new.store.versions() == [first, second]
    third = new.commit(values | {"matrix": values["matrix"] + 2})
    assert (tmp_path / "store" / "versions" / "3" / "own.bin").exists()
    assert [np.array_equal(new.read(each)["table"], values["table"]) for each in (first, second, third)] == [True] * 3


def test_an_earlier_release_does_not_open_a_store_with_pieces(shelf: Shelf) -> None:
    """It would take the files in which pieces lie for leftovers. It reads a number, and 32 digits or letters."""
    shelf.commit(tensors())
    term = shelf.folder / "store" / "TERM"
    assert len(term.read_text().split(" ")[1]) == 32
    shelf.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    _, _, owner = term.read_text().partition(" ")
    assert len(owner) != 32
    again = Store(shelf.folder / "store", "m", 8)
    again.check_term()
    assert (again.term, term.read_text().partition(" ")[2] != "") == (2, True)


def test_others_read_it_by_the_name_of_its_file(shelf: Shelf) -> None:
    shelf.commit(tensors())
    version = shelf.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    path = shelf.store.file(version)
    assert not path.exists()
    with open_stored(path) as file:
        assert hashlib.sha256(file.read()).hexdigest() == version.digest
        file.seek(8)
        assert file.read(1) == b"{"


def test_what_is_exported_is_whole(shelf: Shelf, tmp_path: Path) -> None:
    shelf.commit(tensors())
    version = shelf.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    export_version(Catalog(shelf.store.root), version, tmp_path / "out.safetensors", lambda _: None)
    assert not load_file(tmp_path / "out.safetensors")["bias"].any()


def test_what_is_removed_leaves_what_others_share_with_it(shelf: Shelf) -> None:
    values = tensors()
    aborted = shelf.add(values)
    version = shelf.commit(values | {"bias": values["bias"] + 1})
    shelf.store.remove(aborted)
    assert shelf.store.numbers() == [2]
    assert np.array_equal(shelf.read(version)["table"], values["table"])


def test_nothing_is_shared_with_what_is_damaged(shelf: Shelf) -> None:
    values = tensors()
    first = shelf.commit(values)
    path = shelf.store.file(first)
    assert isinstance(path, Path)
    content = bytearray(path.read_bytes())
    content[-200 * KB :] = bytes(200 * KB)
    path.write_bytes(content)
    again = shelf.commit(values)
    assert np.array_equal(shelf.read(again)["table"], values["table"])
    path.unlink()
    last = shelf.commit(values | {"bias": values["bias"] + 1})
    assert last.number == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        pytest.param("2/pieces.json", b"{", "versions/2/pieces.json: it has 1 byte,", id="record"),
        pytest.param("2/pieces.json", b'["../../etc/passwd"]\n[]', "no such record", id="elsewhere"),
        pytest.param("1/weights.safetensors", None, "versions/1/weights.safetensors", id="home"),
        pytest.param("2/own.bin", b"", "versions/2/own.bin, in which a part of it lies, has 0 bytes", id="own"),
        pytest.param("2/own.bin", b"x" * 100, "in which a part of it lies, has 100 bytes", id="cut"),
    ],
)
def test_damage_names_the_file(shelf: Shelf, name: str, content: bytes | None, says: str) -> None:
    shelf.commit(tensors())
    shelf.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    path = shelf.folder / "store" / "versions" / name
    path.unlink() if content is None else path.write_bytes(content)
    found = check_store(Catalog(shelf.store.root))
    texts = [version.damage for version in found.versions if version.number == 2]
    assert all(text and says in text for text in texts), texts
    assert (found.versions[0].damage is None) is (name != "1/weights.safetensors")


def test_a_bit_that_has_changed_is_found_and_where_the_version_lies(shelf: Shelf) -> None:
    shelf.commit(tensors())
    shelf.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    flip(shelf.folder / "store" / "versions" / "2" / "own.bin")
    first, second = check_store(Catalog(shelf.store.root)).versions
    assert first.damage is None
    assert second.damage is not None
    assert "and it lies in versions/2/own.bin, versions/1/weights.safetensors" in second.damage


def test_while_a_record_of_pieces_is_damaged_nothing_goes(tmp_path: Path) -> None:
    shelf, values = Shelf(tmp_path, keep=2), tensors()
    shelf.commit(values)
    for number in range(2):
        shelf.commit(values | {"bias": values["bias"] + number + 1})
    damaged = tmp_path / "store" / "versions" / "3" / "pieces.json"
    content = damaged.read_bytes()
    damaged.write_bytes(b"")
    again = Shelf(tmp_path, keep=2)
    again.commit(tensors(7))
    damaged.write_bytes(content)
    for version in again.store.versions():
        again.read(version)
    damaged.write_bytes(b"")
    with pytest.raises(StoreDamaged, match="no record of pieces"):
        open_stored(damaged.with_name("weights.safetensors"))


def test_a_full_disk_in_the_middle_leaves_the_version_out(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shelf.commit(tensors())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "keep_parts", full)
        with pytest.raises(StoreFailed, match="No space left"):
            shelf.add(tensors() | {"bias": np.zeros(128, np.float32)})
    assert shelf.files() == {"1/weights.safetensors", "1/version.json"}
    assert Shelf(shelf.folder).store.versions() == [first]


def test_a_copy_at_a_uri_is_read_as_it_is(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shelf.commit(tensors())
    version = shelf.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    there = Store(elsewhere.uri_of(tmp_path / "store"), "m", 2)
    with there.open(version) as file, open_stored(there.file(version)) as same:
        assert file.read() == same.read()
    assert there.index(version).keys() == tensors().keys()
    for seed in (3, 4, 5):
        (tmp_path / "next").write_bytes((tmp_path / "0.safetensors").read_bytes())
        added = there.add(tmp_path / "next", f"{seed}")
        there.commit(added, there.epoch + 1, there.version(added.number - 1) if seed > 3 else version)
    assert [each.number for each in there.versions()][-2:] == [there.numbers()[-2], there.numbers()[-1]]
    assert check_store(Catalog(elsewhere.uri_of(tmp_path / "store"))).whole


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    cuts=st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
)
def test_any_part_of_pieces_is_that_part_of_the_whole(lengths: list[int], cuts: tuple[int, int]) -> None:
    content = bytes(range(256)) * 8
    begins = [(17 * number) % 900 for number in range(len(lengths))]
    pieces = [Piece("versions/1/own.bin", *each) for each in zip(begins, lengths, strict=True)]
    layout = Layout.parse(Layout(pieces).content)
    whole = b"".join(content[piece.begin : piece.end] for piece in pieces)
    begin, end = (min(cut, layout.nbytes) for cut in sorted(cuts))
    found = b"".join(content[piece.begin : piece.end] for piece in layout.cut(begin, end))
    assert (layout.nbytes, found) == (len(whole), whole[begin:end])


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_changes_each_version_reads_as_it_was(data: st.DataObject, tmp_path_factory: Any) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("any"), keep=3)
    values, added = tensors(), dict[int, Tensors]()
    for _ in range(data.draw(st.integers(2, 6))):
        name = data.draw(st.sampled_from([*values]))
        changed = values[name].copy()
        first = data.draw(st.integers(0, changed.shape[0] - 1))
        changed[first : first + data.draw(st.integers(1, 400))] += 1
        values = values | {name: changed}
        added[shelf.commit(values).number] = values
    for version in shelf.store.versions():
        found = shelf.read(version)
        assert all(np.array_equal(found[name], value) for name, value in added[version.number].items())
