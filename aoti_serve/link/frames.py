"""What goes over a link, byte by byte. All numbers are little-endian.

A frame is a header and at most `PART` bytes behind it:

    0          4      5      6        8                  16                 24
    +----------+------+------+--------+------------------+------------------+---------------
    |  length  | kind |  0   |  busy  |       call       |      total       | length bytes
    |   u32    |  u8  |  u8  |  u16   |       u64        |       u64        |
    +----------+------+------+--------+------------------+------------------+---------------

`call` numbers a batch or a question; the end that sends it gives the number. Batches, answers, failures, reports,
targets and routes are messages of `total` bytes; one larger than `PART` goes in several frames, all but the first of
kind MORE, and frames of other calls may come in between: nothing large holds up anything small. `busy` counts the
batches that a replica has in hand, of all gateways.

    gateway to replica      BATCH  MORE  CANCEL (its answer is not wanted any more)  LEFT (there will be no more)
    replica to gateway      ANSWER  FAILURE  MORE  BEAT (I am not stopped)  LEAVING (send no more)
    member to coordinator   REPORT  MORE  BEAT  LEFT (I end this connection, and live on)
    coordinator to member   TARGET  ROUTE  MORE  BEAT

Where `call` is not 0 a REPORT is a question, and the TARGET with the same number is its answer.

Before the first frame both ends have shown that they belong together: see `handshake`.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

FRAME_HEADER = Struct("<IBxHQQ")
PART = 2**20
MOST_BYTES = 2**33  # of one message: beyond what any batch holds, so it is no batch
MOST_BUSY = 2**16 - 1


class Kind(IntEnum):
    BATCH = 1
    ANSWER = 2
    FAILURE = 3
    MORE = 4
    CANCEL = 5
    BEAT = 6
    LEAVING = 7
    LEFT = 8
    REPORT = 9
    TARGET = 10
    ROUTE = 11


WITH_MESSAGE = frozenset({Kind.BATCH, Kind.ANSWER, Kind.FAILURE, Kind.REPORT, Kind.TARGET, Kind.ROUTE})
KINDS = {int(kind): kind for kind in Kind}


class Frame(NamedTuple):
    """A frame with its complete message, which is writable and belongs to the code that takes it."""

    kind: Kind
    call: int
    busy: int
    message: memoryview


def header(kind: Kind, call: int = 0, *, length: int = 0, total: int = 0, busy: int = 0) -> bytes:
    return FRAME_HEADER.pack(length, kind, min(busy, MOST_BUSY), call, total)
