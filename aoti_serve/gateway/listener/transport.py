"""What asyncio's transports do not tell."""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array


def unread_bytes(transport: asyncio.Transport) -> int:
    """How many bytes have arrived that the event loop has not read yet."""
    count = array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
    return count[0]
