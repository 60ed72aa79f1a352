"""Golden requests on their way into a version: sent, named by a swap, kept as long as the version is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from safetensors.numpy import save_file

from aoti_serve.config import WeightsLimits
from aoti_serve.errors import TryAgain, UnfitGolden, UnreadableGolden
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.golden.file import golden_bytes
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec
from aoti_serve.weights.golden import OfferedGolden
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.checkup import check_store
from aoti_serve.weights.store.layout import golden_name
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Version

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(2,)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(2,)),),
    constants=(ConstantSpec(name="w", dtype="float32", shape=(4,), stride=(1,)),),
)
X = np.arange(2, dtype=np.float32)


def content(value: float = 1, **inputs: Any) -> bytes:
    request = GoldenRequest("one", inputs or {"x": X}, {"y": X + value}, {"y": {"absolute": 0.1}})
    return golden_bytes([request])


def uploaded(store: Store, sent: bytes) -> Path:
    path = store.incoming()
    path.write_bytes(sent)
    return path


def admitted(store: Store, value: float, answers: Version = BUILT_IN, **options: Any) -> Version:
    path = store.incoming()
    save_file({"w": np.full(4, value, np.float32)}, path)
    return Intake(store, "m", SIGNATURE, WeightsLimits(), []).of_file(path, SwapOptions(**options), answers)


def offered(store: Store, sent: bytes) -> str:
    return OfferedGolden(store).take(uploaded(store, sent), SIGNATURE).digest


def left(store: Store) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in store.uploads.iterdir() if path.stat().st_size)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield Store(tmp_path / "store" if request.param == "folder" else f"memory://{uuid4().hex}/store", "m", 2)
    fsspec.filesystem("memory").store.clear()


def test_what_was_sent_goes_with_the_version_that_names_it(store: Store) -> None:
    digest = offered(store, content())
    assert digest == hashlib.sha256(content()).hexdigest()
    first, second = (admitted(store, value, golden=digest.upper()) for value in (1, 2))
    for version in (first, second):
        assert version.golden is not None
        assert (version.golden.digest, version.golden.requests) == (digest, 1)
        assert store.attached_file(golden_name(version.number)).read_bytes() == content()
        assert store.version(version.number, also_staged=True) == version
    assert left(store) == ["golden"], "and no copy"


def test_a_version_without_any_has_none(store: Store) -> None:
    version = admitted(store, 1)
    assert version.golden is None
    assert not store.attached_file(golden_name(version.number)).exists()


def test_they_go_when_the_version_goes(store: Store) -> None:
    digest, previous = offered(store, content()), None
    versions = []
    for number in range(1, 5):
        versions.append(admitted(store, number, golden=digest))
        store.commit(versions[-1], number, previous)
        previous = versions[-1]
    kept = [store.attached_file(golden_name(version.number)).exists() for version in versions]
    assert kept == [False, False, True, True]


@pytest.mark.parametrize(
    ("sent", "error", "says"),
    [
        (b"nothing", UnreadableGolden, "not a whole safetensors file"),
        (content(x=X.astype(np.float64)), UnfitGolden, "golden request 'one': input 'x'.*FP64"),
        (content(z=X), UnfitGolden, "golden request 'one': input 'z'"),
    ],
)
def test_what_the_package_cannot_be_asked_is_not_kept(
    store: Store, sent: bytes, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        offered(store, sent)
    assert left(store) == []


def test_what_is_not_there_must_be_sent_again_and_no_version_is_made(store: Store) -> None:
    with pytest.raises(TryAgain, match=r"a{64} are not here, or not any more; send them again"):
        admitted(store, 1, golden="a" * 64)
    assert (store.numbers(), len(left(store))) == ([], 1), "the upload is its sender's"


def test_only_the_last_offers_are_kept(store: Store) -> None:
    digests = []
    for number in range(OfferedGolden.kept + 1):
        digests.append(offered(store, content(number)))
        os.utime(store.uploads / f"golden-{digests[-1]}", (number, number))
    offered(store, content(100))
    assert len(left(store)) == OfferedGolden.kept
    for digest in digests[:2]:
        with pytest.raises(TryAgain):
            admitted(store, 1, golden=digest)


def test_offers_end_with_the_coordinator(store: Store) -> None:
    offered(store, content())
    assert left(Store(store.source, "m", 2)) == []


def test_the_same_bytes_under_other_requests_are_another_version(store: Store) -> None:
    version = admitted(store, 1, golden=offered(store, content()))
    store.commit(version, 1, None)
    assert admitted(store, 1, version) == admitted(store, 1, version, golden=offered(store, content())) == version
    assert admitted(store, 1, version, golden=offered(store, content(5))) != version
    assert admitted(store, 1, version, skip_acceptance=True) != version


def test_a_version_that_skips_acceptance_says_so_for_ever(store: Store) -> None:
    version = admitted(store, 1, skip_acceptance=True)
    assert version.skips_acceptance
    assert store.version(version.number, also_staged=True).skips_acceptance
    assert admitted(store, 1, version, skip_acceptance=True) == version
    assert not admitted(store, 1, version).skips_acceptance


def test_golden_requests_that_have_changed_in_the_store_are_found(store: Store) -> None:
    version = admitted(store, 1, golden=offered(store, content()))
    assert check_store(store).whole
    store.attached_file(golden_name(version.number)).write_bytes(content(2))
    assert "versions/1/golden.safetensors" in str(check_store(store).versions[0].damage)
    store.attached_file(golden_name(version.number)).unlink()
    assert not check_store(store).whole
