"""Every example has a configuration that can be read, and keeps what it makes in its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import aoti_serve
from aoti_serve.launcher.configuration.config_file import read_config

EXAMPLES = Path(aoti_serve.__file__).parents[1] / "examples"
NAMES = ("online_learning", "precision", "recommender", "self_aborting_canary", "several_models")


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_read_and_names_its_own_folder(name: str) -> None:
    [application] = read_config(EXAMPLES / name / f"{name}.yaml").ours
    home = Path("var/examples").absolute() / name
    for model in application.config.models:
        paths = [model.package, model.weights, model.store]
        assert [Path(str(path)).parent for path in paths] == [home] * 3
