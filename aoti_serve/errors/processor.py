"""Errors of a processor: the code of a model's owner that turns what clients send into tensors, and back."""

from __future__ import annotations

from aoti_serve.errors.base import AotiServeError
from aoti_serve.errors.request import InvalidInput
from aoti_serve.errors.server import Unavailable
from aoti_serve.errors.tensors import InvalidWeights


class ProcessorRefused(InvalidInput, text="model '{model}': its processor refuses this request: {detail}"):
    """The processor cannot use what the client sent, and says why."""

    model: str
    detail: str


class ProcessorFailed(AotiServeError, text="model '{model}': its processor failed in `{step}` ({raised}): {detail}"):
    """The processor raised, or returned what it has not declared: a defect of its own."""

    model: str
    step: str
    raised: str
    detail: str


class ProcessorDied(Unavailable, text="model '{model}': its processor died twice over this request in `{step}`"):
    """The process of the processor ended during this request, alone and a second time."""

    model: str
    step: str


class ProcessorHung(AotiServeError, status=504):
    """The processor did not return in time; its process was ended, and Serve starts another one."""

    text = (
        "model '{model}': its processor has not returned from `{step}` within {timeout_ms} ms "
        "(processor.timeout_ms), so it was ended"
    )
    model: str
    step: str
    timeout_ms: float


class NoProcessor(Unavailable):
    """All processes of the processor were busy, or being started, for too long. `retry_after` is in seconds."""

    text = (
        "model '{model}': no processor was free within {waited_ms} ms (processor.max_queue_wait_ms); try again in "
        "{retry_after} s"
    )
    model: str
    waited_ms: float
    retry_after: int = 1


class UnfitAssets(InvalidWeights, text="assets: {detail}"):
    """Files that were given with weights do not belong to what the processor declares, or are too much."""

    detail: str


class AssetsRefused(InvalidWeights):
    """The processor cannot be made with the assets of a version."""

    text = "model '{model}': its processor cannot be made with the assets of version {version} ({raised}): {detail}"
    model: str
    version: int
    raised: str
    detail: str
