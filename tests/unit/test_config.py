"""The configuration: what it takes, what it refuses, where it keeps versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aoti_serve.config import AppConfig, DeclaredSignature, FollowConfig, ModelConfig, ScalingConfig, absolute
from aoti_serve.errors import problems
from aoti_serve.signature.tensors import Dim, TensorSpec


def model(**changes: Any) -> dict[str, Any]:
    return {"name": "digits", "package": "var/digits.pt2"} | changes


def config(*models: dict[str, Any], **rest: Any) -> AppConfig:
    return AppConfig.model_validate({"models": list(models), **rest})


def test_a_name_and_a_package_are_enough() -> None:
    [only] = config(model()).models
    assert (only.num_runners, only.replicas, only.keep_versions, only.weights, only.weights_roots) == (
        1,
        1,
        8,
        None,
        (),
    )
    assert only.batching.model_dump() == {
        "max_batch_size": 256,
        "max_queue_delay_ms": 0,
        "max_queued_rows": 4096,
        "max_queued_bytes": 256 * 2**20,
        "max_queue_wait_ms": 500,
        "priority_ageing_ms": 100,
    }


@pytest.mark.parametrize(
    ("changes", "store"),
    [
        pytest.param({}, "var/digits.versions", id="beside-the-package"),
        pytest.param({"package": "/models/digits.pt2"}, "/models/digits.versions", id="absolute"),
        pytest.param({"store": "kept"}, "kept", id="configured"),
    ],
)
def test_versions_are_kept_beside_the_package_if_nothing_is_said(changes: dict[str, Any], store: str) -> None:
    assert ModelConfig.model_validate(model(**changes)).store_root == str(Path(store).resolve())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("a/b", id="slash"),
        pytest.param("..", id="dots"),
        pytest.param("-x", id="option"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="newline"),
        pytest.param("ä", id="umlaut"),
        pytest.param("a" * 129, id="long"),
    ],
)
def test_a_name_that_is_no_part_of_a_url_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        config(model(name=name))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"num_runners": 0}, id="no-runners"),
        pytest.param({"replicas": 0}, id="no-replicas"),
        pytest.param({"keep_versions": 1}, id="too-few-versions-to-roll-back"),
        pytest.param({"keep_bytes": 0}, id="no-bytes-to-keep"),
        pytest.param({"device": "tpu"}, id="device"),
        pytest.param({"placement": "together"}, id="placement"),
        pytest.param({"runners": 2}, id="unknown-key"),
        pytest.param({"batching": {"max_batch_size": 0}}, id="empty-batches"),
        pytest.param({"batching": {"max_queue_delay_ms": -1}}, id="negative-delay"),
        pytest.param({"batching": {"max_queue_delay_ms": float("nan")}}, id="no-delay-at-all"),
        pytest.param({"batching": {"max_queue_delay_ms": float("inf")}}, id="endless-delay"),
        pytest.param({"batching": {"max_bach_size": 1}}, id="unknown-nested-key"),
        pytest.param({"replicas": {"min": 3, "max": 2}}, id="scaling-backwards"),
        pytest.param({"replicas": {"min": 0, "max": 2}}, id="scaling-to-zero"),
        pytest.param({"replicas": {"min": 1}}, id="scaling-without-an-end"),
        pytest.param({"batching": {"max_queued_bytes": 0}}, id="no-bytes-may-wait"),
        pytest.param({"batching": {"max_queue_wait_ms": 0}}, id="no-waiting-at-all"),
        pytest.param({"batching": {"priority_ageing_ms": 0}}, id="levels-worth-nothing"),
        pytest.param({"batching": {"max_queue_wait_ms": float("inf")}}, id="for-ever-is-null"),
        pytest.param({"weights_roots": "/"}, id="roots-not-a-list"),
        pytest.param({"operators": "my_ops"}, id="operators-not-a-list"),
        pytest.param({"signature": {}}, id="empty-signature"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(model(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"replicas": {"min": 3, "max": 2}}, "models.0.replicas: min 3 is above max 2", id="min above max"),
        pytest.param({"replicas": 0}, "models.0.replicas: 0 is too small: more than 0 is needed", id="no replica"),
        pytest.param({"num_runner": 2}, "models.0.num_runner: there is no such key", id="misspelt"),
    ],
)
def test_what_is_wrong_is_said_in_words(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(model(**changes))
    assert problems(caught.value.errors()) == says


def test_an_application_needs_a_model() -> None:
    with pytest.raises(ValidationError, match="models"):
        config()


def test_two_models_may_not_share_a_name() -> None:
    with pytest.raises(ValidationError, match="share a name"):
        config(model(package="a.pt2"), model(package="b.pt2"))


def test_two_models_may_not_share_a_store() -> None:
    """Each has a coordinator that takes itself for the store's only writer."""
    with pytest.raises(ValidationError, match="store"):
        config(model(name="a"), model(name="b"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("kept", "./x/../kept", id="dots"),
        pytest.param("kept", "file://{here}/kept", id="file-uri"),
        pytest.param("{here}/k pt", "file://{here}/k%20pt", id="escaped-file-uri"),
        pytest.param("kept", "FILE://{here}/kept/", id="capitals"),
        pytest.param("s3://bucket/a", "s3://bucket/b/../a/", id="dots-in-a-uri"),
        pytest.param("s3://bucket/a", "S3://Bucket//a", id="spelling-of-a-uri"),
        pytest.param("s3://bucket/a", "s3a://bucket/a", id="two-names-of-a-service"),
    ],
)
def test_two_spellings_of_a_store_are_one_store(one: str, other: str) -> None:
    stores = [store.format(here=Path.cwd()) for store in (one, other)]
    with pytest.raises(ValidationError, match="two models share a store"):
        config(*(model(name=f"m{number}", store=store) for number, store in enumerate(stores)))


def test_a_link_to_a_store_is_the_store(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    with pytest.raises(ValidationError, match="two models share a store"):
        config(model(name="a", store=str(tmp_path / "kept")), model(name="b", store=str(tmp_path / "link")))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        pytest.param("s3://bucket/a/../b//c/", "s3://bucket/b/c", id="dots"),
        pytest.param("S3://bucket", "s3://bucket", id="bucket"),
        pytest.param("memory://A/b", "memory://A/b", id="case"),
        pytest.param("https://user:pw@host/a?b", "https://user:pw@host/a?b", id="user"),
        pytest.param("file:///a%20b/../c", "/c", id="file"),
        pytest.param("/a/../c", "/c", id="folder"),
    ],
)
def test_a_place_is_made_absolute(place: str, expected: str) -> None:
    assert absolute(place) == expected


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("", id="empty"),
        pytest.param("s3://", id="scheme-only"),
        pytest.param("https:///", id="no-host"),
        pytest.param("simplecache::s3://bucket", id="chain"),
        pytest.param("local:///folder", id="another-name-of-file"),
        pytest.param("https://[broken/x", id="broken"),
    ],
)
@pytest.mark.parametrize("field", ["store", "weights_roots"])
def test_a_place_that_cannot_be_is_refused(place: str, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        config(model(**{field: place if field == "store" else [place]}))


def test_roots_may_be_folders_and_uris() -> None:
    [only] = config(model(weights_roots=["runs", "s3://bucket/models"])).models
    assert only.weights_roots == (str(Path("runs").resolve()), "s3://bucket/models")


def test_two_models_of_one_package_may_have_stores_of_their_own() -> None:
    assert len(config(model(name="a", store="a"), model(name="b", store="b")).models) == 2


def test_rows_may_wait_however_long() -> None:
    [only] = config(model(batching={"max_queue_wait_ms": None})).models
    assert only.batching.max_queue_wait_ms is None


def test_replicas_may_be_scaled() -> None:
    [only] = config(model(replicas={"min": 2, "max": 4})).models
    assert only.replicas == ScalingConfig(min=2, max=4)


def test_a_file_of_tokens_is_named_by_its_link_since_what_is_behind_may_change(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("one")
    gateway = config(model(), gateway={"inference_tokens": tmp_path / "data" / "tokens"}).gateway
    assert gateway.inference_tokens == tmp_path / "data" / "tokens"


@pytest.mark.parametrize("origin", ["*", "https://app.example", "http://localhost:3000", "http://[::1]:8080"])
def test_origins_are_as_browsers_send_them(origin: str) -> None:
    assert config(model(), gateway={"cors_origins": [origin]}).gateway.cors_origins == (origin,)


@pytest.mark.parametrize(
    "origins",
    ["*", ["https://app.example/"], ["app.example"], ["https://*.example"], ["https://App.example"], ["null"], [""]],
)
def test_what_no_browser_sends_is_no_origin(origins: Any) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        config(model(), gateway={"cors_origins": origins})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config(model()).gateway.replicas = 2


def declared(**changes: Any) -> dict[str, Any]:
    """A signature as it stands in a configuration."""
    inputs = [
        {"name": "x", "dtype": "FP32", "shape": ["batch=1..64", 16]},
        {"name": "s", "dtype": "int64", "shape": []},
    ]
    return {"inputs": inputs, "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch=1..64"]}]} | changes


def test_a_signature_may_be_declared() -> None:
    batch = Dim(symbol="batch", min=1, max=64)
    [only] = config(model(signature=declared(carried=["pe"], unused=["bn.num_batches_tracked"]))).models
    assert only.signature == DeclaredSignature(
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=(batch, 16)),
            TensorSpec(name="s", dtype="int64", shape=()),
        ),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(batch,)),),
        carried=("pe",),
        unused=("bn.num_batches_tracked",),
    )


def test_a_declared_signature_says_nothing_of_constants_by_default() -> None:
    plain = DeclaredSignature.model_validate(declared())
    assert (plain.carried, plain.unused) == (None, ())
    assert ModelConfig.model_validate(model()).signature is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"inputs": []}, "inputs", id="no-inputs"),
        pytest.param({"outputs": []}, "outputs", id="no-outputs"),
        pytest.param({"inputs": [{"name": "x", "dtype": "float32"}]}, "shape", id="no-shape"),
        pytest.param({"inputs": [{"name": "x", "dtype": "F32", "shape": []}]}, "'F32' is none of bool", id="dtype"),
        pytest.param({"inputs": [{"name": "x", "dtype": "int8", "shape": ["1..8"]}]}, "write 16, batch, or", id="dim"),
        pytest.param({"inputs": [{"name": "x", "dtype": "int8", "shape": [], "min": 1}]}, "min", id="unknown-key"),
        pytest.param({"constants": []}, "constants", id="constants"),
    ],
)
def test_a_declared_signature_that_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(model(signature=declared(**changes)))


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        pytest.param("s3://bucket/runs/", "s3://bucket/runs", id="bucket"),
        pytest.param("hf://org/repo@main/sub", "hf://org/repo@main/sub", id="hub"),
        pytest.param("models:/digits@champion", "models:/digits@champion", id="alias"),
        pytest.param("models:/digits/3", "models:/digits/3", id="registered"),
        pytest.param("file:///runs/a%20b", "/runs/a b", id="file"),
    ],
)
def test_a_place_to_follow_is_a_folder_a_uri_or_a_registered_model(place: str, kept: str) -> None:
    follow = config(model(follow={"uri": place})).models[0].follow
    assert follow == FollowConfig(uri=kept, every=10)


def test_a_link_that_is_followed_stays_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "newest.safetensors").symlink_to("step-9.safetensors")
    follow = config(model(follow={"uri": "newest.safetensors"})).models[0].follow
    assert follow is not None
    assert follow.uri == str(tmp_path / "newest.safetensors")


@pytest.mark.parametrize(
    ("every", "seconds"), [(1, 1), (2.5, 2.5), ("1s", 1), ("10s", 10), ("1.5min", 90), ("2 h", 7200), ("30", 30)]
)
def test_a_period_is_in_seconds_or_says_in_what(every: object, seconds: float) -> None:
    follow = config(model(follow={"uri": "runs", "every": every})).models[0].follow
    assert follow is not None
    assert follow.every == seconds


@pytest.mark.parametrize(
    "follow",
    [
        pytest.param({}, id="no-place"),
        pytest.param({"uri": ""}, id="empty"),
        pytest.param({"uri": "https://host/model.safetensors"}, id="web"),
        pytest.param({"uri": "models:/digits"}, id="neither-alias-nor-version"),
        pytest.param({"uri": "models:/digits/Production"}, id="stage"),
        pytest.param({"uri": "simplecache::s3://bucket"}, id="chain"),
        pytest.param({"uri": "runs", "every": "0.5s"}, id="too-often"),
        pytest.param({"uri": "runs", "every": "soon"}, id="no-period"),
        pytest.param({"uri": "runs", "every": "1.2.3s"}, id="no-number"),
        pytest.param({"uri": "runs", "every": float("inf")}, id="never"),
        pytest.param({"uri": "runs", "period": 3}, id="misspelt"),
        pytest.param("runs", id="no-section"),
    ],
)
def test_what_cannot_be_followed_is_refused(follow: object) -> None:
    with pytest.raises(ValidationError, match="follow"):
        config(model(follow=follow))
