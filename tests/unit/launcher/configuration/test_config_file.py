"""Serve configuration files: read and checked before anything is started."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from aoti_serve.config import Tls
from aoti_serve.errors import InvalidConfig
from aoti_serve.launcher.configuration.checks import check_config, deployments_of
from aoti_serve.launcher.configuration.config_file import ConfigFile, read_config
from aoti_serve.model.package import SIGNATURE_KEY, WEIGHTS_APART, WEIGHTS_KEY
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.store.store import Store
from tests.unit.weights.files.test_sharded import sharded


def package(path: Path, *constants: ConstantSpec, apart: bool = False) -> None:
    """The least that is a package: metadata with a signature; built-in weights, unless they are apart."""
    signature = Signature(inputs=(), outputs=(), constants=constants).model_dump_json()
    metadata = {SIGNATURE_KEY: signature} | ({WEIGHTS_KEY: WEIGHTS_APART} if apart else {})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(metadata))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    package(tmp_path / "m.pt2")
    package(tmp_path / "apart.pt2", ConstantSpec(name="w", dtype="float32", shape=(2,), stride=(1,)), apart=True)
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "fits.safetensors")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    return tmp_path


def written(content: str | bytes) -> Path:
    path = Path("serve.yaml")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def application(args: str, name: str = "default") -> str:
    return f"- {{name: {name}, import_path: 'aoti_serve.app:build', args: {args}}}\n"


def test_our_applications_are_found_among_others() -> None:
    ours = application("{models: [{name: a, package: m.pt2}, {name: b, package: m.pt2, store: b}]}")
    more = application("{models: [{name: c, package: m.pt2}]}", "second")
    other = "- {import_path: 'other:app', args: {models: 7}}\n"
    found = read_config(written("applications:\n" + ours + other + more))
    assert [model.name for model in found.models] == ["a", "b", "c"]
    assert found.names == ["default", "default", "second"]
    assert [entry.name for entry in found.ours] == ["default", "second"]
    assert found.content["applications"][1] == {"import_path": "other:app", "args": {"models": 7}}


def test_whoever_builds_it_may_do_so_in_another_folder(here: Path) -> None:
    found = read_config(written("applications:\n" + application("{models: [{name: a, package: m.pt2, store: s}]}")))
    (model,) = found.content["applications"][0]["args"]["models"]
    assert model == {"name": "a", "package": str(here / "m.pt2"), "store": str(here / "s")}


def test_so_may_whoever_listens(here: Path) -> None:
    gateway = "{http_port: 1, tls: {certificate: c.pem, key: k.pem}}"
    models = "[{name: a, package: m.pt2}]"
    found = read_config(written("applications:\n" + application(f"{{models: {models}, gateway: {gateway}}}")))
    located = {"http_port": 1, "tls": {"certificate": str(here / "c.pem"), "key": str(here / "k.pem")}}
    assert found.content["applications"][0]["args"]["gateway"] == located


def test_a_link_to_a_certificate_stays_one_for_what_it_leads_to_may_change(here: Path) -> None:
    (here / "of-today.pem").touch()
    (here / "c.pem").symlink_to("of-today.pem")
    gateway = "{tls: {certificate: c.pem, key: c.pem}}"
    found = read_config(
        written("applications:\n" + application(f"{{models: [{{name: a, package: m}}], gateway: {gateway}}}"))
    )
    assert found.ours[0].gateway.tls == Tls(certificate=here / "c.pem", key=here / "c.pem")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", "it is empty, and no configuration", id="empty"),
        pytest.param("- a\n", "no list 'applications'", id="a-list"),
        pytest.param("applications: []", "nothing to serve", id="no-applications"),
        pytest.param("applications: 5", "no list 'applications'", id="applications-a-number"),
        pytest.param("applications: [", r"not YAML: (.|\n)* +in serve\.yaml, line 1", id="not-yaml"),
        pytest.param("a: \x00", "not YAML", id="a-zero-byte"),
        pytest.param(b"applications: [\xff\xfe]", "", id="not-utf8"),
        pytest.param("applications: [hello]", "", id="application-not-a-mapping"),
        pytest.param("applications: [{name: 2026-13-01}]", "", id="a-date-that-is-none"),
        pytest.param("applications:\n" + application("5", "x"), "application 'x', args", id="args-a-number"),
        pytest.param("applications:\n" + application("{}"), "models", id="no-models"),
        pytest.param(
            "applications:\n" + application("{models: [{name: a, package: m.pt2, runers: 2}]}"),
            r"models\.0\.runers",
            id="unknown-field",
        ),
    ],
)
def test_a_file_that_will_not_do_is_refused_by_name(content: str | bytes, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"serve\.yaml: (.|\n)*{reason}"):
        read_config(written(content))


def test_a_file_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfig, match=r"gone\.yaml: No such file or directory"):
        read_config(Path("gone.yaml"))


def valid(**changes: Any) -> dict[str, Any]:
    """A configuration that will do, with other things in its one model."""
    model = {"name": "a", "package": "m.pt2"} | changes
    entry = {"name": "default", "import_path": "aoti_serve.app:build", "args": {"models": [model]}}
    return {"proxy_location": "Disabled", "applications": [entry]}


def read(content: dict[str, Any], **options: Any) -> ConfigFile:
    return read_config(written(yaml.safe_dump(content)), **options)


def refused(content: dict[str, Any]) -> str:
    with pytest.raises(InvalidConfig) as caught:
        check_config(read(content))
    return str(caught.value)


def test_one_that_will_do_passes() -> None:
    assert list(check_config(read(valid()))) == ["a"]


def test_host_and_port_take_the_place_of_the_gateways() -> None:
    content = valid()
    content["applications"][0]["args"]["gateway"] = {"http_port": None, "replicas": 2}
    found = read(content, host="0.0.0.0", port=8123)
    (ours,) = found.ours
    assert (ours.gateway.host, ours.gateway.http_port, ours.gateway.replicas) == ("0.0.0.0", 8123, 2)
    assert found.content["applications"][0]["args"]["gateway"]["http_port"] == 8123


def two(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two applications of ours, with their gateways."""
    content = valid()
    (entry,) = content["applications"]
    model = {"name": "b", "package": "m.pt2", "store": "b"}
    other = entry | {"name": "second", "route_prefix": "/second", "args": {"models": [model], "gateway": second}}
    entry["args"]["gateway"] = first
    return content | {"applications": [entry, other]}


def test_host_and_port_are_for_one_application_only() -> None:
    with pytest.raises(InvalidConfig, match="the ports are for a file with one application of ours, this one has 2"):
        read(two({}, {"http_port": 8002}), port=8123)


def test_two_applications_at_one_port_would_answer_each_others_requests() -> None:
    assert "'default' and 'second' both listen at port 8000" in refused(two({}, {"host": "0.0.0.0"}))
    assert "both listen at port 8001" in refused(two({}, {"http_port": 8002}))
    check_config(read(two({}, {"http_port": 8002, "grpc_port": None})))


@pytest.mark.parametrize(
    ("proxies", "options", "gateway", "reason"),
    [
        ("EveryNode", {}, {}, "Serve's proxies would take port 8000, .* `proxy_location: Disabled` .* another"),
        ("HeadOnly", {"port": 8123}, {"http_port": 8123, "host": "0.0.0.0"}, "Serve's proxies would take port 8123"),
        ("EveryNode", {"port": 8123}, {}, None),
        ("EveryNode", {}, {"http_port": None}, None),
        ("Disabled", {}, {"http_port": None}, r"nobody reaches it: write `proxy_location: EveryNode`"),
        ("Disabled", {}, {}, None),
    ],
)
def test_who_answers_http_is_settled_before_ray_starts(
    proxies: str, options: dict[str, Any], gateway: dict[str, Any], reason: str | None
) -> None:
    content = valid() | {"proxy_location": proxies, "http_options": options}
    content["applications"][0]["args"]["gateway"] = gateway
    if reason is None:
        check_config(read(content))
        return
    with pytest.raises(InvalidConfig, match=reason):
        check_config(read(content))


def test_a_certificate_that_is_not_there_is_named_before_ray_starts(here: Path) -> None:
    (here / "chain.pem").touch()
    content = valid()
    content["applications"][0]["args"]["gateway"] = {"tls": {"certificate": "chain.pem", "key": "key.pem"}}
    with pytest.raises(InvalidConfig, match=r"application 'default': gateway\.tls: no file .*key\.pem"):
        check_config(read(content))


@pytest.mark.parametrize("key", ["admin_tokens", "inference_tokens"])
def test_a_file_of_tokens_that_cannot_be_used_is_named_before_ray_starts(here: Path, key: str) -> None:
    content = valid()
    content["applications"][0]["args"]["gateway"] = {key: "tokens"}
    with pytest.raises(InvalidConfig, match=rf"application 'default': gateway\.{key}: .*/tokens cannot be read"):
        check_config(read(content))
    (here / "tokens").write_text("short")
    (here / "tokens").chmod(0o600)
    with pytest.raises(InvalidConfig, match=r"/tokens, line 1: a token has at least"):
        check_config(read(content))
    (here / "tokens").write_text("ci: a-token-that-is-long-enough")
    check_config(read(content))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"canaries": ["5%"]}, "canaries: there is no such key"),
        ({"each": "soon"}, "each: 'soon' is no duration: write 60s"),
        ({"abort_if": {"cosine": 0.99}}, "compare answers of both versions: say shadow: 10% as well"),
    ],
)
def test_a_rollout_that_is_no_plan_is_named_before_ray_starts(plan: dict[str, Any], reason: str) -> None:
    said = refused(valid(rollout=plan))
    assert said.startswith("serve.yaml: model 'a': rollout: ")
    assert reason in said
    check_config(read(valid(rollout={"canary": ["5%"], "each": "30s"})))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"rename": ["bert."]}, "has no '=': write PATTERN=NEW"),
        ({"renames": []}, "renames: there is no such key"),
        ({"drop": ["("]}, "checkpoints: the rule '(' cannot be followed: missing )"),
    ],
)
def test_a_rule_for_names_that_is_none_is_named_before_ray_starts(rules: dict[str, Any], reason: str) -> None:
    assert reason in refused(valid(checkpoints=rules))


def test_without_a_word_about_proxies_there_are_none() -> None:
    content = valid()
    del content["proxy_location"]
    assert read(content).proxies == "Disabled"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param(
            {"import_path": "aoti_serve.app:bild"}, "there is no aoti_serve.app:bild; write", id="our-builder"
        ),
        pytest.param({"import_path": "nowhere_at_all:app"}, "there is no module nowhere_at_all", id="their-module"),
        pytest.param({"route_prefix": "api"}, "route_prefix: 'api' is none: write", id="route-prefix"),
        pytest.param(
            {"deployments": [{"name": "a-replicas"}]},
            "has no deployment 'a-replicas'; available: a-coordinator, a-replica, gateway",
            id="deployment",
        ),
        pytest.param(
            {"deployments": [{"name": "gateway", "num_replica": 2}]},
            "deployment 'gateway': num_replica: there is no such key",
            id="their-key",
        ),
    ],
)
def test_serves_own_keys_are_checked_as_well(changes: dict[str, Any], reason: str) -> None:
    content = valid()
    content["applications"][0] |= changes
    with pytest.raises(InvalidConfig, match=reason):
        check_config(read(content))


def test_what_serve_will_call_the_deployments() -> None:
    (ours,) = read(valid()).ours
    assert deployments_of(ours) == ["gateway", "a-coordinator", "a-replica"]


def test_files_that_are_not_there_are_named_with_the_folder(here: Path) -> None:
    assert f"model 'a': no file {here}/gone.pt2" in refused(valid(package="gone.pt2"))
    assert f"model 'a': no file {here}/gone.safetensors" in refused(valid(weights="gone.safetensors"))
    assert "no file /gone.pt2" in refused(valid(package="/gone.pt2"))


def test_first_weights_that_do_not_fit_are_named_with_the_tensor(here: Path) -> None:
    check_config(read(valid(package="apart.pt2", weights="fits.safetensors")))
    text = refused(valid(package="apart.pt2", weights="other.safetensors"))
    assert f"model 'a': weights {here}/other.safetensors: tensor 'w'" in text
    assert "it is a package; name the safetensors file beside it" in refused(
        valid(package="apart.pt2", weights="m.pt2")
    )


def test_the_first_weights_may_be_shards(here: Path) -> None:
    weights = load_file(here / "fits.safetensors")
    sharded(here / "fits", weights, dict.fromkeys(weights, "x.safetensors"))
    for place in ("fits", "fits/model.safetensors.index.json"):
        check_config(read(valid(package="apart.pt2", weights=place)))
    sharded(here / "other", {"v": weights["w"]}, {"v": "x.safetensors"})
    assert f"weights {here}/other: the weights do not have the package's names" in refused(
        valid(package="apart.pt2", weights="other")
    )


def test_first_weights_are_asked_for_until_something_is_committed(here: Path) -> None:
    without, gone = (
        valid(package="apart.pt2", store="s"),
        valid(package="apart.pt2", store="s", weights="g.safetensors"),
    )
    assert "carries no weights, and nothing is committed in its store" in refused(without)
    assert f"no file {here}/g.safetensors" in refused(gone)
    store = Store(here / "s", "a", 8)
    version = store.add(here / "fits.safetensors", "first")
    assert f"no file {here}/g.safetensors" in refused(gone), "stored is not committed"
    store.commit(version, 1, None)
    for content in (without, gone):
        check_config(read(content))


@pytest.mark.parametrize("name", ["CURRENT", "versions/1/weights.safetensors"])
def test_a_damaged_store_is_named_also_where_its_weights_would_do(here: Path, name: str) -> None:
    content = valid(package="apart.pt2", store="s", weights="fits.safetensors")
    store = Store(here / "s", "a", 8)
    store.commit(store.add(here / "fits.safetensors", "first"), 1, None)
    check_config(read(content))
    os.truncate(here / "s" / name, 20)
    text = refused(content)
    assert f"model 'a': weights store {here / 's'}: {name} is damaged: " in text
    assert "aoti-serve store check" in text
