"""Packages on disk, built by hand: what is read of them, what is refused, and which of their models are served."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from aoti_serve.config import DeclaredSignature, ModelConfig
from aoti_serve.errors import IncompatiblePackage, PackageError, UnknownSignature, UnreadablePackage
from aoti_serve.model.package import (
    BASELINE,
    SIGNATURE_KEY,
    VARIANTS_KEY,
    WEIGHTS_APART,
    WEIGHTS_KEY,
    Package,
    configured_package,
)
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

MODELS = "demo/data/aotinductor/"
FOLDER = MODELS + "model/"
METADATA = FOLDER + "abc.wrapper_metadata.json"
LIBRARY = FOLDER + "abc.wrapper.so"
CODE = FOLDER + "abc.wrapper.cpp"
GENERATED = b"""
    : AOTInductorModelBase(1,
                           1,
                           0,
                           device_str,
                           std::move(cubin_dir),
                           false) {
}
void AOTInductorModel::run_impl(
    output_handles[0] = buf0.release();
"""
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


DECLARED = DeclaredSignature(inputs=SIGNATURE.inputs, outputs=SIGNATURE.outputs)


def metadata(**changes: str) -> dict[str, str]:
    return {SIGNATURE_KEY: SIGNATURE.model_dump_json(), "AOTI_DEVICE_KEY": "cpu"} | changes


def members(facts: Any = None, **others: bytes) -> dict[str, bytes]:
    return {METADATA: json.dumps(metadata() if facts is None else facts).encode(), LIBRARY: b"\x7fELF code"} | others


def archive_of(facts: dict[str, dict[str, str]]) -> dict[str, bytes]:
    """The members of an archive with a model for each name."""
    return {
        f"{MODELS}{name}/a.wrapper_metadata.json": json.dumps(metadata(**fact)).encode() for name, fact in facts.items()
    }


def written(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
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


@pytest.mark.parametrize(
    ("code", "carried"),
    [
        pytest.param(GENERATED.replace(b"false)", b"true)"), True, id="built-in"),
        pytest.param(GENERATED, False, id="apart"),
    ],
)
def test_a_package_that_says_nothing_is_for_the_cpu_and_its_code_tells_of_its_weights(
    tmp_path: Path, code: bytes, carried: bool
) -> None:
    package = Package.open(written(tmp_path / "model.pt2", members({}) | {CODE: code}))
    assert (package.device, package.carries_weights) == ("cpu", carried)


def test_a_package_without_our_signature_is_told_how_to_get_one(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", members({"AOTI_DEVICE_KEY": "cpu"}) | {CODE: GENERATED})
    with pytest.raises(UnknownSignature, match="aoti-serve package"):
        Package.open(path).signature  # noqa: B018


def test_a_declared_signature_is_taken_where_the_package_has_none(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", members({}) | {CODE: GENERATED})
    found = Package.open(path, signature=DECLARED).signature
    assert (found.inputs, found.outputs, found.constants) == (SIGNATURE.inputs, SIGNATURE.outputs, ())


def test_a_package_that_has_a_signature_keeps_it(tmp_path: Path) -> None:
    other = DECLARED.model_copy(update={"inputs": SIGNATURE.outputs})
    assert Package.open(written(tmp_path / "model.pt2", members()), signature=other).signature == SIGNATURE


def test_operators_are_kept_for_whoever_loads_it(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", members())
    assert Package.open(path).operators == ()
    assert Package.open(path, operators=["mylib.ops"]).operators == ("mylib.ops",)


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
        pytest.param(members() | {FOLDER + "b.wrapper_metadata.json": b"{}"}, id="one-model-twice"),
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
    for name in ("text", "."):
        with pytest.raises(UnreadablePackage, match=r"not a \.pt2"):
            Package.open(tmp_path / name)


def test_a_package_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePackage, match=r"gone\.pt2: no such file"):
        Package.open(tmp_path / "gone.pt2")


def test_metadata_that_was_damaged_on_the_way_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", members())
    with pytest.raises(UnreadablePackage):
        Package.open(damaged(path, b'"AOTI_DEVICE_KEY": "cpu"', b'"AOTI_DEVICE_KEY": "gpu"'))


@settings(max_examples=200)
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


def test_the_only_model_is_taken_whatever_its_name(tmp_path: Path) -> None:
    package = Package.open(written(tmp_path / "model.pt2", archive_of({"encoder": {}})))
    assert (package.model_name, package.variants) == ("encoder", [({}, "encoder")])


def test_of_several_models_one_must_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", archive_of({"encoder": {}, "decoder": {"AOTI_DEVICE_KEY": "cuda"}}))
    with pytest.raises(UnreadablePackage, match=r"several models, decoder, encoder; say which with `model_name`"):
        Package.open(path)
    for name, device in (("encoder", "cpu"), ("decoder", "cuda")):
        package = Package.open(path, name)
        assert (package.model_name, package.device, package.variants) == (name, device, [({}, name)])


def test_of_several_models_the_one_called_model_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pt2", archive_of({"encoder": {}, "model": {}}))
    assert Package.open(path).model_name == "model"
    assert Package.open(path, "encoder").model_name == "encoder"


@pytest.mark.parametrize("name", ["decoder", "", "model/..", "../model"])
def test_a_model_that_is_not_there_is_refused_and_those_that_are_are_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "model.pt2", archive_of({"encoder": {}, "model": {}}))
    with pytest.raises(UnreadablePackage, match=f"it holds no model '{name}'; it holds encoder, model"):
        Package.open(path, name)


def test_variants_are_one_model(tmp_path: Path) -> None:
    facts = {VARIANTS_KEY: json.dumps({"batch1": 1, "batch16": 16, "batch4": 4})}
    path = written(tmp_path / "model.pt2", archive_of(dict.fromkeys(("batch1", "batch16", "batch4"), facts)))
    package = Package.open(path)
    assert package.variants == [({"batch": 1}, "batch1"), ({"batch": 16}, "batch16"), ({"batch": 4}, "batch4")]
    assert package.signature == SIGNATURE


@pytest.mark.parametrize("value", ["", "{", "[]", "1", '{"model": "many"}', '{"model": 1.5}', '{"model": null}'])
def test_variants_that_cannot_be_read_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UnreadablePackage, match=r"model\.pt2: variants"):
        opened(tmp_path, **{VARIANTS_KEY: value}).variants  # noqa: B018


def test_a_model_is_unpacked_into_the_users_cache_under_the_packages_digest(tmp_path: Path, cache: Path) -> None:
    files = members() | archive_of({"batch4": {}})
    package = Package.open(written(tmp_path / "model.pt2", files))
    assert package.extract() == cache / package.digest / FOLDER
    assert package.extract("batch4") == cache / package.digest / MODELS / "batch4"
    assert (package.extract() / "abc.wrapper.so").read_bytes() == b"\x7fELF code"
    assert [path.name for path in cache.iterdir()] == [package.digest]


def test_other_content_at_the_same_path_is_unpacked_anew(tmp_path: Path) -> None:
    before = opened(tmp_path).extract()
    written(tmp_path / "model.pt2", members() | {LIBRARY: b"\x7fELF other"})
    after = Package.open(tmp_path / "model.pt2").extract()
    assert (before / "abc.wrapper.so").read_bytes() == b"\x7fELF code"
    assert (after / "abc.wrapper.so").read_bytes() == b"\x7fELF other"


def test_the_baseline_is_what_export_wrote(tmp_path: Path) -> None:
    assert opened(tmp_path).baseline() == {}
    content = save({"positions": np.arange(3, dtype=np.float32)})
    package = Package.open(written(tmp_path / "model.pt2", members() | {f"demo/{BASELINE}": content}))
    found = package.baseline()
    assert list(found) == ["positions"]
    assert found["positions"].tolist() == [0, 1, 2]


def configured(folder: Path, facts: dict[str, str] | None = None, **changes: Any) -> Package:
    path = written(folder / "model.pt2", members(metadata() if facts is None else facts) | {CODE: GENERATED})
    return configured_package(ModelConfig.model_validate({"name": "demo", "package": path} | changes))


def test_a_configuration_opens_its_package(tmp_path: Path) -> None:
    digest = hashlib.sha256(configured(tmp_path).path.read_bytes()).hexdigest()
    for key, value in (("sha256", digest), ("sha256", digest.upper()), ("device", "cpu"), ("model_name", "model")):
        package = configured(tmp_path, None, **{key: value})
        assert (package.path, package.signature) == (tmp_path / "model.pt2", SIGNATURE)
    package = configured(tmp_path, {}, weights=Path("w.safetensors"), signature=DECLARED, operators=["json"])
    assert (package.signature.inputs, package.operators) == (SIGNATURE.inputs, ("json",))


@pytest.mark.parametrize(
    ("facts", "changes", "error", "reason"),
    [
        pytest.param({}, {"sha256": "00" * 32}, IncompatiblePackage, r"its sha256 is \w{64}, not 0000", id="digest"),
        pytest.param({}, {"device": "cuda"}, IncompatiblePackage, "for cpu, .* says device: cuda", id="device"),
        pytest.param({}, {"model_name": "encoder"}, UnreadablePackage, "no model 'encoder'", id="model"),
        pytest.param({SIGNATURE_KEY: "{}"}, {}, UnreadablePackage, "signature", id="signature"),
    ],
)
def test_a_configuration_that_does_not_go_with_its_package_is_refused(
    tmp_path: Path,
    facts: dict[str, str],
    changes: dict[str, Any],
    error: type[PackageError],
    reason: str,
) -> None:
    with pytest.raises(error, match=reason):
        configured(tmp_path, metadata(**facts), **changes)


def test_a_configuration_without_the_signature_that_is_needed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownSignature, match="signature:"):
        configured(tmp_path, {})


def test_weights_that_are_apart_may_be_in_the_store_already(tmp_path: Path) -> None:
    facts = metadata(**{WEIGHTS_KEY: WEIGHTS_APART})
    assert not configured(tmp_path, facts).carries_weights


def test_where_the_configuration_says_the_sha256_the_unpacked_files_are_held_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = configured(tmp_path)
    folder = package.extract()
    changed = next(path for path in folder.iterdir() if path.stat().st_size)
    content = changed.read_bytes()
    changed.write_bytes(bytes(len(content)))
    configured(tmp_path, None, sha256=package.digest).extract()
    assert changed.read_bytes() == content
