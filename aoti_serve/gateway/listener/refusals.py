"""Answers of the listener itself, without the application: complete responses, made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus

import orjson

from aoti_serve.errors import BodyTooSlow


@dataclass(frozen=True)
class Refusal:
    """A status and a sentence for the client, in the form of all other errors. It ends the connection."""

    status: HTTPStatus
    text: str
    retry_after_s: int | None = None

    @cached_property
    def body(self) -> bytes:
        return orjson.dumps({"error": self.text})

    @cached_property
    def answer(self) -> bytes:
        """The bytes of the whole response."""
        retry = "" if self.retry_after_s is None else f"retry-after: {self.retry_after_s}\r\n"
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n{retry}connection: close\r\n\r\n"
        )
        return head.encode() + self.body


class Refused(Exception):
    """Raised in the parser's callbacks. The parser stops, and the client gets the refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


BAD_REQUEST = Refusal(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
HTTP_2_HERE = Refusal(
    HTTPStatus.BAD_REQUEST, "HTTP/1.1 is spoken here; HTTP/2 without an upgrade is for gRPC, at gateway.grpc_port"
)
TLS_HERE = Refusal(HTTPStatus.BAD_REQUEST, "plain HTTP is spoken here, and no TLS: write http://, or set gateway.tls")
NOT_HTTP_2 = Refusal(HTTPStatus.BAD_REQUEST, "gRPC is spoken here, over HTTP/2; HTTP/1.1 is at gateway.http_port")
BAD_HOST = Refusal(HTTPStatus.BAD_REQUEST, "an HTTP/1.1 request has one Host header")
BAD_TARGET = Refusal(HTTPStatus.BAD_REQUEST, "the request's target is not a path")
BAD_VERSION = Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken here")
UNKNOWN_CODING = Refusal(HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding that is read here is chunked")
FAILED = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the gateway's log has it")
HEAD_LATE = Refusal(HTTPStatus.REQUEST_TIMEOUT, "the request's headers did not arrive within gateway.header_timeout_s")
BODY_LATE = Refusal(HTTPStatus.REQUEST_TIMEOUT, str(BodyTooSlow()))
TARGET_TOO_LONG = Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "the request's target exceeds gateway.max_header_bytes")
HEAD_TOO_LARGE = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's headers exceed gateway.max_header_bytes"
)
TOO_MANY_HEADERS = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has more headers than gateway.max_headers"
)
FRAMING_TOO_LARGE = Refusal(HTTPStatus.BAD_REQUEST, "the body's chunks are mostly framing")
TOO_MANY_AT_ONCE = Refusal(HTTPStatus.BAD_REQUEST, "too many requests are pipelined on one connection")
TOO_MANY_CONNECTIONS = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "this gateway has gateway.max_connections connections", retry_after_s=1
)
