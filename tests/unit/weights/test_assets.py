"""The files that ride with a version: which ones it has, where they lie, and when they go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import TryAgain, UnfitAssets
from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.weights.assets import OfferedAssets, bundle, described_assets, given_assets, unbundled
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.checkup import check_store
from aoti_serve.weights.store.layout import assets_name
from aoti_serve.weights.store.repair import export_version, import_file
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version

CONSTANTS = Constants(constants=(ConstantSpec(name="bias", dtype="float32", shape=(3,), stride=(1,)),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "m", 2)


@pytest.fixture
def intake(store: Store, tmp_path: Path) -> Intake:
    (tmp_path / "tokenizer.json").write_bytes(b"tokens")
    (tmp_path / "labels.json").write_bytes(b"labels")
    files = (tmp_path / "tokenizer.json", tmp_path / "labels.json")
    return Intake(store, "m", CONSTANTS, WeightsLimits(), [str(tmp_path)], assets=files)


def weights(folder: Path, value: float) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"bias": np.full(3, value, np.float32)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def files_of(store: Store, version: Version) -> dict[str, bytes]:
    content = store.attached_content(assets_name(version.number))
    assert content is not None
    assert version.assets == described_assets(content)
    return dict(unbundled(content))


def committed(store: Store, version: Version, epoch: int) -> Version:
    store.commit(version, epoch, None)
    return version


def test_the_first_version_has_the_files_of_the_configuration(intake: Intake, store: Store, tmp_path: Path) -> None:
    version = intake.of_local(weights(tmp_path / "one", 1.0), SwapOptions())
    assert files_of(store, version) == {"tokenizer.json": b"tokens", "labels.json": b"labels"}


def test_what_a_swap_does_not_bring_stays(intake: Intake, store: Store, tmp_path: Path) -> None:
    first = committed(store, intake.of_local(weights(tmp_path / "one", 1.0), SwapOptions()), 1)
    digest = OfferedAssets(store).offer(b"new tokens")
    given = SwapOptions(assets={"tokenizer.json": digest})
    second = intake.of_file(weights(tmp_path / "two", 2.0), given, first)
    assert files_of(store, second) == {"tokenizer.json": b"new tokens", "labels.json": b"labels"}
    third = intake.of_file(weights(tmp_path / "three", 3.0), SwapOptions(), second)
    assert third.assets == second.assets
    assert files_of(store, third) == files_of(store, second)


def test_the_same_weights_with_other_files_are_another_version(intake: Intake, store: Store, tmp_path: Path) -> None:
    file = weights(tmp_path / "one", 1.0)
    first = committed(store, intake.of_local(file, SwapOptions()), 1)
    assert intake.of_file(file, SwapOptions(), first) == first
    given = SwapOptions(assets={"labels.json": OfferedAssets(store).offer(b"other labels")})
    assert intake.of_file(file, given, first).number == 2


def test_files_beside_weights_in_a_folder_are_taken(intake: Intake, store: Store, tmp_path: Path) -> None:
    first = committed(store, intake.of_local(weights(tmp_path / "one", 1.0), SwapOptions()), 1)
    weights(tmp_path / "published", 2.0)
    (tmp_path / "published" / "tokenizer.json").write_bytes(b"published")
    (tmp_path / "published" / "readme.json").write_bytes(b"nobody asks for this")
    version = intake.of_uri(str(tmp_path / "published"), SwapOptions(), first)
    assert files_of(store, version) == {"tokenizer.json": b"published", "labels.json": b"labels"}
    sent = SwapOptions(assets={"tokenizer.json": OfferedAssets(store).offer(b"sent")})
    again = intake.of_uri(f"file://{tmp_path}/published/model.safetensors", sent, first)
    assert files_of(store, again)["tokenizer.json"] == b"sent"


def test_files_go_with_their_version(intake: Intake, store: Store, tmp_path: Path) -> None:
    version, epoch = BUILT_IN, 0
    for epoch in range(1, 5):
        version = intake.of_file(
            weights(tmp_path / "one", float(epoch)),
            SwapOptions(assets={"labels.json": OfferedAssets(store).offer(b"%d" % epoch)}),
            version,
        )
        store.commit(version, epoch, None)
    kept = sorted(path.parent.name for path in (tmp_path / "store" / "versions").glob("*/assets.safetensors"))
    assert kept == ["3", "4"]


def test_a_damaged_file_is_found(intake: Intake, store: Store, tmp_path: Path) -> None:
    version = intake.of_local(weights(tmp_path / "one", 1.0), SwapOptions())
    committed(store, version, 1)
    path = tmp_path / "store" / assets_name(version.number)
    assert check_store(Catalog(tmp_path / "store")).whole
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert "assets.safetensors: its sha256 is" in str(check_store(Catalog(tmp_path / "store")).versions[0].damage)


def test_what_the_processor_does_not_read_is_refused(intake: Intake, store: Store, tmp_path: Path) -> None:
    file, digest = weights(tmp_path / "one", 1.0), OfferedAssets(store).offer(b"x")
    with pytest.raises(UnfitAssets, match=r"reads no 'vocab\.txt'; it reads labels\.json, tokenizer\.json"):
        intake.of_file(file, SwapOptions(assets={"vocab.txt": digest}), BUILT_IN)
    with pytest.raises(TryAgain, match=r"asset 'labels\.json' with sha256 0+ is not here"):
        intake.of_file(file, SwapOptions(assets={"labels.json": "0" * 64}), BUILT_IN)
    assert store.numbers() == []


def test_too_much_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("aoti_serve.weights.assets.MAX_ASSETS_BYTES", 4)
    with pytest.raises(UnfitAssets, match="a, b have 6 bytes; the most is 4 bytes"):
        bundle({"a": b"abc", "b": b"abc"})
    (tmp_path / "large").write_bytes(b"abcde")
    (tmp_path / "empty").touch()
    for name, says in {"large": "more than 4 bytes", "empty": "is empty", "none": "No such file"}.items():
        with pytest.raises(UnfitAssets, match=says):
            given_assets([str(tmp_path / name)])


def test_files_are_given_by_their_own_names_or_by_others(tmp_path: Path) -> None:
    for name in ("labels.json", "other.json"):
        (tmp_path / name).write_bytes(name.encode())
    given = [str(tmp_path / "labels.json"), f"vocab.json={tmp_path}/other.json"]
    assert given_assets(given) == {"labels.json": b"labels.json", "vocab.json": b"other.json"}
    with pytest.raises(UnfitAssets, match=r"two files are called 'labels\.json'"):
        given_assets([given[0], f"labels.json={tmp_path}/other.json"])


def test_offers_are_known_by_their_sha256(store: Store) -> None:
    offered = OfferedAssets(store)
    digest = offered.offer(b"content")
    assert digest == sha256(b"content").hexdigest()
    assert offered.read("x", digest.upper()) == b"content"
    for number in range(OfferedAssets.kept):
        offered.offer(b"%d" % number)
    with pytest.raises(TryAgain):
        offered.read("x", digest)


def test_many_may_be_offered_at_once(store: Store) -> None:
    offered = OfferedAssets(store)
    contents = [b"%d" % number for number in range(4 * OfferedAssets.kept)]
    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(offered.offer, contents))
    assert digests == [sha256(content).hexdigest() for content in contents]
    assert 0 < len(list(store.uploads.iterdir())) <= OfferedAssets.kept


def test_files_go_out_and_come_in_with_their_version(intake: Intake, store: Store, tmp_path: Path) -> None:
    version = intake.of_local(weights(tmp_path / "one", 1.0), SwapOptions())
    written = export_version(Catalog(tmp_path / "store"), version, tmp_path / "out.safetensors", lambda nbytes: None)
    other = Store(tmp_path / "other", "m", 2)
    again = import_file(Catalog(tmp_path / "other"), written.weights, "again")
    assert again.assets == version.assets
    assert files_of(other, again) == files_of(store, version)
