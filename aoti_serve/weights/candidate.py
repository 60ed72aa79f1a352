"""The record of a candidate in the store: a coordinator that starts anew goes on with it."""

from __future__ import annotations

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.swap.target import Exposure


class Candidate(Frozen):
    """The version under the id of its `swap`, a candidate since `since`, in seconds since 1970 (UTC).

    It stands for `epoch`, the one that was committed then: once another is, the record means nothing.
    """

    swap: str
    version: int
    epoch: int
    since: float
    exposure: Exposure
