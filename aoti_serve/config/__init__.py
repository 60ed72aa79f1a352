"""The configuration: the `args` of a Serve application, one section per owner, unknown keys refused."""

from __future__ import annotations

from aoti_serve.config.application import AppConfig
from aoti_serve.config.gateway import GatewayConfig, Tls, WeightsLimits
from aoti_serve.config.model import NO_WEIGHTS, BatchingConfig, DeclaredSignature, FollowConfig, ModelConfig
from aoti_serve.config.processor import ProcessorConfig
from aoti_serve.config.scaling import ScalingConfig
from aoti_serve.config.values import REGISTERED_MODEL, absolute

__all__ = [
    "NO_WEIGHTS",
    "REGISTERED_MODEL",
    "AppConfig",
    "BatchingConfig",
    "DeclaredSignature",
    "FollowConfig",
    "GatewayConfig",
    "ModelConfig",
    "ProcessorConfig",
    "ScalingConfig",
    "Tls",
    "WeightsLimits",
    "absolute",
]
