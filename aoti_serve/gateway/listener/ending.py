"""The end of a client's connection, whatever is spoken on it."""

from __future__ import annotations

import asyncio
import fcntl
import termios

from aoti_serve.gateway.listener.meters import AnswerMeter, LingerMeter


def goes_on(
    transport: asyncio.Transport,
    taken: AnswerMeter,
    linger: LingerMeter | None,
    elapsed: float,
    write_timeout_s: float,
) -> bool:
    """Whether a connection is neither ended nor about to end; it is cut off if its client takes nothing for too long,
    or has been read for long enough after the last answer. `elapsed` is the time in seconds since the last call.
    """
    left = transport.get_write_buffer_size()
    if taken.stuck_for(left, elapsed) >= write_timeout_s:
        transport.abort()
        return False
    if linger is not None and not transport.is_closing() and not left and linger.add_wait(elapsed):
        transport.abort()
    return linger is None and not transport.is_closing()


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether bytes wait in its socket."""
    return any(fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))
