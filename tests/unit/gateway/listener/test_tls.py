"""TLS by certificate and key."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from pathlib import Path

import pytest

from aoti_serve.config import Tls
from aoti_serve.errors import BadCertificate
from aoti_serve.gateway.listener.server import tls_context
from tests.unit.gateway.listener.wired import LARGE, echo, refuse, wired


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return made(tmp_path_factory.mktemp("tls"))


def made(folder: Path) -> Tls:
    """A certificate that signs itself."""
    files = Tls(certificate=folder / "cert.pem", key=folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    out = ["-keyout", str(files.key), "-out", str(files.certificate)]
    subprocess.run([*command, *names, *out], check=True, capture_output=True)
    return files


def client_of(address: tuple[str, int], tls: Tls) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=tls.certificate)
    return http.client.HTTPSConnection(*address, timeout=20, context=context)


def test_requests_are_answered_over_tls(tls: Tls) -> None:
    with wired(echo, tls=tls) as served:
        client = client_of(served.address, tls)
        for _ in range(2):
            client.request("POST", "/", b"hello")
            assert client.getresponse().read() == b"hello"
        client.close()


def test_a_large_body_that_nobody_wants_is_answered(tls: Tls) -> None:
    with wired(refuse, tls=tls) as served:
        client = client_of(served.address, tls)
        client.request("POST", "/", LARGE)
        assert client.getresponse().status == 503
        client.close()


def test_a_handshake_that_does_not_come_ends(tls: Tls) -> None:
    with wired(echo, tls=tls, header_timeout_s=0.1) as served, served.connect() as client:
        assert client.recv(1) == b""


def test_one_that_speaks_no_tls_does_no_harm(tls: Tls) -> None:
    with wired(echo, tls=tls) as served, served.connect() as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert plain.recv(2**16).startswith((b"\x15", b""))
        client = client_of(served.address, tls)
        client.request("POST", "/", b"hello")
        assert client.getresponse().read() == b"hello"
        client.close()


@pytest.mark.parametrize(
    ("certificate", "key"),
    [("no.pem", "key.pem"), ("cert.pem", "no.pem"), ("key.pem", "key.pem"), ("cert.pem", "other.pem")],
)
def test_files_that_do_not_do_are_named(tls: Tls, tmp_path: Path, certificate: str, key: str) -> None:
    folder = tls.key.parent
    (folder / "other.pem").write_bytes(made(tmp_path).key.read_bytes())
    with pytest.raises(BadCertificate, match=key):
        tls_context(Tls(certificate=folder / certificate, key=folder / key), "http/1.1")
