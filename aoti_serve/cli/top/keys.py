"""Keys of a terminal, as they are pressed."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

MOVES = {b"\x1b[C": 1, b"\x1b[B": 1, b"\x1b[D": -1, b"\x1b[A": -1, b"\t": 1}
QUIT = b"q"


@contextmanager
def raw_keys() -> Iterator[bool]:
    """Take keys without Enter, if standard input is a terminal, which the block is told. Ctrl-C still interrupts."""
    if not sys.stdin.isatty():
        yield False
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def pressed(seconds: float) -> bytes:
    """What is pressed within so many seconds; empty if that is nothing."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 8) if ready else b""
