"""The end of a call as gRPC writes it into headers: a status, a text, and the call's id."""

from __future__ import annotations

from urllib.parse import quote

import grpc
import orjson

from aoti_serve.errors import AotiServeError
from aoti_serve.gateway.http2.headers import block_of

ID_KEY = "x-request-id"
OK, INTERNAL, UNIMPLEMENTED = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED
ANSWER_HEAD = block_of([(b":status", b"200"), (b"content-type", b"application/grpc")])
NOT_GRPC = block_of([(b":status", b"415"), (b"content-type", b"application/json"), (b"accept", b"application/grpc")])
NOT_GRPC_TEXT = orjson.dumps(
    {"error": "gRPC is spoken here: a POST with the Content-Type application/grpc; HTTP/1.1 is at gateway.http_port"}
)
CODINGS = "identity, gzip, deflate"
_accepted = block_of([(b"grpc-accept-encoding", b"identity,deflate,gzip")])
_as_they_are = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def status_of(error: AotiServeError) -> grpc.StatusCode:
    return grpc.StatusCode[error.grpc_status]


def trailers(status: grpc.StatusCode, text: str, identity: str) -> bytes:
    """The block of headers that ends a call. `text` is for people, in any language."""
    number: int = status.value[0]
    fields = [(b"grpc-status", b"%d" % number), (ID_KEY.encode(), identity.encode())]
    if text:
        fields.append((b"grpc-message", quote(text, _as_they_are).encode()))
    return block_of(fields) + (_accepted if status is UNIMPLEMENTED else b"")
