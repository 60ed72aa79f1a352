"""What an application takes at the least, and what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aoti_serve.config import AppConfig
from aoti_serve.launcher.configuration.capacity import shortage
from aoti_serve.launcher.configuration.checks import deployments_of
from aoti_serve.launcher.configuration.config_file import ConfigFile, Ours
from aoti_serve.model.package import Package


def short(model: dict[str, Any], options: dict[str, Any], there: dict[str, float], device: str = "cpu") -> str | None:
    config = AppConfig.model_validate({"models": [{"name": "a", "package": "a.pt2"} | model]})
    ours = Ours("default", "", config, {"a-replica": options})
    packages = {"a": Package(Path("a.pt2"), "model", {"AOTI_DEVICE_KEY": device})}
    return shortage(ConfigFile(Path("f"), {"applications": []}, [ours]), packages, there)


@pytest.mark.parametrize(
    ("model", "options", "cores"),
    [
        ({}, {}, 1),
        ({"replicas": 2, "num_runners": 3}, {}, 6),
        ({"replicas": {"min": 2, "max": 9}}, {}, 2),
        ({"replicas": 4}, {"num_replicas": 2}, 2),
        ({"replicas": 4}, {"num_replicas": "auto"}, 1),
        ({"replicas": 4}, {"autoscaling_config": {"min_replicas": 3}}, 3),
        ({"num_runners": 4}, {"ray_actor_options": {"num_cpus": 0.5}}, 0.5),
        ({"num_runners": 4}, {"ray_actor_options": {"num_gpus": 0}}, 1),
    ],
)
def test_replicas_take_their_cores(model: dict[str, Any], options: dict[str, Any], cores: float) -> None:
    assert short(model, options, {"CPU": cores}) is None
    text = short(model, options, {"CPU": cores - 0.5})
    assert text is not None
    assert text.startswith(f"the models take {cores:g} CPU cores ('a' {cores:g}), and Ray has {cores - 0.5:g}")


def test_of_many_models_those_that_take_most_are_named() -> None:
    names = "abcde"
    models = [{"name": name, "package": f"{name}.pt2", "replicas": 1 + place} for place, name in enumerate(names)]
    ours = Ours("default", "", AppConfig.model_validate({"models": models}), {})
    packages = {name: Package(Path("a.pt2"), "model", {"AOTI_DEVICE_KEY": "cpu"}) for name in names}
    text = shortage(ConfigFile(Path("f"), {"applications": []}, [ours]), packages, {"CPU": 2})
    assert text is not None
    assert "take 15 CPU cores ('e' 5, 'd' 4, 'c' 3, and 2 more models), and Ray has 2" in text


def test_replicas_for_cards_take_a_card_each() -> None:
    text = short({"replicas": 2}, {}, {"CPU": 8, "GPU": 1}, "cuda")
    assert text is not None
    assert "2 GPUs ('a' 2), and Ray has 1" in text
    assert short({"replicas": 2}, {}, {"CPU": 8, "GPU": 2}, "cuda") is None


def test_a_processor_is_a_deployment_where_there_is_one() -> None:
    models = [{"name": "a", "package": "a.pt2", "processor": {"class": "m:C"}}, {"name": "b", "package": "b.pt2"}]
    ours = Ours("default", "", AppConfig.model_validate({"models": models}), {})
    found = set(deployments_of(ours))
    assert "a-processor" in found
    assert "b-processor" not in found
