"""One gRPC call: what its client says beside its messages, its messages, and its end."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import cached_property
from typing import Any, NamedTuple

import grpc

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import AotiServeError, BodyTooSlow, InvalidBody, NotServed, Stopping, shown_value
from aoti_serve.gateway.client_facts import identity_from, patience_from, remaining, routing_key
from aoti_serve.gateway.grpc.messages import GrpcMessage, MessageReader, written
from aoti_serve.gateway.grpc.statuses import ANSWER_HEAD, CODINGS, ID_KEY, OK, trailers
from aoti_serve.gateway.http2.frames import ErrorCode
from aoti_serve.gateway.http2.headers import Head
from aoti_serve.gateway.http2.stream import Stream
from aoti_serve.gateway.in_flight import BodyLimits, CallBytes, ReadingBudget
from aoti_serve.gateway.inflation import ZLIB_WINDOWS, decompressed
from aoti_serve.gateway.listener.meters import is_too_slow
from aoti_serve.gateway.offload import Offload

TIMEOUT_KEY = "x-request-timeout-seconds"
ROUTING_KEY = "x-routing-key"
ENOUGH_MESSAGES = 16  # of a call, that nobody has taken yet; further ones are not read
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_deadline = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch


class Method(NamedTuple):
    """How calls of one name are answered: from the first bytes on if it `streams`, else once their message is there."""

    run: Callable[[GrpcCall], Coroutine[Any, Any, None]]
    streams: bool = False


class GrpcCalls(NamedTuple):
    """What the calls of one listener have in common. `tasks` are the answers under way, `open` all calls."""

    config: GatewayConfig
    message: BodyLimits
    budget: ReadingBudget
    offload: Offload
    open: set[GrpcCall]
    tasks: set[asyncio.Task[None]]


class GrpcCall:
    """One call, as the receiver of an HTTP/2 stream. Lives in the gateway's event loop; its method runs in a task."""

    def __init__(self, stream: Stream, head: Head, method: Method, calls: GrpcCalls) -> None:
        self.metadata = head.headers
        self.client = stream.client
        self._stream = stream
        self._method = method
        self._calls = calls
        self.began = time.monotonic()
        self.held = CallBytes(calls.budget)
        self._reader = MessageReader(calls.message, self.held)
        self._messages: deque[GrpcMessage] = deque()
        self._news = asyncio.Event() if method.streams else None
        self._problem: AotiServeError | None = None
        self._task: asyncio.Task[None] | None = None
        self._received = 0
        self._waited_s = 0.0
        self._answered = False
        calls.open.add(self)

    @cached_property
    def identity(self) -> str:
        """The client's own id, if it is short and printable, else a unique one."""
        return identity_from(self.metadata.get(ID_KEY))

    def left(self, parameter: float | None, since: float, model: str) -> float | None:
        """The rest of the client's timeout in seconds: the shortest of its deadline, the parameter and the metadata's.

        The deadline is the call's; the other two count from when the request began. Raises InvalidBody, and
        DeadlineExceeded.
        """
        limits = [(parameter, since)]
        if (given := self.metadata.get(TIMEOUT_KEY)) is not None:
            limits.append((patience_from(given), since))
        if (given := self.metadata.get("grpc-timeout")) is not None:
            limits.append((_seconds(given), self.began))
        known = [(limit, begin) for limit, begin in limits if limit is not None]
        return remaining(*min(known, key=sum), model) if known else None

    @property
    def routing_key(self) -> str:
        """What keeps its client's requests at one version while a candidate is out."""
        return routing_key(self.metadata.get(ROUTING_KEY), self.client)

    # The messages

    async def message(self) -> bytes:
        """The one message of the call. Raises an AotiServeError if it cannot be read."""
        self._check_end()
        if len(self._messages) != 1:
            raise InvalidBody(detail=f"the call has {len(self._messages)} messages instead of one")
        return await self.content(self._messages[0])

    async def messages(self) -> AsyncIterator[GrpcMessage]:
        """The messages as they come. Who takes one releases its share, then calls `read_on`. Raises AotiServeError."""
        assert self._news is not None
        while True:
            if self._messages:
                yield self._messages.popleft()
                self.read_on()
            elif self._problem is not None or not (self._stream.open or self._reader.is_held_back):
                self._check_end()
                return
            else:
                self._news.clear()
                await self._news.wait()

    def read_on(self) -> None:
        """There may be room for further messages."""
        self._read(b"")

    def _check_end(self) -> None:
        """Raise an AotiServeError if something is wrong with what the client has sent."""
        if self._problem is not None:
            raise self._problem
        if self._reader.is_within:
            raise InvalidBody(detail="the call ends within a message")

    async def content(self, message: GrpcMessage) -> bytes:
        """A message as it was before it was compressed. Raises InvalidBody, NotServed, BodyTooLarge, ReadingTooMuch."""
        if not message.compressed:
            return message.content
        coding = self.metadata.get("grpc-encoding", "identity")
        if coding.encode() not in ZLIB_WINDOWS:
            raise NotServed(what=f"grpc-encoding {shown_value(coding)} of a compressed message", instead=CODINGS)
        calls = self._calls
        return await decompressed(message.content, coding.encode(), calls.message, message.share, calls.offload)

    # The answer

    async def respond(self, content: bytes) -> None:
        """Answer with one message. The call is under way until its client takes that."""
        self._stream.respond(ANSWER_HEAD, written(content), trailers(OK, "", self.identity))
        await self._stream.drained()

    async def send(self, content: bytes) -> None:
        """Answer with one of several messages. Waits while the client does not take them."""
        if not self._answered:
            self._answered = True
            self._stream.start(ANSWER_HEAD)
        self._stream.write(written(content))
        await self._stream.drained()

    def finish(self, status: grpc.StatusCode, text: str = "") -> None:
        """End the call."""
        last = trailers(status, text, self.identity)
        if self._answered:
            self._stream.finish(last)
        else:
            self._stream.refuse(ANSWER_HEAD + last)

    # The receiver

    def take(self, data: bytes) -> None:
        self._received += len(data)
        self._read(data)

    def end(self) -> None:
        self._tell()

    def lose(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._leave()

    def leave(self) -> None:
        """A stream's messages that are here are still answered."""
        if self._method.streams:
            self._fail(Stopping())

    def look(self, elapsed: float) -> None:
        if self._problem is None and self._waits_for_message:
            self._waited_s += elapsed
            if is_too_slow(self._received, self._waited_s, self._calls.config):
                self._fail(BodyTooSlow())
        else:
            self._received, self._waited_s = 0, 0.0

    @property
    def _waits_for_message(self) -> bool:
        """Whether the client alone holds a message back; a call that streams may have none for long."""
        reader = self._reader
        within = reader.is_within and not reader.is_held_back and len(self._messages) < ENOUGH_MESSAGES
        return self._stream.open and (within or not self._method.streams)

    def _read(self, data: bytes) -> None:
        if self._problem is not None:
            return
        try:
            self._messages.extend(self._reader.feed(data, ENOUGH_MESSAGES - len(self._messages)))
        except AotiServeError as error:
            self._fail(error)
        else:
            self._stream.give(self._reader.granted)
            self._tell()

    def _fail(self, error: AotiServeError) -> None:
        self._problem = error
        self._reader.close()
        self._tell()

    def _tell(self) -> None:
        """Let the method know what there is."""
        if self._news is not None:
            self._news.set()
        # A stream that is refused before its client has written anything is an internal error to grpc.aio's clients.
        if self._task is None and (self._method.streams or self._problem is not None or not self._stream.open):
            self._begin()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._method.run(self))
        self._calls.tasks.add(self._task)
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._calls.tasks.discard(task)
        self._task = None  # it holds this call
        self._stream.reset(ErrorCode.INTERNAL_ERROR)  # if its method has left it without an end
        self._leave()

    def _leave(self) -> None:
        self._calls.open.discard(self)
        self._reader.close()
        while self._messages:
            self._messages.pop().share.release()


def _seconds(given: str) -> float:
    """The seconds of `grpc-timeout`. Raises InvalidBody."""
    if not (found := _deadline(given)):
        raise InvalidBody(detail=f"grpc-timeout {shown_value(given)} is no time")
    return int(found[1]) * _UNITS_S[found[2]]
