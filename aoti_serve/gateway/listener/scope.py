"""The ASGI scope of a parsed request, the refusal of one that cannot be parsed, and requests that offer an upgrade."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import SimpleNamespace

import httptools
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aoti_serve.gateway.listener.refusals import (
    BAD_HOST,
    BAD_REQUEST,
    BAD_TARGET,
    BAD_VERSION,
    UNKNOWN_CODING,
    Refusal,
    Refused,
)

# An ASGI extension of ours: a body may be a memoryview, which is written from where it lies.
VIEWS = "aoti_serve.views"
ASGI_EXTENSIONS: dict[str, dict[object, object]] = {VIEWS: {}}
FRAMING = (b"content-length", b"transfer-encoding")
OF_THE_HEAD = ("on_message_begin", "on_url", "on_header", "on_headers_complete")


def complete_scope(scope: HTTPScope, parser: httptools.HttpRequestParser, target: bytes) -> None:
    """Add the facts of the complete head. Raises Refused."""
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise Refused(BAD_VERSION)
    names = [name for name, _ in scope["headers"]]
    if names.count(b"host") != 1 and version == "1.1":
        raise Refused(BAD_HOST)
    if b"transfer-encoding" in names:
        _check_codings(value for name, value in scope["headers"] if name == b"transfer-encoding")
    url = httptools.parse_url(target)
    if url.path is None:
        raise Refused(BAD_TARGET)
    path = url.path.decode("ascii")
    scope["extensions"] = ASGI_EXTENSIONS
    scope["http_version"] = version
    scope["method"] = parser.get_method().decode("ascii")
    scope["path"] = urllib.parse.unquote(path) if "%" in path else path
    scope["raw_path"] = url.path
    scope["query_string"] = url.query or b""


def _check_codings(values: Iterable[bytes]) -> None:
    """Refuse transfer codings other than `chunked`: the parser would ignore them."""
    if any(value.strip().lower() != b"chunked" for value in values):
        raise Refused(UNKNOWN_CODING)


def refusal_for(error: httptools.HttpParserError) -> Refusal:
    """The refusal for an error of the parser, which wraps what its callbacks raise."""
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause.refusal
    if isinstance(cause, httptools.HttpParserInvalidURLError):
        return BAD_TARGET
    return BAD_REQUEST if cause else Refusal(HTTPStatus.BAD_REQUEST, f"{BAD_REQUEST.text}: {error}")


def read_after_upgrade(connection: HttpToolsProtocol, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Continue behind a head that offers another protocol (`Upgrade: h2c`, as Java's client does) in HTTP/1.1.

    llhttp takes everything behind such a head for the other protocol, so the body would be lost. The connection gets a
    second parser, which knows only the framing of the body.
    """
    head_is_read = False

    def after_head(callback: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: callback(*arguments) if head_is_read else None

    callbacks = {name: after_head(getattr(connection, name)) for name in OF_THE_HEAD}
    callbacks |= {"on_body": connection.on_body, "on_message_complete": connection.on_message_complete}
    connection.parser = httptools.HttpRequestParser(SimpleNamespace(**callbacks))
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name in FRAMING]
    connection.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n"]))
    head_is_read = True
