"""How a request ended: a small fixed set, since each is a series in Prometheus."""

from __future__ import annotations

from enum import StrEnum

from starlette.requests import ClientDisconnect

from aoti_serve.errors import AotiServeError

TOO_MUCH = "RESOURCE_EXHAUSTED"


class RequestOutcome(StrEnum):
    """`OK`, or why there was no answer."""

    OK = "ok"
    INVALID = "invalid"  # 400, 404, 410, 501: the client asks for what cannot be, or is not there
    TOO_LARGE = "too_large"  # 413
    OVERLOADED = "overloaded"  # 503: a queue is full, or the bodies of all requests are as large as they may be
    DEADLINE = "deadline"  # 504
    CANCELLED = "cancelled"  # the client has gone
    UNAVAILABLE = "unavailable"  # 503: no replica, or the server stops
    FAILED = "failed"  # 500


def outcome_of(error: BaseException) -> RequestOutcome:
    """The outcome of a request that was answered with this error, by its statuses."""
    if isinstance(error, ClientDisconnect) or not isinstance(error, Exception):
        return RequestOutcome.CANCELLED
    if not isinstance(error, AotiServeError):
        return RequestOutcome.FAILED
    if error.http_status == 503 and error.grpc_status == TOO_MUCH:
        return RequestOutcome.OVERLOADED
    return _BY_STATUS.get(error.http_status, RequestOutcome.FAILED)


_BY_STATUS = {
    400: RequestOutcome.INVALID,
    404: RequestOutcome.INVALID,
    410: RequestOutcome.INVALID,
    413: RequestOutcome.TOO_LARGE,
    501: RequestOutcome.INVALID,
    503: RequestOutcome.UNAVAILABLE,
    504: RequestOutcome.DEADLINE,
}
