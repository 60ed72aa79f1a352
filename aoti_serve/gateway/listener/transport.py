"""Facts about asyncio's transports that their interface does not give."""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array


def unread_bytes(transport: asyncio.Transport) -> int:
    """The bytes that have arrived and that the event loop has not read yet."""
    count = array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
    return count[0]
