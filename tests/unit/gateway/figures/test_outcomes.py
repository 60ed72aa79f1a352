"""Every error has one outcome."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from aoti_serve.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    InvalidBody,
    NotServed,
    PoisonRequest,
    QueueFull,
    ReadingTooMuch,
    ReplicaDied,
    Stopping,
    UnknownModel,
)
from aoti_serve.gateway.figures.outcomes import RequestOutcome, outcome_of

FULL = QueueFull(model="m", waiting="1 row", limit="1", setting="max_queued_rows", retry_after=1)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidBody(detail="no JSON"), RequestOutcome.INVALID),
        (UnknownModel(name="n", known=[]), RequestOutcome.INVALID),
        (NotServed(what="tracing", instead="ask without"), RequestOutcome.INVALID),
        (BodyTooLarge(limit=1, setting="gateway.max_body_bytes"), RequestOutcome.TOO_LARGE),
        (FULL, RequestOutcome.OVERLOADED),
        (ReadingTooMuch(held=1, limit=1, retry_after=1), RequestOutcome.OVERLOADED),
        (DeadlineExceeded(model="m", timeout=1.0), RequestOutcome.DEADLINE),
        (ClientDisconnect(), RequestOutcome.CANCELLED),
        (asyncio.CancelledError(), RequestOutcome.CANCELLED),
        (Stopping(), RequestOutcome.UNAVAILABLE),
        (ReplicaDied(model="m"), RequestOutcome.UNAVAILABLE),
        (PoisonRequest(model="m"), RequestOutcome.FAILED),
        (ZeroDivisionError(), RequestOutcome.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_error_has_its_outcome(error: BaseException, outcome: RequestOutcome) -> None:
    assert outcome_of(error) is outcome
