"""The command line's client against a real, tiny server: what it asks, and what it makes of bad answers."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aoti_serve.cli import app
from aoti_serve.cli.client import CHUNK_BYTES, AdminClient, served_models
from aoti_serve.config import Tls
from aoti_serve.errors import (
    CertificateNotTrusted,
    NoAdminToken,
    ServerRefused,
    ServerUnreachable,
    Unavailable,
    UnreadableWeights,
)
from aoti_serve.token import TOKEN_VARIABLE
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions
from tests.unit.cli.played import Break, Played, Reply, as_json, playing, weights_status
from tests.unit.gateway.listener.test_tls import made
from tests.unit.gateway.listener.wired import echo, wired

WEIGHTS = "/v2/models/m/weights"
STATUS = as_json(weights_status())


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def played() -> Iterator[Played]:
    with playing() as server:
        server.replies[f"GET {WEIGHTS}"] = server.replies[f"POST {WEIGHTS}"] = Reply(STATUS)
        server.replies[f"POST {WEIGHTS}/rollback"] = Reply(STATUS)
        yield server


@pytest.fixture
def client(played: Played) -> Iterator[AdminClient]:
    found = AdminClient(played.url, "m")
    yield found
    found._client.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new.safetensors"
    path.write_bytes(bytes(range(256)) * (CHUNK_BYTES // 100))
    return path


def test_the_token_goes_along(client: AdminClient, played: Played) -> None:
    assert client.status() == STATUS
    assert played.asked[0].headers["authorization"] == "Bearer secret"


def test_without_a_token_nothing_is_asked(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(NoAdminToken, match=rf"this command has no admin token .*: set {TOKEN_VARIABLE}, .*admin-token"):
        AdminClient(played.url, "m")
    with pytest.raises(NoAdminToken, match=rf"the server at {played.url} "):
        served_models(played.url)
    assert played.asked == []


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("http://localhost:8000", False),
        ("https://models.example", False),
        ("http://models.example:8000", True),
        ("http://192.0.2.7", True),
        ("http://127.0.0.1.example", True),
    ],
)
def test_a_token_that_others_could_read_on_its_way_is_warned_of_once(
    url: str, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("m", "n"):
        AdminClient(url, model)._client.close()
    assert capsys.readouterr().err.count("warning: the admin token goes to") == warns


def test_a_model_name_is_one_part_of_the_path(played: Played) -> None:
    played.replies["GET /v2/models/a%2F..%2Fb%3Fc/weights"] = Reply(STATUS)
    assert AdminClient(played.url, "a/../b?c").status() == STATUS


def test_an_upload_is_the_files_bytes_and_the_order_is_the_query(
    client: AdminClient, played: Played, file: Path
) -> None:
    sent: list[int] = []
    order = SwapOptions(label="a & [b]", sha256="0" * 64, partial=True, base_version=3, strict=False)
    assert client.swap_file(file, order, sent.append) == STATUS
    (asked,) = played.asked
    assert asked.body == file.read_bytes()
    assert asked.headers["content-type"] == "application/octet-stream"
    assert (sum(sent), len(sent)) == (file.stat().st_size, 3)
    assert asked.query == {
        "label": "a & [b]",
        "sha256": "0" * 64,
        "partial": "true",
        "base_version": "3",
        "strict": "false",
    }
    assert SwapOptions.model_validate(asked.query) == order


def test_what_is_not_asked_for_is_left_to_the_server(client: AdminClient, played: Played, file: Path) -> None:
    client.swap_file(file, SwapOptions(label="x"), lambda _: None)
    assert played.asked[0].query == {"label": "x"}


def test_a_uri_is_sent_as_json(client: AdminClient, played: Played) -> None:
    client.swap_uri("file:///w/x.safetensors", SwapOptions(label="x", base_version=0))
    (asked,) = played.asked
    assert asked.headers["content-type"] == "application/json"
    assert json.loads(asked.body) == {"uri": "file:///w/x.safetensors", "label": "x", "base_version": 0}
    assert asked.query == {}


def test_a_rollback_names_a_version_or_leaves_it_to_the_server(client: AdminClient, played: Played) -> None:
    client.rollback(2)
    client.rollback(None)
    client.rollback(0)
    assert [json.loads(asked.body) for asked in played.asked] == [{"version": 2}, {}, {"version": 0}]


def test_a_candidate_is_exposed_promoted_and_withdrawn(client: AdminClient, played: Played) -> None:
    routes = [f"{WEIGHTS}/{name}" for name in ("candidate", "promote", "withdraw")]
    played.replies |= {f"POST {route}": Reply(STATUS) for route in routes}
    assert client.expose(ExposureOptions(share=0.2)) == STATUS
    client.expose(ExposureOptions(shadow=0.0))
    client.promote()
    client.withdraw(wait=False)
    assert [asked.path for asked in played.asked] == [routes[0], *routes]
    assert [json.loads(asked.body or b"{}") for asked in played.asked] == [{"share": 0.2}, {"shadow": 0.0}, {}, {}]
    assert [asked.query for asked in played.asked] == [{}, {}, {}, {"wait": "false"}]


def test_who_does_not_wait_says_so(client: AdminClient, played: Played, file: Path) -> None:
    client.swap_file(file, SwapOptions(), lambda _: None, wait=False)
    client.swap_uri("/w", SwapOptions(), wait=False)
    client.rollback(None, wait=False)
    assert [asked.query for asked in played.asked] == [{"wait": "false"}] * 3


def test_the_servers_own_words(client: AdminClient, played: Played) -> None:
    played.replies[f"POST {WEIGHTS}/rollback"] = Reply(
        {"error": "model 'm': no\nprevious \x1b[31mversion", "type": "A\x1b"}, 409
    )
    with pytest.raises(ServerRefused) as caught:
        client.rollback(None)
    assert str(caught.value) == "model 'm': no previous \\x1b[31mversion"
    assert (caught.value.http_status, caught.value.kind) == (409, "A\\x1b")


def test_a_wrong_token_says_where_it_stands(
    client: AdminClient, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put into the file counts only if the variable is not set."""
    played.replies[f"GET {WEIGHTS}"] = Reply({"error": "the token is wrong"}, 401)
    with pytest.raises(ServerRefused, match=r"the token is wrong; the one that was sent stands in AOTI_SERVE_ADMIN_"):
        client.status()
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(ServerRefused, match=r"the token is wrong; .* in .*/admin-token: put an admin token of this"):
        client.status()


@pytest.mark.parametrize("value", [b"<html>Bad\n Gateway", ["a list"], {"no": "error"}])
def test_a_refusal_of_something_between_is_shown_as_it_is(client: AdminClient, played: Played, value: Any) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(value, 502)
    with pytest.raises(ServerRefused, match=r"^502 .*[a-z]") as caught:
        client.status()
    assert "\n" not in str(caught.value)


def test_a_web_page_is_not_printed(client: AdminClient, played: Played) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(b"<!DOCTYPE html><title>Another server", 404)
    with pytest.raises(ServerRefused, match=r"^404 with a web page: is this an aoti-serve server\?$"):
        client.status()


def test_something_else_answers_there(client: AdminClient, played: Played) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(b"<html>hello")
    with pytest.raises(ServerUnreachable, match="something else"):
        client.status()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:1", id="nobody"),
        pytest.param("nonsense", id="no scheme"),
        pytest.param("http://[::1", id="not a URL"),
        pytest.param("http://127.0.0.1:99999", id="no port"),
    ],
)
def test_nobody_answers_there(url: str) -> None:
    for ask in (
        lambda: AdminClient(url, "m").status(),
        lambda: served_models(url),
        lambda: next(AdminClient(url, "m").events()),
    ):
        with pytest.raises(ServerUnreachable, match=r"no aoti-serve server answers at .*`aoti-serve up`.*--url"):
            ask()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return made(tmp_path_factory.mktemp("tls"))


def test_a_server_whose_certificate_is_not_trusted_is_told_from_none(tls: Tls) -> None:
    with wired(echo, tls=tls) as served:
        url = f"https://127.0.0.1:{served.address[1]}"
        for ask in (lambda: AdminClient(url, "m").status(), lambda: served_models(url)):
            with pytest.raises(CertificateNotTrusted, match=r"\(self-signed certificate\): set SSL_CERT_FILE"):
                ask()


def test_the_authority_of_the_variable_is_trusted(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    with wired(echo, tls=tls) as served, pytest.raises(ServerUnreachable, match="what answers there is something else"):
        served_models(f"https://127.0.0.1:{served.address[1]}")


def test_the_models_that_are_served(played: Played) -> None:
    played.replies["GET /v2/models"] = Reply({"models": ["a", "b"]})
    assert served_models(played.url) == ["a", "b"]


@pytest.mark.parametrize("value", [{}, [], {"models": 3}, b"hello"])
def test_a_server_that_knows_no_models_is_another_one(played: Played, value: Any) -> None:
    played.replies["GET /v2/models"] = Reply(value)
    with pytest.raises(ServerUnreachable, match="something else"):
        served_models(played.url)


def test_events_are_the_statuses_between_the_signs_of_life(client: AdminClient, played: Played) -> None:
    played.streams.append([{"revision": 1}, {"revision": 2}])
    assert list(client.events()) == [{"revision": 1}, {"revision": 2}]


def test_events_that_break_off_are_an_error_in_words(client: AdminClient, played: Played) -> None:
    played.streams.append([{"revision": 1}, Break(b'data: {"revi')])
    events = client.events()
    assert next(events) == {"revision": 1}
    with pytest.raises(Unavailable, match="broke off"):
        next(events)


def test_events_that_are_no_json_are_an_error_in_words(client: AdminClient, played: Played) -> None:
    played.streams.append(["{nonsense"])
    with pytest.raises(ServerUnreachable, match="something else"):
        next(client.events())


def test_refused_events_are_in_the_servers_words(client: AdminClient, played: Played) -> None:
    played.replies[f"GET {WEIGHTS}/events"] = Reply({"error": "model 'm' is not served"}, 404)
    with pytest.raises(ServerRefused, match="'m' is not served"):
        next(client.events())


def test_a_file_that_grows_is_sent_as_long_as_it_was(client: AdminClient, played: Played, file: Path) -> None:
    before = file.read_bytes()

    def grow(count: int) -> None:
        with file.open("ab") as more:
            more.write(b"more")

    client.swap_file(file, SwapOptions(), grow)
    assert played.asked[0].body == before


def test_a_file_that_shrinks_is_an_error_that_names_it(client: AdminClient, file: Path) -> None:
    def empty(count: int) -> None:
        file.write_bytes(b"")

    with pytest.raises(UnreadableWeights, match=r"new.safetensors became \d+ bytes shorter"):
        client.swap_file(file, SwapOptions(), empty)


def test_a_file_that_goes_away_is_an_error_that_names_it(
    client: AdminClient, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", gone)
        with pytest.raises(UnreadableWeights, match=r"new\.safetensors: Permission denied"):
            client.swap_file(file, SwapOptions(), lambda _: None)


def test_a_server_that_refuses_in_the_middle_of_an_upload_is_heard(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(32 * CHUNK_BYTES))
    content = json.dumps({"error": "too large: raise gateway.max_weights_bytes"}).encode()
    head = f"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(head.encode() + content)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(CHUNK_BYTES):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        client = AdminClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "m")
        with pytest.raises(ServerRefused, match=r"max_weights_bytes") as caught:
            client.swap_file(file, SwapOptions(), lambda _: None)
        client._client.close()
        thread.join()
    assert caught.value.http_status == 413


def hang_up(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    connection.recv(10_000)
    connection.close()


def test_a_connection_that_breaks_during_a_swap_says_where_to_look() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        broken = AdminClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "m")
        with pytest.raises(Unavailable, match=r"broke off .*`aoti-serve status`"):
            broken.swap_uri("/w", SwapOptions())
        thread.join()


@pytest.mark.parametrize("url", ["http://", "ftp://a.example:21", "http://a:99999", "https:///models", "http://[::1"])
def test_what_is_no_url_of_a_server_is_said_before_it_is_asked(url: str) -> None:
    ended = CliRunner().invoke(app, ["status", "--url", url])
    assert ended.exit_code == 2
    assert "is no URL of a server" in re.sub(r"[│\s]+", " ", ended.stderr)


def test_https_to_a_plain_port_is_told_of_http(played: Played) -> None:
    with pytest.raises(ServerUnreachable, match="it speaks plain HTTP, and no TLS: write http://"):
        AdminClient(played.url.replace("http:", "https:"), "m").status()


def test_a_foreign_server_is_named_and_its_page_is_not_shown(played: Played) -> None:
    played.replies[f"GET {WEIGHTS}"] = Reply(b"<html><body>hello</body></html>")
    with pytest.raises(ServerUnreachable, match="with a web page: is this an aoti-serve server") as caught:
        AdminClient(played.url, "m").status()
    assert "hello" not in str(caught.value)
