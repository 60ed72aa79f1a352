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
    """A class, as `module:Class`, that is made with `args` in `replicas` processes of its own.

    One call takes requests of up to `max_batch_size` rows together (a larger request alone), may take `timeout_ms` and
    return `max_result_bytes`. Requests wait for a process for at most `max_queue_wait_ms`; beyond `max_queued_rows` or
    `max_queued_bytes` in hand they are refused.

    `assets` are further arguments: paths of files that belong to a version of the weights, by the argument's name. The
    last part of a path is the asset's name; the file itself goes with the first version.
    """

    class_path: ClassPath = Field(validation_alias=AliasChoices("class", "class_path"))
    args: Mapping[str, Any] = {}
    assets: Mapping[str, AbsolutePath] = {}
    replicas: PositiveInt = 1
    timeout_ms: Milliseconds = 1000.0
    max_batch_size: PositiveInt = 64
    max_queue_wait_ms: Milliseconds = 1000.0
    max_queued_rows: PositiveInt = 4096
    max_queued_bytes: PositiveInt = 64 * 2**20
    max_result_bytes: PositiveInt = 64 * 2**20

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
