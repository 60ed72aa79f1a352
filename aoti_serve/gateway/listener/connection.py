"""The connection of one client: uvicorn's protocol over httptools, with limits, and an end without a reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aoti_serve.config import GatewayConfig
from aoti_serve.gateway.listener.ending import goes_on, has_unread
from aoti_serve.gateway.listener.exchange import Exchange
from aoti_serve.gateway.listener.meters import AnswerMeter, LingerMeter, RequestMeter
from aoti_serve.gateway.listener.refusals import (
    HEAD_LATE,
    HTTP_2_HERE,
    TLS_HERE,
    TOO_MANY_AT_ONCE,
    TOO_MANY_CONNECTIONS,
    Refusal,
    Refused,
)
from aoti_serve.gateway.listener.scope import complete_scope, read_after_upgrade, refusal_for
from aoti_serve.gateway.listener.shared import Shared

HELD_BYTES = 64 * 2**10  # reading stops while the application leaves more than this of a body
MAX_PIPELINED = 64
OTHERS = ((b"PRI * HTTP/2.0", HTTP_2_HERE), (b"\x16\x03", TLS_HERE))  # how other protocols begin


class ClientConnection(HttpToolsProtocol):
    """The connection of one client, in the gateway's event loop. The listener's sweep calls `look` about once a second.

    It has three states. A request is being received or awaited, and none is being answered (`answering` is None). Or
    one is being answered. Or the last answer is out, and what still arrives is thrown away (`linger`).
    """

    cycle: Exchange

    def __init__(
        self, uvicorn: Config, shared: Shared, config: GatewayConfig, clock: Callable[[], float], surplus: bool = False
    ) -> None:
        super().__init__(uvicorn, shared, {})
        self.shared = shared
        self.answering: Exchange | None = None
        self.linger: LingerMeter | None = None
        self._limits = config
        self._clock = clock
        self._surplus = surplus
        self._meter = RequestMeter(config)
        self._taken = AnswerMeter()
        self._said_something = False
        self._in_head = self._fresh = False
        self._since = clock()
        self._unread_before: Refusal | None = None
        self._body_of_feed = 0

    def shutdown(self) -> None:
        """Make every answer the last one from now on, except one whose head has gone out and promises more."""
        for exchange in filter(None, [self.answering, *(cycle for cycle, _ in self.pipeline)]):
            if not exchange.response_started:
                exchange.keep_alive = False

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._surplus:
            self._end(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.answering is not None:
            self.answering.disconnect()
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        if self.linger is not None and self.linger.take(len(data)):
            self.transport.abort()
        if self.linger is not None or self._unread_before is not None:
            return
        if not self._said_something and (refusal := next((r for sign, r in OTHERS if data.startswith(sign)), None)):
            self._said_something = True
            self._refuse(refusal)
            return
        self._said_something = True
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(refusal_for(error))
        except Refused as error:
            self._refuse(error.refusal)

    def _feed(self, data: bytes) -> None:
        self._fresh = False
        self._body_of_feed = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            read_after_upgrade(self, self.scope["headers"])
            self._feed(data[upgrade.args[0] :])
            return
        self._meter.feed(0 if self._fresh else len(data) - self._body_of_feed, self._body_of_feed)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._meter.begin()
        self._in_head = self._fresh = True
        self._body_of_feed = 0
        self._since = self._clock()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._meter.trailer()  # only counted
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._meter.head(self.url, self.headers)
        complete_scope(self.scope, self.parser, self.url)
        self._in_head = False
        may_go_on = self.scope["http_version"] == "1.1" and self.parser.should_keep_alive()
        self.cycle = Exchange(self, may_go_on and not self.shared.leaving)
        if self.answering is None:
            self._answer(self.cycle)
        elif len(self.pipeline) < MAX_PIPELINED:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            raise Refused(TOO_MANY_AT_ONCE)

    def on_body(self, body: bytes) -> None:
        self._body_of_feed += len(body)
        exchange = self.cycle
        if not exchange.response_complete and exchange.take(body) > HELD_BYTES:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # the parser takes what follows for another protocol; it is the body
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    # Answers

    def _answer(self, exchange: Exchange) -> None:
        self.answering = exchange
        exchange.begin(self.app, self.tasks)

    def on_response_complete(self) -> None:
        """Called by the exchange when its answer is written."""
        exchange, self.answering = self.answering, None
        assert exchange is not None
        self._since = self._clock()
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            self._end()
        elif self.pipeline:
            self._answer(self.pipeline.pop()[0])  # type: ignore[arg-type]
        elif self._unread_before is not None:
            self._end(self._unread_before)
        else:
            self.flow.resume_reading()

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse the last request, since it cannot be read. Earlier requests are still answered."""
        broken = self.cycle if self.cycle and self.cycle.more_body and not self._in_head else None
        if self.answering is None:
            self._end(refusal)
        elif broken is self.answering:
            self._break_off(broken, refusal)
        else:
            self._unread_before = refusal
            self.flow.pause_reading()
            if broken and self.pipeline and self.pipeline[0][0] is broken:
                self.pipeline.popleft()

    def _break_off(self, exchange: Exchange, refusal: Refusal) -> None:
        self.answering = None
        exchange.disconnect()
        if exchange.response_started:
            self.transport.abort()
        else:
            self._end(refusal)

    def _end(self, refusal: Refusal | None = None) -> None:
        """Close after the last answer. A close with unread bytes would be a reset, so they are read for a while."""
        if self.transport.is_closing() or self.linger is not None:
            return
        if refusal is not None:
            self.transport.write(refusal.answer)
            self.shared.log.refused(self.client, refusal.status.value, refusal.text)
        self.pipeline.clear()
        self.linger = LingerMeter()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        elif self.cycle is None or not self.cycle.more_body:  # TLS, where nothing else can end the answer
            self.transport.close()

    # The sweep

    def look(self, now: float, elapsed: float) -> None:
        """End the connection if it takes too long. `elapsed` is the time in seconds since the last call."""
        if not goes_on(self.transport, self._taken, self.linger, elapsed, self._limits.write_timeout_s):
            return
        if self.answering is None:
            self._look_at_head(now - self._since)
        elif self._waits_for_body and (refusal := self._meter.add_wait(elapsed)):
            self._refuse(refusal)

    def _look_at_head(self, seconds: float) -> None:
        if self._in_head or self.scope is None:  # none before the first request
            if seconds > self._limits.header_timeout_s:
                self._end(HEAD_LATE if self._said_something else None)
        elif seconds > self._limits.idle_timeout_s:
            self._end()

    @property
    def _waits_for_body(self) -> bool:
        """True if the client holds the body back, and not the application by not reading it."""
        exchange = self.cycle
        return exchange.more_body and not self.flow.read_paused and not exchange.waiting_for_100_continue

    def end_if_quiet(self, now: float, seconds: float) -> None:
        """End the connection if no request has begun for `seconds`, and none waits in the socket."""
        idle = not self.transport.is_closing() and self.linger is None and self.answering is None and not self._in_head
        if idle and now - self._since >= seconds and not has_unread(self.transport):
            self._end()
