"""The section of a model's processor: code that makes tensors of what clients send, and answers of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, Field, PositiveInt, model_validator

from aoti_serve.config.values import AbsolutePath, Form
from aoti_serve.signature.tensors import Frozen

ClassPath = Annotated[str, Form(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "a class: write module:Class")]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ProcessorConfig(Frozen):
    """A class of the model's own, made in processes of its own: docs/guides/processors.md."""

    class_path: ClassPath = Field(validation_alias=AliasChoices("class", "class_path"))
    """As `module:Class`."""
    args: Mapping[str, Any] = {}
    """What it is made with."""
    assets: Mapping[str, AbsolutePath] = {}
    """Further arguments: paths of files that belong to a version of the weights, by the argument's name. The last part
    of a path is the asset's name; the file itself goes with the first version."""
    replicas: PositiveInt = 1
    """Processes of its own."""
    timeout_ms: Milliseconds = 1000.0
    """How long one call may take."""
    max_batch_size: PositiveInt = 64
    """Rows that one call takes together; a larger request goes alone."""
    max_queue_wait_ms: Milliseconds = 1000.0
    """How long requests wait for a process at most."""
    max_queued_rows: PositiveInt = 4096
    """In hand; beyond it requests are refused."""
    max_queued_bytes: PositiveInt = 64 * 2**20
    """In hand; beyond it requests are refused."""
    max_result_bytes: PositiveInt = 64 * 2**20
    """That one call may return."""

    @property
    def asset_names(self) -> frozenset[str]:
        """The names of the files that a version of the weights may bring along."""
        return frozenset(path.name for path in self.assets.values())

    @model_validator(mode="after")
    def _named_apart(self) -> ProcessorConfig:
        if both := sorted(self.assets.keys() & self.args.keys()):
            raise ValueError(f"{both[0]} stands in args and in assets: leave one out")
        if len(self.asset_names) < len(self.assets):
            raise ValueError(f"two assets have one name: {sorted(path.name for path in self.assets.values())}")
        return self
