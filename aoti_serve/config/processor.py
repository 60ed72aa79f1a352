"""The section of a model's processor: code that makes tensors of what clients send, and answers of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, Field, PositiveInt

from aoti_serve.config.values import Form
from aoti_serve.signature.tensors import Frozen

ClassPath = Annotated[str, Form(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "a class: write module:Class")]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ProcessorConfig(Frozen):
    """A class, as `module:Class`, that is made with `args` in `replicas` processes of its own.

    One call takes requests of up to `max_batch_size` rows together (a larger request alone), may take `timeout_ms` and
    return `max_result_bytes`. Requests wait for a process for at most `max_queue_wait_ms`; beyond `max_queued_rows` or
    `max_queued_bytes` in hand they are refused.
    """

    class_path: ClassPath = Field(validation_alias=AliasChoices("class", "class_path"))
    args: Mapping[str, Any] = {}
    replicas: PositiveInt = 1
    timeout_ms: Milliseconds = 1000.0
    max_batch_size: PositiveInt = 64
    max_queue_wait_ms: Milliseconds = 1000.0
    max_queued_rows: PositiveInt = 4096
    max_queued_bytes: PositiveInt = 64 * 2**20
    max_result_bytes: PositiveInt = 64 * 2**20
