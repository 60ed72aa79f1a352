"""A listening server of one gateway process: its port, its connections' limits, and its end."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import cast

from aoti_serve.config import GatewayConfig, Tls
from aoti_serve.errors import BadCertificate
from aoti_serve.gateway.listener.acceptor import Acceptor
from aoti_serve.gateway.listener.port import WantedPort, bind
from aoti_serve.gateway.listener.shared import Connection, Shared
from aoti_serve.gateway.request_log import RequestLog

logger = logging.getLogger(__name__)

SWEEP_S = 1.0
NOTICE_S = 1.0  # the least time in which clients and load balancers see that this server is about to stop
QUIET_S = 1.0  # on the way out a connection is closed if nothing has begun on it for so long
LOOK_S = 0.1
SURPLUS = 128  # connections beyond `max_connections` that get a 503; further ones are closed without an answer


Connect = Callable[[Shared, bool], Connection]


class Listener:
    """A server on one port. `connect` makes each of its connections; true if it is one too many.

    Lives in the event loop in which `open` was awaited, in any thread. The owner of the port is an application,
    uniquely named among all on this machine. Its listeners, in all its processes, share the port and the load; other
    applications do not get it. `spoken` is the protocol's name in TLS (ALPN).
    """

    def __init__(
        self,
        connect: Connect,
        wanted: WantedPort,
        spoken: str,
        config: GatewayConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._wanted = wanted
        self._spoken = spoken
        self._config = config
        self._clock = clock
        self._shared = Shared(RequestLog(config.access_log))
        self._address: tuple[str, int] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port on which it listens; the first address, if the host has several."""
        assert self._address is not None
        return self._address

    async def open(self) -> None:
        """Claim and bind the port, and accept connections. Raises PortTaken, BadCertificate, or StartFailed."""
        config, loop = self._config, asyncio.get_running_loop()
        tls = None if config.tls is None else tls_context(config.tls, self._spoken)
        self._date_answers()
        bound = await asyncio.to_thread(bind, self._wanted)
        self._address = bound[0].socket.getsockname()[:2]
        self._acceptor = Acceptor(bound, self._connection, self._room, tls, config.header_timeout_s)
        self._acceptor.start()
        self._swept = self._clock()
        self._sweeping = loop.create_task(self._sweep())

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._shared.connections)

    @property
    def _present(self) -> int:
        return len(self._shared.connections) + len(self._acceptor.handshaking)

    def _room(self) -> bool:
        return self._present < self._config.max_connections + SURPLUS

    def _connection(self) -> asyncio.BaseProtocol:
        surplus = self._present > self._config.max_connections
        return cast(asyncio.BaseProtocol, self._connect(self._shared, surplus))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._date_answers()
            self.sweep()

    def sweep(self) -> None:
        """End connections that take too long. Runs every second."""
        now = self._clock()
        elapsed, self._swept = now - self._swept, now
        for connection in list(self._shared.connections):
            try:
                connection.look(now, elapsed)
            except Exception:  # whatever one connection's defect is, the limits hold for the others
                logger.exception("a connection could not be looked at")
                connection.transport.abort()

    def _date_answers(self) -> None:
        self._shared.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]

    async def close(self, seconds: float) -> None:
        """Close without losing a request. After `seconds`, requests that are still in flight are cut.

        Every answer is now the last one of its connection; the application answers new requests, or refuses them. The
        port stays open until all requests that are in flight now are answered. Then the kernel takes no new
        connections, those that it has taken are accepted, and the port is closed. Idle connections are closed when
        nothing has come for a moment.

        A client whose next request meets the close of its idle connection finds it closed, as with any HTTP server, and
        tries again. A client that connects in the last milliseconds tries again after a second, by TCP itself. Where
        the kernel has no socket filters, a connection in those milliseconds may meet a reset, unless
        `net.ipv4.tcp_migrate_req` is 1 and another gateway has the port.
        """
        if self._address is None:
            return
        self._shared.leaving = True
        for connection in self._shared.connections:
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + seconds
        await self._await_answers(deadline)
        await self._acceptor.close()
        await self._await_close(deadline)
        self._sweeping.cancel()
        self._cut()

    async def _await_answers(self, deadline: float) -> None:
        """Wait until all requests in flight are answered, and for `NOTICE_S` at least."""
        notice = asyncio.create_task(asyncio.sleep(NOTICE_S))
        await asyncio.wait({notice, *self._shared.tasks}, timeout=max(0.0, _seconds_left(deadline)))
        notice.cancel()

    async def _await_close(self, deadline: float) -> None:
        """Close connections as they become quiet; wait until none is left."""
        while (self._shared.connections or self._acceptor.handshaking) and _seconds_left(deadline) > 0:
            for connection in list(self._shared.connections):
                connection.end_if_quiet(self._clock(), QUIET_S)
            await asyncio.sleep(LOOK_S)

    def _cut(self) -> None:
        for connection in list(self._shared.connections):
            connection.transport.abort()
        for task in [*self._shared.tasks, *self._acceptor.handshaking]:
            task.cancel()


def _seconds_left(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()


def tls_context(tls: Tls, spoken: str) -> ssl.SSLContext:
    """The TLS context of a server that speaks one protocol.

    Raises BadCertificate if the files cannot be read or do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([spoken])
    try:
        # OpenSSL would ask for a password at the terminal of a process that has none.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise BadCertificate(certificate=tls.certificate, key=tls.key, detail=str(error)) from None
    return context
