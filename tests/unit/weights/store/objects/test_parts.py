"""Versions at a URI: each costs what it changed, reads as it was, and goes without the others."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from aoti_serve.errors import Superseded
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import check_store
from aoti_serve.weights.store.layout import Layout, Piece
from aoti_serve.weights.store.objects import lending, parts
from aoti_serve.weights.store.objects.objects import open_stored
from aoti_serve.weights.store.objects.reading import GAP_BYTES, REQUEST_BYTES, PartedFile, ranges_for
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import Version

KB = 2**10
Tensors = dict[str, NDArray[Any]]


def tensors(seed: int = 0) -> Tensors:
    """A table of 1,000 rows (256 kB), a matrix (64 kB) and a bias."""
    draw = np.random.default_rng(seed)
    return {
        "table": draw.standard_normal((1000, 64), np.float32),
        "matrix": draw.standard_normal((128, 128), np.float32),
        "bias": draw.standard_normal(128, np.float32),
    }


class Bucket:
    """A store in memory, to which each commit adds what it is given."""

    def __init__(self, folder: Path, uri: str, keep: int = 8, keep_bytes: int | None = None) -> None:
        self.folder, self.uri = folder, uri
        self.store = Store(uri, "m", keep, keep_bytes=keep_bytes)
        self._names = itertools.count()

    def commit(self, values: Tensors, **facts: Any) -> Version:
        version, before = self.add(values, **facts), self.store.committed()
        self.store.commit(version, self.store.epoch + 1, before.version if before else None)
        self.store.make_room()
        return version

    def add(self, values: Tensors, **facts: Any) -> Version:
        path = self.folder / f"{uuid4().hex}.safetensors"
        save_file(values, path)
        return self.store.add(path, "", **facts)

    def read(self, version: Version) -> Tensors:
        with self.store.open(version) as file:
            content = file.read()
        assert hashlib.sha256(content).hexdigest() == version.digest
        return load(content)

    def objects(self) -> dict[str, int]:
        """What lies under `versions`, but for the marks of numbers, and the bytes of each."""
        root = self.uri.removeprefix("memory:/") + "/versions/"
        found = MemoryFileSystem.store.items()
        return {
            path.removeprefix(root): len(at.getvalue())
            for path, at in found
            if path.startswith(root) and not path.endswith("/taken")
        }

    def added(self, version: Version) -> int:
        """The bytes of all objects of a version's folder."""
        return sum(size for name, size in self.objects().items() if name.startswith(f"{version.number}/"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 kB, so that versions of a few hundred have several."""
    monkeypatch.setattr(lending, "LEAST_PARTED_BYTES", 32 * KB)
    monkeypatch.setattr(parts, "LEAST_PART_BYTES", 64 * KB)


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield f"memory://{uuid4().hex}/store"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bucket(tmp_path: Path, uri: str) -> Bucket:
    return Bucket(tmp_path, uri)


def test_a_version_with_one_other_tensor_costs_that_tensor(bucket: Bucket) -> None:
    first = tensors()
    bucket.commit(first)
    version = bucket.commit(first | {"matrix": first["matrix"] + 1})
    assert bucket.added(version) < 64 * KB + 16 * KB
    assert np.array_equal(bucket.read(version)["matrix"], first["matrix"] + 1)
    assert np.array_equal(bucket.read(version)["table"], first["table"])


def test_a_version_with_a_few_other_rows_costs_their_blocks(bucket: Bucket) -> None:
    first = tensors()
    bucket.commit(first)
    changed = first["table"].copy()
    changed[[10, 500]] += 1
    version = bucket.commit(first | {"table": changed})
    assert bucket.store.stored()[1].disk.added < 4 * 4 * KB
    assert np.array_equal(bucket.read(version)["table"], changed)


def test_nothing_of_the_stored_version_is_fetched_to_find_that(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    first, fetched, cat = tensors(), list[str](), MemoryFileSystem.cat_file
    bucket.commit(first)

    def noting(files: MemoryFileSystem, path: str, **options: Any) -> bytes:
        fetched.append(path)
        content: bytes = cat(files, path, **options)
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", noting)
    bucket.commit(first | {"bias": first["bias"] + 1})
    assert [path for path in fetched if "part-" in path] == []


def test_the_next_coordinator_shares_by_the_digests_that_are_stored(bucket: Bucket) -> None:
    first = tensors()
    bucket.commit(first)
    bucket.commit(first | {"bias": first["bias"] + 1})
    again = Bucket(bucket.folder, bucket.uri)
    version = again.commit(first | {"bias": first["bias"] + 2})
    assert again.added(version) < 16 * KB
    assert np.array_equal(again.read(version)["table"], first["table"])


def test_it_does_not_share_with_what_its_predecessor_may_still_be_removing(bucket: Bucket) -> None:
    """Which was stopped in the middle of that, and goes on when it is woken up."""
    oldest = tensors(1)
    for values in (oldest, tensors(2), tensors(3)):
        bucket.commit(values)
    again = Bucket(bucket.folder, bucket.uri)
    version = again.commit(oldest)
    assert {piece.file.split("/")[1] for piece in again.store.layout(version.number).pieces} == {f"{version.number}"}


def test_one_that_is_woken_while_it_removes_asks_whether_it_was_followed(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, newer = Bucket(tmp_path, uri, keep=2), list[Bucket]()
    for seed in (1, 2, 3, 4):
        bucket.commit(tensors(seed))
    needed = Store._needed_files

    def stopped(store: Store, numbers: Any) -> set[str]:
        found = needed(store, numbers)
        if not newer:
            newer.append(Bucket(tmp_path, uri, keep=2))
        return found

    monkeypatch.setattr(Store, "_needed_files", stopped)
    before = bucket.objects()
    with pytest.raises(Superseded):
        bucket.store._drop([3])
    assert bucket.objects() == before


def test_a_chain_of_changes_survives_what_it_began_with(tmp_path: Path, uri: str) -> None:
    bucket, values = Bucket(tmp_path, uri, keep=2), tensors()
    bucket.commit(values)
    for number in range(6):
        values = values | {"matrix": values["matrix"] + number + 1}
        bucket.commit(values)
    assert [version.number for version in bucket.store.versions()] == [6, 7]
    for version in bucket.store.versions():
        assert np.array_equal(bucket.read(version)["table"], values["table"])
    left = {name.split("/")[0] for name in bucket.objects()}
    assert left == {"1", "6", "7"}
    again = Bucket(tmp_path, uri, keep=2)
    assert again.added(again.commit(values | {"bias": values["bias"] + 1})) < 16 * KB
    assert check_store(Catalog(uri)).whole


def test_objects_that_none_needs_any_more_go(tmp_path: Path, uri: str) -> None:
    bucket, values = Bucket(tmp_path, uri, keep=2), tensors()
    bucket.commit(values)
    bucket.commit(values | {"bias": values["bias"] + 1})
    for seed in (5, 6, 7):
        bucket.commit(tensors(seed))
    assert {name.split("/")[0] for name in bucket.objects()} == {"4", "5"}


def rewritten(bucket: Bucket, rows: int) -> Iterator[tuple[Version, Tensors]]:
    """Versions of a tensor, each with one row more that has changed since the first, and their values."""
    values: Tensors = {"w": np.zeros((16, 16 * KB), np.uint8)}
    bucket.commit(values)
    for row in range(rows):
        values = {"w": values["w"].copy()}
        values["w"][row] = row + 1
        yield bucket.commit(values), values


def test_an_object_of_which_little_is_needed_is_not_kept_for_it(tmp_path: Path, uri: str) -> None:
    """However many changes follow each other, no version lies in objects of much more than four times its size."""
    bucket = Bucket(tmp_path, uri, keep=1)
    *_, (last, values) = rewritten(bucket, 15)
    assert sum(bucket.objects().values()) < 5 * last.nbytes
    assert np.array_equal(bucket.read(last)["w"], values["w"])


def test_a_version_lies_in_so_many_objects_at_the_most(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MOST_OBJECTS", 5)
    bucket = Bucket(tmp_path, uri, keep=1)
    versions = []
    for each in rewritten(bucket, 4):
        versions.append(each)
        assert len(bucket.store.layout(each[0].number).files) <= 5 + 1
    last, values = versions[-1]
    assert np.array_equal(bucket.read(last)["w"], values["w"])


def test_retention_counts_bytes(tmp_path: Path, uri: str) -> None:
    """Of whole versions two fit, of those with another matrix many."""
    bucket = Bucket(tmp_path, uri, keep=100, keep_bytes=900 * KB)
    for seed in range(4):
        bucket.commit(tensors(seed))
    assert [version.number for version in bucket.store.versions()] == [3, 4]
    bucket, values = Bucket(tmp_path, f"{uri}/deltas", keep=100, keep_bytes=900 * KB), tensors()
    for number in range(12):
        bucket.commit(values | {"matrix": values["matrix"] + number})
    assert len(bucket.store.versions()) > 6
    assert sum(version.disk.added for version in bucket.store.stored()) <= 900 * KB


def test_a_listing_says_what_each_version_alone_holds_and_all_add_up(bucket: Bucket) -> None:
    values = tensors()
    sizes = [bucket.commit(values).nbytes]
    for number in (1, 2):
        bucket.commit(values | {"matrix": values["matrix"] + number})
    first, *others = (version.disk for version in bucket.store.stored())
    assert (first.added, first.alone < 80 * KB) == (sizes[0], True)
    for changed in others:
        assert 64 * KB <= changed.alone == changed.added < 80 * KB


def test_a_store_of_before_is_read_and_goes_on(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = tensors()
    with monkeypatch.context() as before:
        before.setattr(lending, "LEAST_PARTED_BYTES", 2**40)
        old = Bucket(tmp_path, uri)
        first, second = old.commit(values), old.commit(values | {"bias": values["bias"] + 1})
    new = Bucket(tmp_path, uri)
    assert new.store.versions() == [first, second]
    third, fourth = (new.commit(values | {"bias": values["bias"] + number}) for number in (2, 3))
    assert new.added(fourth) < 16 * KB < new.added(third)
    for version in (first, second, third, fourth):
        assert np.array_equal(new.read(version)["table"], values["table"])


def test_nothing_is_shared_with_what_is_not_there_any_more(bucket: Bucket) -> None:
    """So what is sent again after an object was lost, or thrown away since it was damaged, is whole."""
    values = tensors()
    bucket.commit(values)
    fsspec.filesystem("memory").rm(f"{bucket.uri}/versions/1/part-0.bin")
    assert not check_store(Catalog(bucket.uri)).whole
    version = bucket.commit(values)
    assert 64 * KB <= bucket.added(version) < 96 * KB
    assert np.array_equal(bucket.read(version)["table"], values["table"])


@pytest.mark.parametrize("content", [None, b"", b"x" * 23, b"\0" * 24])
def test_without_its_digests_a_version_is_read_and_lends_nothing(bucket: Bucket, content: bytes | None) -> None:
    values, files = tensors(), fsspec.filesystem("memory")
    first = bucket.commit(values)
    name = f"{bucket.uri}/versions/1/blocks.bin"
    files.rm(name) if content is None else files.pipe_file(name, content)
    again = Bucket(bucket.folder, bucket.uri)
    version = again.commit(values)
    assert again.store.layout(version.number).files[0].startswith(f"versions/{version.number}/")
    for each in (first, version):
        assert np.array_equal(again.read(each)["table"], values["table"])


def test_others_read_it_by_the_name_of_its_file(bucket: Bucket) -> None:
    bucket.commit(tensors())
    version = bucket.commit(tensors() | {"bias": np.zeros(128, np.float32)})
    with open_stored(bucket.store.file(version)) as file:
        assert hashlib.sha256(file.read()).hexdigest() == version.digest
        file.seek(8)
        assert file.read(1) == b"{"


def test_a_damaged_part_is_found_and_named(bucket: Bucket) -> None:
    bucket.commit(tensors())
    name, files = f"{bucket.uri}/versions/1/part-1.bin", fsspec.filesystem("memory")
    content = files.cat_file(name)
    files.pipe_file(name, bytes([content[0] ^ 1]) + content[1:])
    [found] = check_store(Catalog(bucket.uri)).versions
    assert found.damage is not None
    assert "versions/1/part-1.bin" in found.damage


def test_a_store_that_was_copied_to_a_folder_is_read_and_goes_on(bucket: Bucket, tmp_path: Path) -> None:
    values = tensors()
    first = bucket.commit(values)
    fsspec.filesystem("memory").get(bucket.uri, str(tmp_path / "copy"), recursive=True)
    here = Store(tmp_path / "copy", "m", 8)
    save_file(values | {"bias": values["bias"] + 1}, tmp_path / "next")
    version = here.add(tmp_path / "next", "")
    here.commit(version, 2, first)
    assert here.stored()[1].disk.added < 16 * KB
    assert check_store(Catalog(tmp_path / "copy")).whole


def test_ranges_that_lie_close_together_are_one_request_and_long_ones_several() -> None:
    near = [Piece("a", 0, 10), Piece("a", 10 + GAP_BYTES, 10)]
    assert ranges_for(near) == [Piece("a", 0, 20 + GAP_BYTES)]
    far = [Piece("a", 0, 10), Piece("a", 11 + GAP_BYTES, 10), Piece("b", 0, 10)]
    assert ranges_for(far) == far
    long = [Piece("a", at * REQUEST_BYTES, REQUEST_BYTES) for at in range(3)]
    assert ranges_for(long) == long


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    reads=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), max_size=10),
)
def test_any_read_brings_that_part_of_the_whole(lengths: list[int], reads: list[tuple[int, int]]) -> None:
    content = bytes(range(256)) * 8
    layout = Layout(Piece(f"{at % 3}", (17 * at) % 900, length) for at, length in enumerate(lengths))
    whole = b"".join(content[piece.begin : piece.end] for piece in layout.pieces)
    file = PartedFile(layout, lambda pieces: [content[piece.begin : piece.end] for piece in pieces])
    for begin, length in reads:
        file.seek(begin)
        assert file.read(length) == whole[begin : begin + length]


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_whatever_changes_each_version_reads_as_it_was(data: st.DataObject, tmp_path_factory: Any) -> None:
    bucket = Bucket(tmp_path_factory.mktemp("any"), f"memory://{uuid4().hex}", keep=3)
    values, added = tensors(), dict[int, Tensors]()
    for _ in range(data.draw(st.integers(2, 6))):
        name = data.draw(st.sampled_from([*values]))
        changed = values[name].copy()
        first = data.draw(st.integers(0, changed.shape[0] - 1))
        changed[first : first + data.draw(st.integers(1, 400))] += 1
        values = values | {name: changed}
        added[bucket.commit(values).number] = values
        if data.draw(st.booleans()):
            bucket = Bucket(bucket.folder, bucket.uri, keep=3)
    for version in bucket.store.versions():
        found = bucket.read(version)
        assert all(np.array_equal(found[name], value) for name, value in added[version.number].items())
