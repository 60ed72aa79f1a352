"""The names of deployments in Serve: in `serve status`, in the dashboard, under `deployments:`."""

from __future__ import annotations

GATEWAY = "gateway"


def replicas_of(model: str) -> str:
    return f"{model}-replica"


def coordinator_of(model: str) -> str:
    return f"{model}-coordinator"
