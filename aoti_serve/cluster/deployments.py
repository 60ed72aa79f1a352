"""The deployments of an application: their names, as under `deployments:`, and what Ray gives a replica."""

from __future__ import annotations

from collections.abc import Iterable

from aoti_serve.signature.tensors import CUDA

GATEWAY = "gateway"


def replicas_of(model: str) -> str:
    return f"{model}-replica"


def coordinator_of(model: str) -> str:
    return f"{model}-coordinator"


def models_among(deployments: Iterable[str]) -> list[str]:
    """The models that have a coordinator among these."""
    coordinator = coordinator_of("")
    return sorted(name.removesuffix(coordinator) for name in deployments if name.endswith(coordinator))


def processor_of(model: str) -> str:
    return f"{model}-processor"


def resources_of(device: str, num_runners: int) -> dict[str, float]:
    """What a replica takes, as options of its Ray actor: a card, or a core for each runner."""
    return {"num_gpus": 1, "num_cpus": 1} if device == CUDA else {"num_cpus": num_runners}
