"""How many replicas a deployment has: a count, or bounds for Serve's autoscaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from aoti_serve.signature.tensors import Frozen


class ScalingConfig(Frozen):
    """Serve's autoscaling."""

    min: PositiveInt = 1
    """Replicas at least."""
    max: PositiveInt
    """Replicas at most."""
    target_ongoing_requests: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """For a model's replica rows that wait or are run, by default a full batch for each runner; for a gateway its
    requests, by default 64.
    """
    upscale_delay_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """One more comes after so long a need."""
    downscale_delay_s: float = Field(default=600.0, ge=0, allow_inf_nan=False)
    """One less after so long without need."""

    @model_validator(mode="after")
    def _ordered(self) -> ScalingConfig:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


def _kind(value: object) -> str:
    return "<scaling>" if isinstance(value, Mapping | ScalingConfig) else "<count>"


# By tags, so that an error names only the kind that was meant.
ReplicaCount = Annotated[
    Annotated[PositiveInt, Tag("<count>")] | Annotated[ScalingConfig, Tag("<scaling>")], Discriminator(_kind)
]
