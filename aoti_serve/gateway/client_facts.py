"""What a client says of its request beside it, in HTTP's headers and in gRPC's metadata alike: its id, its patience."""

from __future__ import annotations

import math
import os
import re
import time
from contextlib import suppress

from aoti_serve.errors import DeadlineExceeded, InvalidBody, shown_value

_sound = re.compile(r"[\x21-\x7e]{1,128}").fullmatch


def identity_from(given: str | None) -> str:
    """The client's own id if it is short and printable, else a unique one."""
    return given if given is not None and _sound(given) else os.urandom(8).hex()


def patience_from(given: str) -> float | None:
    """The seconds of `X-Request-Timeout-Seconds`; None for no limit, as in Serve. Raises InvalidBody."""
    seconds = math.nan
    with suppress(ValueError):
        seconds = float(given)
    if math.isnan(seconds):
        raise InvalidBody(detail=f"X-Request-Timeout-Seconds {shown_value(given)} is no number")
    return seconds if seconds > 0 else None


def remaining(timeout: float | None, since: float, model: str) -> float | None:
    """The rest of a timeout in seconds, which began then by the monotonic clock. Raises DeadlineExceeded."""
    if timeout is None:
        return None
    left = since + timeout - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded(model=model, timeout=timeout)
    return left


def routing_key(given: str | None, connection: object) -> str:
    """What keeps a client's requests at one version while a candidate is out: `X-Routing-Key`, or its connection."""
    return str(connection) if given is None else given


def defect_text(error: Exception) -> str:
    """What a client is told of a defect of ours; its own text goes to the log only."""
    return f"internal error ({type(error).__name__}); the gateway's log has it"
