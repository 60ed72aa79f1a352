"""Serve configuration files: read and checked before anything is started."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from aoti_serve.errors import InvalidConfig
from aoti_serve.launcher.config_file import read_config
from aoti_serve.model.package import SIGNATURE_KEY
from aoti_serve.model.signature import Signature


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # The least that is a package: metadata with a signature, built-in weights.
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        signature = Signature(inputs=(), outputs=(), constants=()).model_dump_json()
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", json.dumps({SIGNATURE_KEY: signature}))
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
    assert found.ingresses == {"default": "gateway", "second": "gateway"}
    assert found.content["applications"][1]["import_path"] == "other:app"


def test_the_paths_below_which_our_applications_answer_are_found() -> None:
    first = application("{models: [{name: a, package: m.pt2}]}")
    second = application("{models: [{name: b, package: m.pt2}]}", "second").replace(
        "{name", "{route_prefix: /m/, name", 1
    )
    assert read_config(written("applications:\n" + first + second)).prefixes == ["", "/m"]


def test_a_fused_model_is_its_applications_ingress() -> None:
    models = "{models: [{name: a, package: m.pt2}, {name: b, package: m.pt2, store: b, placement: fused}]}"
    assert read_config(written("applications:\n" + application(models))).ingresses == {"default": "b-replica"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", "no list 'applications'", id="empty"),
        pytest.param("- a\n", "no list 'applications'", id="a-list"),
        pytest.param("applications: 5", "no list 'applications'", id="applications-a-number"),
        pytest.param("applications: [", "not YAML", id="not-yaml"),
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
        pytest.param(
            "applications:\n" + application("{models: [{name: a, package: gone.pt2}]}"),
            r"model 'a': no file gone\.pt2",
            id="package-missing",
        ),
        pytest.param(
            "applications:\n" + application("{models: [{name: a, package: m.pt2, weights: gone.safetensors}]}"),
            r"model 'a': no file gone\.safetensors",
            id="weights-missing",
        ),
    ],
)
def test_a_file_that_will_not_do_is_refused_by_name(content: str | bytes, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"serve\.yaml: (.|\n)*{reason}"):
        read_config(written(content))


def test_a_file_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfig, match=r"gone\.yaml: No such file or directory"):
        read_config(Path("gone.yaml"))
