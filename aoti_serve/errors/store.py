"""Errors of a store of weights."""

from __future__ import annotations

from pathlib import Path

from aoti_serve.errors.weights import WeightsError


class StoreFailed(WeightsError, status=507, text="weights store {path}: {detail}"):
    """The folder of versions could not be written or read; what was committed stays whole."""

    path: Path | str
    detail: str


class StoreDamaged(
    StoreFailed,
    text=(
        "weights store {path}: {file} is damaged: {detail}. `aoti-serve store check` shows which versions are whole, "
        "`aoti-serve store set-current` makes one of them answer"
    ),
):
    """A file of the store is not what was written there: it was cut, overwritten or removed."""

    file: str


class CommitUnknown(
    WeightsError,
    status=503,
    text="weights store {path}: it cannot be told whether epoch {epoch} was committed: {detail}; ask for the status",
):
    """The store did not answer during a commit. The coordinator ends, and its successor reads what stands."""

    path: Path | str
    epoch: int
    detail: str
