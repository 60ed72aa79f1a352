"""The whole configuration of an application."""

from __future__ import annotations

from pydantic import Field, model_validator

from aoti_serve.config.gateway import GatewayConfig
from aoti_serve.config.model import ModelConfig
from aoti_serve.signature.tensors import Frozen

ALIASES = {"s3a": "s3", "gcs": "gs"}  # two names of one service


class AppConfig(Frozen):
    """Everything under `args:` of the application."""

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    """Each under a name of its own, with a store of its own."""
    gateway: GatewayConfig = GatewayConfig()
    """The front of all of them."""

    @model_validator(mode="after")
    def _unique(self) -> AppConfig:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"two models share a name: {names}")
        if len({_one_spelling(model.store_root) for model in self.models}) < len(names):
            raise ValueError("two models share a store; give each its own `store`")
        return self


def _one_spelling(root: str) -> str:
    """Equal for two URIs of one place."""
    scheme, uri, rest = root.partition("://")
    if not uri:
        return root
    authority, slash, path = rest.partition("/")
    return f"{ALIASES.get(scheme, scheme)}://{authority.lower()}{slash}{path}"
