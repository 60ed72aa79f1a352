"""Where applications answer."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aoti_serve.config import AppConfig
from aoti_serve.launcher.configuration.config_file import ConfigFile, Ours
from aoti_serve.launcher.configuration.endpoints import Endpoint, endpoint_of, only_here

TLS = {"certificate": "c.pem", "key": "k.pem"}


def ours(**gateway: Any) -> Ours:
    models = [{"name": "a", "package": "a.pt2"}]
    return Ours("default", "/models", AppConfig.model_validate({"models": models, "gateway": gateway}), {})


def url(content: dict[str, Any], node: str = "127.0.0.1", **gateway: Any) -> str:
    return endpoint_of(ours(**gateway), ConfigFile(Path("f"), content, []), node).url


@pytest.mark.parametrize(
    ("gateway", "node", "expected"),
    [
        ({}, "127.0.0.1", "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "http_port": 8123}, "127.0.0.1", "http://127.0.0.1:8123"),
        ({"host": "0.0.0.0"}, "10.0.0.7", "http://10.0.0.7:8000"),
        ({"host": "::1"}, "127.0.0.1", "http://[::1]:8000"),
        ({"host": "localhost", "tls": TLS}, "127.0.0.1", "https://localhost:8000"),
    ],
)
def test_gateways_answer_at_their_own_port_from_the_root(gateway: dict[str, Any], node: str, expected: str) -> None:
    assert url({}, node, **gateway) == expected


def test_one_that_does_not_listen_answers_through_serves_proxies_below_its_prefix() -> None:
    assert url({}, http_port=None) == "http://127.0.0.1:8000/models"
    assert url({"http_options": {"host": "0.0.0.0", "port": 9000}}, http_port=None) == "http://127.0.0.1:9000/models"


def test_who_speaks_tls_is_known_by_its_certificate() -> None:
    assert endpoint_of(ours(tls=TLS), ConfigFile(Path("f"), {}, [])).certificate == str(Path("c.pem").resolve())


def test_gateways_that_only_their_own_machine_reaches() -> None:
    hosts = ["127.0.0.1", "::1", "localhost", "0.0.0.0", "host.example"]
    assert [only_here(ours(host=host).gateway) for host in hosts] == [True, True, True, False, False]
    assert not only_here(ours(http_port=None).gateway)


def test_one_where_nobody_listens_is_not_ready() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert not Endpoint("default", f"http://127.0.0.1:{port}").ready()
