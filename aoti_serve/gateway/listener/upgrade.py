"""Requests that offer another protocol (`Upgrade: h2c`, as Java's client does) are answered in HTTP/1.1.

llhttp takes everything behind such a head for the other protocol, so the body would be lost. A second parser, which
knows only of the body, takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

FRAMING = (b"content-length", b"transfer-encoding")
OF_THE_HEAD = ("on_message_begin", "on_url", "on_header", "on_headers_complete")


def read_after_upgrade(connection: HttpToolsProtocol, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Give the connection a parser that continues behind the head with these headers, first with its body."""
    head_is_read = False

    def after_head(callback: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: callback(*arguments) if head_is_read else None

    callbacks = {name: after_head(getattr(connection, name)) for name in OF_THE_HEAD}
    callbacks |= {"on_body": connection.on_body, "on_message_complete": connection.on_message_complete}
    connection.parser = httptools.HttpRequestParser(SimpleNamespace(**callbacks))
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name in FRAMING]
    connection.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n"]))
    head_is_read = True
