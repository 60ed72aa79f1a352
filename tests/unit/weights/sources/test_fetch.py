"""Bringing a file from where it is: once, whole, no more than allowed, and nothing that was not meant."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from aoti_serve.errors import SourceRefused, StoreFailed, UnreadableWeights, WeightsTooLarge
from aoti_serve.weights.sources import fetch, source
from aoti_serve.weights.sources.source import fetch_to
from tests.unit.weights.store.elsewhere import uri_of

CONTENT = bytes(range(256)) * 20


class Handler(BaseHTTPRequestHandler):
    """Paths are named for what the server does."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        getattr(self, "send_" + self.path.partition("?")[0].rpartition("/")[2])()

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def send_whole(self) -> None:
        self.answer(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT)

    def send_until_it_ends(self) -> None:
        self.answer()
        self.wfile.write(CONTENT)

    def send_half(self) -> None:
        self.answer(Content_Length=2 * len(CONTENT))
        self.wfile.write(CONTENT)

    def send_claim(self) -> None:
        self.answer(Content_Length=2**40)

    def send_endless(self) -> None:
        self.answer()
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(65536))
        self.close_connection = True

    def send_away(self) -> None:
        self.answer(302, Location="/models/whole?secret")

    def send_gone(self) -> None:
        self.answer(404, Content_Length=0)

    def send_zipped(self) -> None:
        self.answer(Content_Encoding="gzip", Content_Length=3)
        self.wfile.write(b"abc")

    def send_silent(self) -> None:
        self.answer(Content_Length=100)
        time.sleep(1)

    def send_drops(self) -> None:
        self.answer(Content_Length=100)
        with suppress(OSError):
            for _ in range(20):
                time.sleep(0.05)
                self.wfile.write(b"x")

    def send_nonsense(self) -> None:
        self.wfile.write(b"nonsense\r\n\r\n")


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def web(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return f"http://127.0.0.1:{server.server_port}/models"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.touch()
    return path


@pytest.mark.parametrize("name", ["whole", "until_it_ends", "whole?sig=1"])
def test_a_file_on_the_web_is_brought(web: str, target: Path, name: str) -> None:
    fetch_to(f"{web}/{name}", [web], target, len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_user_and_a_password_are_sent_as_such(web: str, server: Any, target: Path) -> None:
    uri = web.replace("//", "//user:p%40ss@")
    fetch_to(f"{uri}/whole", [uri], target, 10**6)
    path, headers = server.asked[-1]
    assert (path, headers["Authorization"]) == ("/models/whole", "Basic dXNlcjpwQHNz")


@pytest.mark.parametrize("name", ["whole", "until_it_ends", "claim", "endless"])
def test_more_than_the_limit_is_refused_while_it_comes(web: str, target: Path, name: str) -> None:
    with pytest.raises(WeightsTooLarge, match=r"more than 5119 bytes \(gateway.max_weights_bytes\)"):
        fetch_to(f"{web}/{name}", [web], target, len(CONTENT) - 1)
    assert target.stat().st_size <= len(CONTENT)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("half", "ended 5120 bytes early", id="breaks-off"),
        pytest.param("gone", "HTTP 404", id="missing"),
        pytest.param("zipped", "it is compressed", id="compressed"),
        pytest.param("nonsense", "BadStatusLine", id="no-http"),
    ],
)
def test_what_cannot_be_read_is_named(web: str, target: Path, name: str, reason: str) -> None:
    with pytest.raises(UnreadableWeights, match=f"{web}/{name}: .*{reason}"):
        fetch_to(f"{web}/{name}", [web], target, 10**6)


def test_a_redirect_is_not_followed(web: str, server: Any, target: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"HTTP 302 .*a redirect to /models/whole.*not followed"):
        fetch_to(f"{web}/away", [web], target, 10**6)
    assert server.asked[-1][0] == "/models/away"


def test_a_silent_server_is_given_up(web: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE_S", 0.1)
    with pytest.raises(UnreadableWeights, match="timed out"):
        fetch_to(f"{web}/silent", [web], target, 10**6)


def test_a_server_that_sends_a_drop_now_and_then_is_given_up(
    web: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "TRANSFER_S", 0.2)
    with pytest.raises(UnreadableWeights, match=r"took longer than 0\.2 s"):
        fetch_to(f"{web}/drops", [web], target, 10**6)


def test_nobody_there_is_named(target: Path) -> None:
    with pytest.raises(UnreadableWeights, match=r"http://127.0.0.1:1/w: .*refused"):
        fetch_to("http://127.0.0.1:1/w", ["http://127.0.0.1:1/"], target, 10**6)


def test_secrets_are_in_no_error_and_no_log(web: str, target: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = web.replace("//", "//user:secret@")
    with caplog.at_level(logging.DEBUG):
        fetch_to(f"{root}/whole?sig=secret", [root], target, 10**6)
        for name in ("gone", "away", "half", "nonsense"):
            with pytest.raises(UnreadableWeights) as caught:
                fetch_to(f"{root}/{name}?sig=secret", [root], target, 10**6)
            assert "secret" not in str(caught.value)
            assert caught.value.__cause__ is None
    assert "secret" not in caplog.text


def test_a_target_that_cannot_be_written_is_not_the_sources_fault(web: str, tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="Is a directory"):
        fetch_to(f"{web}/whole", [web], tmp_path, 10**6)


@pytest.mark.parametrize("scheme", ["memory", "elsewhere"])
def test_what_fsspec_reads_is_brought(tmp_path: Path, target: Path, scheme: str) -> None:
    root = "memory://models" if scheme == "memory" else uri_of(tmp_path / "models")
    (tmp_path / "models").mkdir()
    files = fsspec.filesystem(scheme)
    files.pipe_file(f"{root}/w", CONTENT)
    fetch_to(f"{root}/w", [root], target, len(CONTENT))
    assert target.read_bytes() == CONTENT
    with pytest.raises(WeightsTooLarge):
        fetch_to(f"{root}/w", [root], target, len(CONTENT) - 1)
    with pytest.raises(UnreadableWeights, match=f"{root}/gone: FileNotFoundError"):
        fetch_to(f"{root}/gone", [root], target, 100)


def test_a_backend_that_is_not_installed_is_named(target: Path) -> None:
    with pytest.raises(UnreadableWeights, match="s3://bucket/w: ImportError: Install s3fs"):
        fetch_to("s3://bucket/w", ["s3://bucket"], target, 100)


def test_a_local_file_is_brought(tmp_path: Path, target: Path) -> None:
    (tmp_path / "w").write_bytes(CONTENT)
    for uri in (f"{tmp_path}/w", f"file://{tmp_path}/w", f"{tmp_path}/x/../w"):
        target.write_bytes(b"before")
        fetch_to(uri, ["https://host/", str(tmp_path)], target, len(CONTENT))
        assert target.read_bytes() == CONTENT
    with pytest.raises(WeightsTooLarge):
        fetch_to(f"{tmp_path}/w", [str(tmp_path)], target, len(CONTENT) - 1)


def test_a_file_that_grows_while_it_is_read_is_held_to_the_limit(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w").write_bytes(CONTENT)
    monkeypatch.setattr(source, "check_room", lambda *_: (tmp_path / "w").write_bytes(2 * CONTENT))
    with pytest.raises(WeightsTooLarge):
        fetch_to(f"{tmp_path}/w", [str(tmp_path)], target, len(CONTENT))


def test_a_pipe_is_not_waited_for(tmp_path: Path, target: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableWeights, match="no file at"):
        fetch_to(f"{tmp_path}/pipe", [str(tmp_path)], target, 100)


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_is_put_in_place_after_the_check_is_not_followed(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    (tmp_path / "allowed" / "deep").mkdir(parents=True)
    (tmp_path / "allowed" / "deep" / "w").write_bytes(b"weights")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w").write_bytes(b"secret")
    resolve = source.resolve

    def swapping(uri: str, roots: list[str]) -> object:
        found = resolve(uri, roots)
        place = tmp_path / "allowed" / "deep"
        (place / "w").unlink()
        if swapped == "file":
            (place / "w").symlink_to(tmp_path / "outside" / "w")
        else:
            place.rmdir()
            place.symlink_to(tmp_path / "outside")
        return found

    monkeypatch.setattr(source, "resolve", swapping)
    with pytest.raises(SourceRefused, match="a link in its path has changed"):
        fetch_to(f"{tmp_path}/allowed/deep/w", [f"{tmp_path}/allowed"], target, 100)
    assert target.read_bytes() == b""
