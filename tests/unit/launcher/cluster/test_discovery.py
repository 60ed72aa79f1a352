"""Which cluster is meant, and what is said of one that does not answer. The heads here are gRPC servers of our own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from aoti_serve.errors import StartFailed
from aoti_serve.launcher.cluster import discovery as address
from aoti_serve.launcher.cluster.discovery import PING, close_token, cluster_at, running_clusters

SECRET = "the-token"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    os.environ.pop("RAY_AUTH_MODE", None)


class Head(grpc.GenericRpcHandler):
    """As much of a head as is asked: who it is, and whether one may ask."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def service(self, call: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer) if call.method == PING else None

    def _answer(self, _: bytes, context: Any) -> bytes:
        sent = dict(context.invocation_metadata()).get("authorization")
        if self._token is not None and sent != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""


@contextmanager
def head(token: str | None = None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head(token)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def refusal(where: str) -> str:
    begun = time.monotonic()
    with pytest.raises(StartFailed) as caught:
        cluster_at(where)
    assert time.monotonic() - begun < 5, "two seconds, on a machine that has time"
    return str(caught.value)


def test_a_cluster_that_asks_for_nothing_is_joined() -> None:
    with head() as where:
        assert cluster_at(where) == where
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_port_where_nobody_listens_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
    assert refusal(where) == f"nothing listens at {where}"


def test_somebody_else_who_listens_is_no_cluster() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        assert refusal(where) == f"what listens at {where} does not answer as the head of a Ray cluster does"


@pytest.mark.parametrize("where", ["", "localhost", "ray://127.0.0.1:10001", "127.0.0.1:http", ":6379"])
def test_what_is_no_address_is_refused(where: str) -> None:
    assert "is no address of a Ray cluster" in refusal(where)


@pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
def test_a_token_that_is_here_is_offered_wherever_ray_would_find_it(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / ".ray" / "auth_token" if place == "home" else tmp_path / "token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(SECRET + "\n")
    if place != "home":
        monkeypatch.setenv(place, SECRET if place == "RAY_AUTH_TOKEN" else str(path))
    with head(SECRET) as where:
        assert cluster_at(where) == where
    assert os.environ["RAY_AUTH_MODE"] == "token", "for Ray, which sends none otherwise"


def test_a_token_that_is_not_here_is_asked_for(tmp_path: Path) -> None:
    with head(SECRET) as where:
        text = refusal(where)
    assert "asks for its token, and there is none here" in text
    assert text.endswith(f"copy the head's to {tmp_path / '.ray' / 'auth_token'}")


def test_a_wrong_token_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    with head(SECRET) as where:
        assert refusal(where) == f"the Ray cluster at {where} does not accept the token in RAY_AUTH_TOKEN"


def test_who_has_told_ray_to_send_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with head(SECRET) as where:
        assert "set RAY_AUTH_MODE=token" in refusal(where)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_may_read_is_closed_to_them(mode: int, tmp_path: Path) -> None:
    assert close_token() is None, "there is none"
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.touch()
    path.chmod(mode)
    said = close_token()
    assert said is not None
    assert said.startswith(f"note: others could read {path}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert close_token() is None


def test_a_token_that_cannot_be_closed_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "auth_token"
    path.touch()
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))

    def refuse(*_: object) -> None:  # somebody else's file; tests may run as root, who may do it
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert str(close_token()).startswith(f"warning: others may read {path}")


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with head() as where:
        monkeypatch.setenv("RAY_ADDRESS", where)
        assert cluster_at("auto") == where


def test_auto_is_the_only_cluster_here_and_never_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    with head() as one, head() as other:
        told = [one, "127.0.0.1:9", one]  # of two nodes, and of one whose head has died
        monkeypatch.setattr(address, "_told_raylets", lambda: told)
        assert cluster_at("auto") == one
        told.append(other)
        assert running_clusters() == sorted([one, other])
        assert refusal("auto").startswith("2 Ray clusters run on this machine, 127.0.0.1:")
        assert "--address" in refusal("auto")
        told.clear()
        assert "no Ray cluster runs on this machine" in refusal("auto")
