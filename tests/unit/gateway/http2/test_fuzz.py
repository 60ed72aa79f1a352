"""Whatever frames a client sends, in whatever pieces: nothing raises here, and the next client is answered."""

from __future__ import annotations

import logging
import socket
from random import Random

import pytest

from aoti_serve.gateway.http2.frames import (
    PREFACE,
    Flag,
    Setting,
    frame,
    reset,
    settings,
    window_update,
)
from aoti_serve.gateway.http2.frames import (
    ErrorCode as Code,
)
from aoti_serve.gateway.http2.frames import (
    FrameType as Kind,
)
from tests.unit.gateway.http2.echoing import BLOCK, WAIT, Echoing, echoing, headers, whole

COUNT = pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)


class Chaotic:
    """Makes conversations of which most frames are right, as `random` chooses."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = 1  # the last stream that has begun, at least

    def conversation(self) -> bytes:
        random = self._random
        begin = PREFACE + settings({}) if random.random() < 0.95 else random.randbytes(random.randint(0, 60))
        frames = b"".join(self._frame() for _ in range(random.randint(1, 40)))
        return self._damaged(begin + frames)

    def _frame(self) -> bytes:
        kinds = (self._request, self._request, self._right, self._right, self._right, self._wild)
        return self._random.choices(kinds, (4, 4, 4, 4, 4, 1))[0]()

    def _request(self) -> bytes:
        self._next += 2
        block = self._random.choice((BLOCK, BLOCK, WAIT))
        body = self._random.randbytes(self._random.randint(0, 99))
        return self._random.choice((headers(self._next, block), whole(self._next, body, block)))

    def _right(self) -> bytes:
        """A frame that is allowed, if its stream has begun."""
        some = self._random.randrange(1, self._next + 2, 2)
        number = self._random.choice((0, 1000, 2**16))
        return self._random.choice(
            (
                frame(Kind.PING, 0, 0, bytes(8)),
                frame(Kind.PRIORITY, 0, some, bytes(5)),
                settings({Setting.INITIAL_WINDOW_SIZE: number}),
                window_update(self._random.choice((0, some)), number + 1),
                reset(some, Code.CANCEL),
                frame(Kind.DATA, Flag.PADDED, some, b"\x02ab\0\0"),
                frame(Kind.DATA, Flag.END_STREAM, some, bytes(number // 10)),
            )
        )

    def _wild(self) -> bytes:
        random = self._random
        number = random.choice((0, 1, self._next, random.randint(0, 2**31 - 1)))
        kind = random.choice((*Kind, random.randint(0, 255)))
        payload = random.choice((b"", bytes(4), bytes(8), BLOCK, random.randbytes(random.randint(0, 99))))
        return frame(kind, random.choice((0, *Flag, random.randint(0, 255))), number, payload)

    def _damaged(self, data: bytes) -> bytes:
        random = self._random
        if random.random() < 0.7 or not data:
            return data
        at = random.randrange(len(data))
        return random.choice((data[:at], data[:at] + random.randbytes(3) + data[at:], data[:at] + data[at + 1 :]))


@COUNT
def test_any_conversation_ends_and_the_next_one_is_heard(count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    random = Random(count)
    with echoing() as served:
        for _ in range(count):
            _converse(served, Chaotic(random).conversation(), random)
        served.after(1)
    assert [record.getMessage() for record in caplog.records] == []
    assert any(call.lost for call in served.calls)


def _converse(served: Echoing, said: bytes, random: Random) -> None:
    """Say it in pieces, leave in one of three ways, and see that another client is answered."""
    with served.raw(b"") as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while said:
                size = random.choice((1, 9, 100, len(said)))
                client.send(said[:size])
                said = said[size:]
            if random.random() < 0.5:
                client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it has been ended before it had said everything
    other = served.client()
    assert other.answers(other.ask(b"next")) == [b"next"]
    other.close()
