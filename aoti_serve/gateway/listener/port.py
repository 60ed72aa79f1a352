"""Binding of a port: shared by the gateways of one application, refused to others, given up without loss."""

from __future__ import annotations

import array
import errno
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from aoti_serve.errors import PortTaken, StartFailed
from aoti_serve.gateway.listener.claim import PortClaim, is_alone, other_claims

BACKLOG = 2048
SO_ATTACH_FILTER = 26


class BoundPort(NamedTuple):
    """A listening socket and its claim."""

    socket: socket.socket
    claim: PortClaim

    def close(self) -> None:
        self.socket.close()
        self.claim.release()


class WantedPort(NamedTuple):
    """A port, the host whose addresses it is wanted at, the owner, and the key of the configuration that says so."""

    host: str
    port: int
    owner: str
    key: str = "gateway.http_port"


def bind(wanted: WantedPort) -> list[BoundPort]:
    """Listen on each address of the host. Blocks. Raises PortTaken, or StartFailed."""
    with ExitStack() as undo, is_alone(wanted.port) as folder:
        bound = []
        for family, address in addresses(wanted.host, wanted.port):
            claim = _claimed(folder, family, address, wanted)
            undo.callback(claim.release)
            bound.append(BoundPort(_listening(family, address, wanted, shared=True), claim))
            undo.callback(bound[-1].socket.close)
        undo.pop_all()
        return bound


def _claimed(folder: Path, family: socket.AddressFamily, address: str, wanted: WantedPort) -> PortClaim:
    if (other := other_claims(folder, address, wanted.owner)) is not None:
        holder = f"the application {other} of yours ({listening_sockets(wanted.port)})"
        raise PortTaken(port=wanted.port, host=wanted.host, holder=holder, key=wanted.key)
    claim = PortClaim(folder / f"{address}.claim")
    try:
        if claim.first:
            _listening(family, address, wanted, shared=False).close()
        claim.hold(wanted.owner)
    except BaseException:
        claim.release()
        raise
    return claim


def addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of the host. Raises StartFailed if it does not exist."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartFailed(detail=f"cannot listen on {host}: {error}") from None
    return list(dict.fromkeys((family, str(sockaddr[0])) for family, _, _, _, sockaddr in found))


def _listening(family: socket.AddressFamily, address: str, wanted: WantedPort, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        sock.bind((address, wanted.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            holder = listening_sockets(wanted.port)
            raise PortTaken(port=wanted.port, host=wanted.host, holder=holder, key=wanted.key) from None
        raise StartFailed(detail=f"cannot listen on {wanted.host}:{wanted.port}: {error.strerror}") from None
    return sock


def listening_sockets(port: int) -> str:
    """The processes that listen on a port, in words, as far as this user may see them."""
    found: set[int | None] = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and port in connection.laddr
    }
    return ", ".join(sorted(_named(pid) for pid in found)) or "somebody"


def _named(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    with suppress(psutil.Error):
        return f"{psutil.Process(pid).name()} (pid {pid})"
    return f"pid {pid}"


def refuse_handshakes(listening: socket.socket) -> None:
    """Have the kernel ignore new connections to this socket, and complete those that have begun.

    An ignored client tries again after a second; by then another gateway has the port, or none. The filter is classic
    BPF over the TCP header: it passes everything but a SYN without an ACK.
    """
    program = [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF)]
    code = array.array("B", b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = struct.pack("@HP", len(program), code.buffer_info()[0])
    with suppress(OSError):  # a sandbox without filters: then a connection may meet a reset, in a few microseconds
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
