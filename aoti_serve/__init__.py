"""Serve AOTInductor packages on a Ray cluster, and change their weights everywhere, at once, while they answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aoti_serve.cluster.client import AsyncWeightsClient, WeightsClient
    from aoti_serve.cluster.transfer.delta import ElementChanges, RowChanges, make_delta, save_delta
    from aoti_serve.errors import AotiServeError
    from aoti_serve.model.container import Container
    from aoti_serve.model.export import export_package
    from aoti_serve.model.package import Package
    from aoti_serve.signature.golden.file import save_golden
    from aoti_serve.signature.golden.request import GoldenRequest
    from aoti_serve.weights.rollout.plan import RolloutPlan

__version__ = "0.1.0"
__all__ = [
    "AotiServeError",
    "AsyncWeightsClient",
    "Container",
    "ElementChanges",
    "GoldenRequest",
    "Package",
    "RolloutPlan",
    "RowChanges",
    "WeightsClient",
    "export_package",
    "make_delta",
    "save_delta",
    "save_golden",
]

# Imported on first use: the gateway and the command line need no torch and do not wait for it.
_HOMES = {
    "AotiServeError": "aoti_serve.errors",
    "AsyncWeightsClient": "aoti_serve.cluster.client",
    "Container": "aoti_serve.model.container",
    "ElementChanges": "aoti_serve.cluster.transfer.delta",
    "GoldenRequest": "aoti_serve.signature.golden.request",
    "Package": "aoti_serve.model.package",
    "RolloutPlan": "aoti_serve.weights.rollout.plan",
    "RowChanges": "aoti_serve.cluster.transfer.delta",
    "WeightsClient": "aoti_serve.cluster.client",
    "export_package": "aoti_serve.model.export",
    "make_delta": "aoti_serve.cluster.transfer.delta",
    "save_delta": "aoti_serve.cluster.transfer.delta",
    "save_golden": "aoti_serve.signature.golden.file",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aoti_serve' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
