"""What the listener takes from uvicorn, in the version that it was read in.

`ClientConnection` and `Exchange` override most of uvicorn's protocol over httptools, and lean on the rest: on the
attributes that the constructors make, on who calls what, and on what the methods below do. If one of these tests fails,
read the methods again, then note the new digests.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aoti_serve.gateway.listener.connection import ClientConnection
from aoti_serve.gateway.listener.exchange import Exchange

READ_IN = "0.54.0"
LEANED_ON = {
    FlowControl: "126debcdaa89",
    ServerState: "f2260fbf1015",
    HttpToolsProtocol.__init__: "4f0899941034",
    HttpToolsProtocol.connection_made: "6efb565ff3d3",
    HttpToolsProtocol.connection_lost: "c91a4c9bf2e2",
    HttpToolsProtocol.eof_received: "5652627579a0",
    HttpToolsProtocol.on_message_begin: "96d377fdc7c2",
    HttpToolsProtocol.on_url: "37be44e962b0",
    HttpToolsProtocol.pause_writing: "17a8fd215d96",
    HttpToolsProtocol.resume_writing: "7844bbaa8cce",
    RequestResponseCycle.__init__: "4d2f220910c3",
    RequestResponseCycle.run_asgi: "0f33f2449a44",
}
OVERRIDDEN = {
    ClientConnection: {
        "__init__", "connection_lost", "connection_made", "data_received", "on_body", "on_header",
        "on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete", "shutdown",
    },
    Exchange: {"__init__", "receive", "send", "send_500_response"},
}  # fmt: skip


def digest(source: Any) -> str:
    return hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:12]


@pytest.mark.parametrize(("source", "noted"), LEANED_ON.items(), ids=lambda value: getattr(value, "__qualname__", ""))
def test_uvicorn_does_what_it_did_when_it_was_read(source: Callable[..., Any], noted: str) -> None:
    assert digest(source) == noted, f"read it again; it was read in {READ_IN}"


@pytest.mark.parametrize("kind", OVERRIDDEN)
def test_no_more_of_uvicorn_is_overridden_than_is_noted(kind: type) -> None:
    (base,) = (base for base in kind.__bases__)
    shared = {name for name, member in vars(kind).items() if inspect.isfunction(member) and hasattr(base, name)}
    assert shared == OVERRIDDEN[kind]
