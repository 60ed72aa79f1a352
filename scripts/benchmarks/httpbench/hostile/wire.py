"""Bytes to a server, and what it says to them, on connections of their own."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Iterable
from typing import NamedTuple

PIECE, REST_S = 256 * 2**10, 5.0
# What stands where there was no status: the server has ended the connection, or has said nothing while we waited.
CLOSED, SILENT = "closed", "silence"


class Target(NamedTuple):
    host: str
    port: int
    token: str


async def said(target: Target, pieces: Iterable[bytes], patience: float, pause: float = 0.0) -> str:
    """Send these pieces, with a pause after each, and read the answer: its status, CLOSED or SILENT."""
    writing = None
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            writing = asyncio.create_task(_written(writer, pieces, pause))
            return await _status(reader)
    except TimeoutError:
        return SILENT
    except (OSError, asyncio.IncompleteReadError):
        return CLOSED
    finally:
        if writing is not None:
            writing.cancel()
            writer.transport.abort()


async def unread(target: Target, request: bytes, patience: float) -> str:
    """Send a request, take nothing of the answer for so long, then look how the connection stands."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await loop.sock_connect(connection, (target.host, target.port))
            await loop.sock_sendall(connection, request)
            await asyncio.sleep(patience)
            async with asyncio.timeout(REST_S):
                return await _rest(connection)
        except TimeoutError:
            return SILENT
        except OSError:
            return CLOSED


async def counted(asked: Iterable[Awaitable[str]]) -> Counter[str]:
    """All at once."""
    return Counter(await asyncio.gather(*asked))


async def in_turn(target: Target, request: bytes, times: int, patience: float) -> Counter[str]:
    """One client, one request after the other, for as long as it is answered."""
    found: Counter[str] = Counter()
    while found.total() < times and not found[SILENT]:
        found[await said(target, sliced(request), patience)] += 1
    return found


def sliced(request: bytes) -> Iterable[bytes]:
    """Pieces that neither end has to copy as a whole."""
    return (request[start : start + PIECE] for start in range(0, len(request), PIECE))


async def _written(writer: asyncio.StreamWriter, pieces: Iterable[bytes], pause: float) -> None:
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
    except OSError:
        pass  # the reader tells


async def _status(reader: asyncio.StreamReader) -> str:
    """Of an answer that has been read to its end."""
    line = await reader.readline()
    if not line:
        return CLOSED
    length = 0
    while (header := await reader.readline()).strip():
        name, _, value = header.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    while length > 0 and (read := await reader.read(min(length, PIECE))):
        length -= len(read)
    return line.split()[1].decode()


async def _rest(connection: socket.socket) -> str:
    """The status of the answer whose first bytes wait here, and whether the rest is still there to be read."""
    loop = asyncio.get_running_loop()
    start = await loop.sock_recv(connection, 4096)
    if not start:
        return CLOSED
    head, _, body = start.partition(b"\r\n\r\n")
    status, left = head.split()[1].decode(), _length(head) - len(body)
    try:
        while left > 0 and (got := await loop.sock_recv(connection, PIECE)):
            left -= len(got)
    except OSError:
        pass
    return status if left <= 0 else f"{status} cut off"


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split()[0])
