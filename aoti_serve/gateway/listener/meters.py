"""Limits of a connection: how much a client may send, and how fast. Without I/O and clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.listener.refusals import (
    BODY_LATE,
    FRAMING_TOO_LARGE,
    HEAD_TOO_LARGE,
    TARGET_TOO_LONG,
    TOO_MANY_HEADERS,
    Refusal,
    Refused,
)

# A client that writes its whole body before it reads must get its answer; an endless body is not read for ever.
LINGER_BYTES = 256 * 2**20
LINGER_S = 30.0
LINGER_QUIET_S = 2.0
FRAMING_PER_BODY_BYTE = 8  # in chunks of one byte each the framing is five or six times the body


class RequestMeter:
    """Counts the bytes and headers of one request. Its methods raise Refused beyond a limit."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self.begin()

    def begin(self) -> None:
        """Begin with the next request of the connection."""
        self._body = self._framing = self._headers = 0
        self._waited_s = 0.0

    def head(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Check a complete head."""
        self._headers = len(headers)
        if len(target) > self._config.max_header_bytes:
            raise Refused(TARGET_TOO_LONG)
        if len(target) + sum([len(name) + len(value) for name, value in headers]) > self._config.max_header_bytes:
            raise Refused(HEAD_TOO_LARGE)
        if self._headers > self._config.max_headers:
            raise Refused(TOO_MANY_HEADERS)

    def trailer(self) -> None:
        """Count a header behind the body, as those before it."""
        self._headers += 1
        if self._headers > self._config.max_headers:
            raise Refused(TOO_MANY_HEADERS)

    def feed(self, framing: int, body: int) -> None:
        """Count bytes that the parser took: `body` of the body, `framing` of a head, of chunk sizes, of trailers.

        The parser keeps an unfinished line to itself, so these bytes are counted before it gives them out.
        """
        self._body += body
        self._framing += framing
        if self._framing > self._config.max_header_bytes + FRAMING_PER_BODY_BYTE * self._body:
            raise Refused(FRAMING_TOO_LARGE if self._body else HEAD_TOO_LARGE)

    def add_wait(self, seconds: float) -> Refusal | None:
        """Add time in which the client alone held its body back. Returns a refusal if the body is too slow."""
        self._waited_s += seconds
        return BODY_LATE if is_too_slow(self._body, self._waited_s, self._config) else None


def is_too_slow(body: int, waited_s: float, config: GatewayConfig) -> bool:
    """Whether a client is too late that has sent so many bytes while it alone was waited for."""
    return waited_s > config.body_timeout_s + body / config.min_body_bytes_per_s


@dataclass(slots=True)
class AnswerMeter:
    """Measures whether a client reads its answer."""

    _left: int = 0
    _stuck_s: float = 0.0

    def stuck_for(self, left: int, seconds: float) -> float:
        """The seconds for which nothing was read. `left` bytes are left, `seconds` after the last call."""
        self._stuck_s = self._stuck_s + seconds if left and left == self._left else 0.0
        self._left = left
        return self._stuck_s


@dataclass(slots=True)
class LingerMeter:
    """Limits the bytes that are still read, and thrown away, from a client that has its last answer."""

    _bytes: int = 0
    _since_look: int = 0
    _seconds: float = 0.0
    _quiet_s: float = 0.0

    def take(self, length: int) -> bool:
        """Count bytes that were thrown away. Returns true if there were too many."""
        self._since_look += length
        self._bytes += length
        return self._bytes > LINGER_BYTES

    def add_wait(self, seconds: float) -> bool:
        """Add waiting time. Returns true if the wait was long enough."""
        self._quiet_s = 0.0 if self._since_look else self._quiet_s + seconds
        self._since_look = 0
        self._seconds += seconds
        return self._seconds > LINGER_S or self._quiet_s > LINGER_QUIET_S
