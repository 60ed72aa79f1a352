"""What a check of a store finds, and in which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aoti_serve.errors import StoreDamaged, StoreFailed
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import check_store, total_bytes
from aoti_serve.weights.store.store import Store
from tests.unit.weights.store import elsewhere
from tests.unit.weights.store.crasher import content

NO_USE = re.compile("pydantic|Errno|validation error|Traceback")


@pytest.fixture(params=["file", elsewhere.SCHEME])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in which version 2 answers, 1 is the way back, and 3 was staged and never committed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "store"
    root = str(folder) if request.param == "file" else elsewhere.uri_of(folder)
    store = Store(root, "m", 4)
    versions = []
    for number in (1, 2, 3):
        (tmp_path / "file").write_bytes(content(number))
        versions.append(store.add(tmp_path / "file", f"v{number}"))
    store.commit(versions[0], 1, None)
    store.commit(versions[1], 2, versions[0])
    return root


def test_a_whole_store_is_whole_and_every_byte_was_read(root: str) -> None:
    seen = list[int]()
    found = check_store(Catalog(root), seen.append)
    assert found.whole
    assert (found.epoch, found.current, found.previous, found.term) == (2, 2, 1, 1)
    assert [(version.number, version.label, version.staged) for version in found.versions] == [
        (1, "v1", False),
        (2, "v2", False),
        (3, "v3", True),
    ]
    assert sum(seen) == total_bytes(Catalog(root)) == 3 * len(content(1))


def test_a_check_leaves_the_one_that_has_the_store_open_alone(root: str) -> None:
    store = Store(root, "m", 4)
    check_store(Catalog(root))
    store.check_term()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def overwrite(path: Path) -> None:
    path.write_bytes(b'{"epo')


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        pytest.param("CURRENT", overwrite, "CURRENT: it has 5 bytes, and is no such record", id="current"),
        pytest.param("TERM", overwrite, "TERM: it has 5 bytes, and is no such record", id="term"),
        pytest.param("versions/1/version.json", cut, "versions/1/version.json: it has", id="record"),
        pytest.param("versions/2/version.json", Path.unlink, "CURRENT: it names version 2, and", id="no-record"),
        pytest.param("versions/2/weights.safetensors", flip, "versions/2/weights.safetensors: its sha256 is", id="bit"),
        pytest.param("versions/2/weights.safetensors", cut, "bytes; stored were 8", id="cut"),
        pytest.param("versions/1/weights.safetensors", Path.unlink, "it cannot be opened", id="gone"),
    ],
)
def test_damage_names_the_file(root: str, tmp_path: Path, name: str, spoil: Callable[[Path], None], says: str) -> None:
    spoil(tmp_path / "store" / name)
    found = check_store(Catalog(root))
    assert not found.whole
    texts = [*found.damage, *(version.damage for version in found.versions if version.damage)]
    assert any(says in text for text in texts), texts
    assert any(name in text for text in texts)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        pytest.param("CURRENT", lambda catalog: catalog.committed(), id="current"),
        pytest.param("versions/2/version.json", lambda catalog: catalog.versions(), id="record"),
        pytest.param("versions/2/weights.safetensors", lambda catalog: catalog.index(catalog.version(2)), id="weights"),
    ],
)
def test_who_reads_what_is_damaged_hears_which_file_and_the_way_out(
    root: str, tmp_path: Path, name: str, read: Callable[[Catalog], object]
) -> None:
    cut(tmp_path / "store" / name)
    with pytest.raises(StoreDamaged) as caught:
        read(Catalog(root))
    text = str(caught.value)
    assert re.search(rf"/store: {name} is damaged: .*aoti-serve store check.*set-current", text)
    assert not NO_USE.search(text)


def test_one_damaged_record_is_in_nobodys_way_back(root: str, tmp_path: Path) -> None:
    cut(tmp_path / "store" / "versions" / "2" / "version.json")
    assert Catalog(root).version(1).label == "v1"


def test_where_there_is_no_store_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="there is no store here"):
        check_store(Catalog(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
