"""A store behind fsspec: the same promises, without rename, lock or fsync; and what may be missing there."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from safetensors.numpy import save_file
from upath import UPath

from aoti_serve.errors import CommitUnknown, DigestMismatch, StoreFailed, UnreadableWeights
from aoti_serve.weights.files.index import read_index
from aoti_serve.weights.store import store as store_module
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.version import BUILT_IN, Version
from tests.unit.weights.store.elsewhere import Elsewhere, uri_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "elsewhere"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    name = uuid4().hex
    yield f"memory://{name}/store" if request.param == "memory" else uri_of(tmp_path / name / "store")
    fsspec.filesystem("memory").store.clear()


def weights(folder: Path, value: float) -> Path:
    path = folder / f"{value}.safetensors"
    save_file({"w": np.full(4, value, np.float32), "b": np.zeros(2, np.int8)}, path)
    return path


def grown(uri: str, folder: Path, count: int, keep: int = 8) -> tuple[Store, list[Version]]:
    store, versions = Store(uri, "m", keep), list[Version]()
    for number in range(1, count + 1):
        version = store.add(weights(folder, number), f"v{number}")
        store.commit(version, number, versions[-1] if versions else None)
        versions.append(version)
    return store, versions


def test_a_version_is_the_file_that_was_added(uri: str, tmp_path: Path) -> None:
    source = weights(tmp_path, 1)
    store = Store(uri, "m", 2)
    version = store.add(source, "first", parent=0, strict=False)
    assert (version.number, version.label, version.parent, version.strict, version.tensors) == (1, "first", 0, False, 2)
    assert source.is_file()
    store.confirm(version)
    again = Store(uri, "m", 2)
    assert again.versions() == [version]
    assert again.index(version) == read_index(source)
    with again.open(version) as file:
        assert (file.read(3) + file.read(), file.read()) == (source.read_bytes(), b"")
        file.seek(8)
        assert file.read(5) == source.read_bytes()[8:13]
    with again.file(version).open("rb") as file:
        assert file.read() == source.read_bytes()


def test_what_was_committed_is_read_back_by_the_next_store(uri: str, tmp_path: Path) -> None:
    store, (first, second) = grown(uri, tmp_path, 2)
    returned = store.commit(first, 3, second)
    assert Store(uri, "m", 8).committed() == returned
    assert store.audit_path is None


def test_an_upload_lies_in_a_private_folder_of_this_host_until_it_is_added(
    uri: str, tmp_path: Path, cache: Path
) -> None:
    store, content = Store(uri, "m", 2), weights(tmp_path, 1).read_bytes()
    upload = store.incoming()
    assert upload.is_relative_to(cache)
    assert stat.S_IMODE(upload.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(upload.stat().st_mode) == 0o600
    upload.write_bytes(content)
    version = store.add(upload, "")
    assert not upload.exists()
    with store.open(version) as file:
        assert file.read() == content


def test_what_another_one_left_in_the_private_folder_is_removed(uri: str) -> None:
    upload = Store(uri, "m", 2).incoming()
    Store(uri, "m", 2)
    assert not upload.exists()


@pytest.mark.parametrize("wrong", ["a-file", "a-link", "open-to-all"])
def test_a_private_folder_that_is_not_private_is_not_used(uri: str, cache: Path, wrong: str) -> None:
    folder = Store(uri, "m", 2).incoming().parent
    for path in folder.iterdir():
        path.unlink()
    if wrong == "open-to-all":
        folder.chmod(0o777)
    else:
        folder.rmdir()
        folder.touch() if wrong == "a-file" else folder.symlink_to(cache)
    with pytest.raises(StoreFailed, match="not a private folder of this user"):
        Store(uri, "m", 2)


def test_the_oldest_versions_are_dropped_and_their_numbers_are_not_given_out_again(uri: str, tmp_path: Path) -> None:
    store, versions = grown(uri, tmp_path, 4, keep=2)
    assert store.versions() == versions[2:]
    aborted = store.add(weights(tmp_path, 5), "aborted")
    store.remove(aborted)
    assert store.add(weights(tmp_path, 6), "next").number > aborted.number


def test_bytes_that_were_not_promised_are_not_stored(uri: str, tmp_path: Path) -> None:
    store = Store(uri, "m", 2)
    with pytest.raises(DigestMismatch):
        store.add(weights(tmp_path, 1), "", "0" * 64)
    with pytest.raises(UnreadableWeights):
        store.add(Path(__file__), "")
    assert store.versions() == []
    assert store.add(weights(tmp_path, 1), "").number == 1


def test_a_put_that_fails_leaves_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, [first] = grown(uri_of(tmp_path / "store"), tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("503 Slow Down")

    monkeypatch.setattr(Elsewhere, "pipe_file", failing)
    with pytest.raises(StoreFailed, match="RuntimeError: 503 Slow Down"):
        store.commit(second, 2, first)
    committed = store.committed()
    assert committed is not None
    assert committed.version == first


def test_a_put_whose_answer_is_lost_is_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, [first] = grown(uri_of(tmp_path / "store"), tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")
    put = Elsewhere.pipe_file

    def lost(files: Elsewhere, path: str, value: bytes) -> None:
        put(files, path, value)
        raise TimeoutError("no answer")

    monkeypatch.setattr(Elsewhere, "pipe_file", lost)
    assert store.commit(second, 2, first) == store.committed()


class Outage:
    """The put of CURRENT comes to an exception, and so do the next `reads` reads of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, done: bool, reads: int) -> None:
        self._put, self._get = Elsewhere.pipe_file, Elsewhere.cat_file
        self._done, self.left = done, 0
        self._reads = reads
        outage = self

        def put(files: Elsewhere, path: str, value: bytes) -> None:
            outage.put(files, path, value)

        def get(files: Elsewhere, path: str) -> bytes:
            return outage.get(files, path)

        monkeypatch.setattr(Elsewhere, "pipe_file", put)
        monkeypatch.setattr(Elsewhere, "cat_file", get)
        monkeypatch.setattr(store_module, "READ_BACK_POLL_S", 0.0)

    def put(self, files: Elsewhere, path: str, value: bytes) -> None:
        if path.endswith("CURRENT"):
            self.left = self._reads
            if self._done:
                self._put(files, path, value)
            raise TimeoutError("no answer to the put")
        self._put(files, path, value)

    def get(self, files: Elsewhere, path: str) -> bytes:
        if path.endswith("CURRENT") and self.left:
            self.left -= 1
            raise TimeoutError("no answer to the read")
        content: bytes = self._get(files, path)
        return content


def test_a_commit_is_asked_after_until_there_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, [first] = grown(uri_of(tmp_path / "store"), tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")
    outage = Outage(monkeypatch, done=True, reads=5)
    assert store.commit(second, 2, first) == store.committed()
    assert outage.left == 0


@pytest.mark.parametrize("done", [True, False])
def test_a_commit_of_which_nobody_can_tell_is_not_called_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    root = uri_of(tmp_path / "store")
    store, [first] = grown(root, tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")
    outage = Outage(monkeypatch, done=done, reads=10**9)
    monkeypatch.setattr(store_module, "READ_BACK_S", 0.05)
    with pytest.raises(CommitUnknown, match=r"epoch 2 was committed: writing CURRENT: .*no answer to the put.*read"):
        store.commit(second, 2, first)
    outage.left = 0
    committed = Store(root, "m", 8).committed()
    assert committed is not None
    assert committed.version == (second if done else first)


def test_a_failed_put_that_lands_later_names_a_whole_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = uri_of(tmp_path / "store")
    store, [first] = grown(root, tmp_path, 1)
    second = store.add(weights(tmp_path, 2), "second")
    put, late = Elsewhere.pipe_file, list[tuple[str, bytes]]()

    def failing(_: Elsewhere, path: str, value: bytes) -> None:
        late.append((path, value))
        raise TimeoutError("no answer")

    monkeypatch.setattr(Elsewhere, "pipe_file", failing)
    with pytest.raises(StoreFailed, match="no answer"):
        store.commit(second, 2, first)
    monkeypatch.setattr(Elsewhere, "pipe_file", put)
    store.remove(second)
    Elsewhere().pipe_file(*late[0])
    again = Store(root, "m", 8)
    assert again.committed() is not None
    with again.open(second) as file:
        assert file.read() == weights(tmp_path, 2).read_bytes()


def test_a_late_put_of_one_that_was_followed_removes_nothing_and_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window that is left where nothing can be locked."""
    root = uri_of(tmp_path / "store")
    older, (first, second) = grown(root, tmp_path, 2, keep=2)
    third, newer, put = older.add(weights(tmp_path, 3), "third"), list[Store](), Elsewhere.pipe_file

    def late(files: Elsewhere, path: str, value: bytes) -> None:
        if path.endswith("CURRENT") and not newer:
            newer.append(Store(root, "m", 2))
            newer[0].commit(first, 3, second)
        put(files, path, value)

    monkeypatch.setattr(Elsewhere, "pipe_file", late)
    older.commit(third, 3, second)
    assert newer[0].versions() == [first, second]
    with newer[0].open(third) as file:
        assert file.read() == weights(tmp_path, 3).read_bytes()
    assert newer[0].commit(second, 4, first) == Store(root, "m", 2).committed()


def test_a_upath_will_do(tmp_path: Path) -> None:
    source = weights(tmp_path, 1)
    for root in (UPath("memory://somewhere"), UPath(tmp_path / "local"), UPath(f"file://{tmp_path}/file")):
        store = Store(root, "m", 2)
        assert store.commit(store.add(source, ""), 1, None) == store.committed()
    assert (tmp_path / "local" / "CURRENT").is_file()
    assert (tmp_path / "file" / "CURRENT").is_file()


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        pytest.param("s3://bucket/models", r"s3://bucket/models: ImportError: Install s3fs", id="missing-backend"),
        pytest.param("nowhere://bucket/models", "Unsupported filesystem", id="unknown-scheme"),
        pytest.param("simplecache::memory://a", "chain of URIs", id="chain"),
        pytest.param("zip://a::file:///b.zip", "chain of URIs", id="chain-of-archives"),
    ],
)
def test_a_place_that_cannot_be_is_store_failed(root: str, reason: str) -> None:
    with pytest.raises(StoreFailed, match=reason):
        Store(root, "m", 2)


def test_wrong_credentials_are_store_failed_without_the_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoCredentials(Exception):
        """As botocore's, which is no OSError."""

    def refused(*_: Any, **__: Any) -> None:
        raise NoCredentials("user:secret may not do this")

    monkeypatch.setattr(Elsewhere, "makedirs", refused)
    with pytest.raises(StoreFailed) as caught:
        Store(f"elsewhere://user:secret@{tmp_path}", "m", 2)
    assert "NoCredentials: *** may not do this" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_built_in_weights_can_be_committed(uri: str) -> None:
    store = Store(uri, "m", 2)
    assert store.commit(BUILT_IN, 1, None) == store.committed()
