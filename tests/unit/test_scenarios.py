"""The configurations in configs/: each loads, and nothing is wrong with it but what is not on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from aoti_serve.demo.configuration import demo_configuration
from aoti_serve.launcher.configuration.checks import config_errors
from aoti_serve.launcher.configuration.config_file import BUILDER, read_config
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.weights.rollout.plan import checked_plan
from tests.unit.launcher.configuration.test_config_file import package

CONFIGS = Path(__file__).parent.parent.parent / "configs"
PLAN = "rollout.yaml"  # a plan of a swap, no configuration
SCENARIOS = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name != PLAN)
# What cannot be checked here: a package for cards takes a card to compile it, and /models is on other machines.
MISSING = {
    "one-gpu.yaml": ["compiled for cpu, the configuration says device: cuda"],
    "many-gpus.yaml": ["no file /models/model.pt2"],
}
WEIGHT = ConstantSpec(name="w", dtype="float32", shape=(2,), stride=(1,))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the relative paths name."""
    monkeypatch.chdir(tmp_path)
    for folder in ("digits", "static", "tls"):
        (tmp_path / "var" / folder).mkdir(parents=True)
    for name in ("model", "static/model", "digits/digits"):
        package(tmp_path / f"var/{name}.pt2", WEIGHT, apart=True)
    for name in ("model", "static/model", "digits/v1", "digits/v2"):
        save_file({"w": np.zeros(2, np.float32)}, tmp_path / f"var/{name}.safetensors")
    for name in ("server.pem", "server-key.pem"):
        (tmp_path / "var/tls" / name).touch()
    for name in ("admin", "clients"):
        tokens = tmp_path / f"var/tls/{name}.tokens"
        tokens.write_text("0123456789abcdef\n")
        tokens.chmod(0o600)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return tmp_path


def test_there_is_one_for_each_scenario() -> None:
    wanted = (
        "autoscaling cpu many-gpus model one-gpu rollout-of-every-swap several-models static-batch-sizes tls-and-tokens"
    )
    assert [f"{name}.yaml" for name in wanted.split()] == SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_lacks_only_what_is_elsewhere(name: str) -> None:
    config = read_config(Path("configs") / name)
    errors = [str(error) for error in config_errors(config, {})]
    expected = MISSING.get(name, [])
    assert len(errors) == len(expected), errors
    assert all(part in error for part, error in zip(expected, errors, strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_says_what_it_is_for_and_is_one_of_ours(name: str) -> None:
    text = (CONFIGS / name).read_text()
    assert text.startswith("# ")
    assert [entry["import_path"] for entry in yaml.safe_load(text)["applications"]] == [BUILDER]


def test_the_plan_is_one() -> None:
    assert checked_plan(yaml.safe_load((CONFIGS / PLAN).read_text()), "rollout") is not None


def test_the_demo_is_served_as_the_readme_serves_it() -> None:
    """Else `scripts/serve` and `up configs/model.yaml` would be two servers."""
    text = demo_configuration(Path("var/digits"), Path("configs/model.yaml"), "scripts/make_digits")
    assert text == (CONFIGS / "model.yaml").read_text()


@pytest.mark.parametrize("folder", ["a b", "a: b", "#x", "/x/y-1", "ä", "12", "true"])
def test_any_folder_can_hold_the_demo(folder: str) -> None:
    text = demo_configuration(Path(folder), Path(folder) / "model.yaml", "x")
    (application,) = yaml.safe_load(text)["applications"]
    (model,) = application["args"]["models"]
    assert model["package"] == f"{folder}/digits.pt2"
    assert model["weights_roots"] == [folder]
