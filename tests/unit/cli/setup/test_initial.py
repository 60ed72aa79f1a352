"""`aoti-serve init`: what it writes loads, with the values that its comments say are the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from aoti_serve.cli import app
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.launcher.configuration.config_file import read_config
from aoti_serve.signature.constants import ConstantSpec
from tests.unit.launcher.configuration.test_config_file import package

WEIGHT = ConstantSpec(name="w", dtype="float32", shape=(2,), stride=(1,))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*options: str) -> Result:
    return CliRunner().invoke(app, ["init", *options])


def test_without_a_package_it_is_a_form_that_loads() -> None:
    assert init().exit_code == 0
    (model,) = read_config(Path("model.yaml")).models
    assert (model.name, model.package.name) == ("model", "model.pt2")


def test_packages_are_served_by_their_names(here: Path) -> None:
    package(here / "a.pt2")
    package(here / "b c.pt2", WEIGHT, apart=True)
    (here / "b c.safetensors").touch()
    result = init("serve.yaml", "--package", "a.pt2", "--package", "b c.pt2")
    text = (here / "serve.yaml").read_text()
    (application,) = yaml.safe_load(text)["applications"]
    assert result.exit_code == 0, result.output
    assert [model["name"] for model in application["args"]["models"]] == ["a", "b-c"]
    assert [model.get("weights") for model in application["args"]["models"]] == [None, "b c.safetensors"]


def test_a_missing_file_of_weights_is_told(here: Path) -> None:
    package(here / "a.pt2", WEIGHT, apart=True)
    result = init("--package", "a.pt2")
    assert "there is no a.safetensors" in result.stderr
    assert read_config(here / "model.yaml").models[0].weights == here / "a.safetensors"


def test_a_file_that_is_there_stays(here: Path) -> None:
    (here / "model.yaml").write_text("mine")
    assert init().exit_code == 1
    assert (here / "model.yaml").read_text() == "mine"
    assert init("--force").exit_code == 0


def test_the_commented_keys_are_keys_and_their_values_the_defaults() -> None:
    init()
    text = re.sub(r"^( +)# (?=[a-z_]+: )", r"\1", Path("model.yaml").read_text(), flags=re.M)
    Path("all.yaml").write_text(text)
    (ours,) = read_config(Path("all.yaml")).ours
    (model,), plain = ours.config.models, ModelConfig(name="m", package=Path("m.pt2"))
    for key in ("weights_roots", "keep_versions", "num_runners", "replicas", "batching"):
        assert getattr(model, key) == getattr(plain, key), key
    for key in ("host", "http_port", "grpc_port", "replicas", "access_log"):
        assert getattr(ours.gateway, key) == getattr(GatewayConfig(), key), key
