"""Requests that offer another protocol (`Upgrade: h2c`, as Java's client does) are answered in HTTP/1.1.

llhttp takes everything behind such a head for the other protocol, so the body would be lost. A second parser, which
knows only of the body, takes over.
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

FRAMING = (b"content-length", b"transfer-encoding")


class _AfterHead:
    """Passes the parser's callbacks on, once the head that stands in for the real one has been read."""

    def __init__(self, connection: HttpToolsProtocol) -> None:
        self._connection = connection
        self.live = False
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete

    def on_message_begin(self) -> None:
        if self.live:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.live:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.live:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.live:
            self._connection.on_headers_complete()
        self.live = True


def parser_after_upgrade(
    connection: HttpToolsProtocol, headers: Iterable[tuple[bytes, bytes]]
) -> httptools.HttpRequestParser:
    """A parser that continues behind the head with these headers, first with its body."""
    callbacks = _AfterHead(connection)
    parser = httptools.HttpRequestParser(callbacks)
    connection.parser = parser
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name in FRAMING]
    parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n"]))
    return parser
