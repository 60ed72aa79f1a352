"""Who answers where: gateways that share a port, TLS, Serve's own proxy, and ports that are taken."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from numpy.typing import NDArray

from tests.e2e.served import PROGRAM, ROOT, TOKEN, Eager, Launched, binary_request, free_port, json_request, logits_of
from tests.e2e.wire import until

CONNECTIONS = 24
MANY = 2000
Images = NDArray[np.float32]


class Front:
    """Three applications on one cluster, and where each of them answers."""

    def __init__(self, folder: Path, digits: Path) -> None:
        self.shared, self.secret, self.proxied = free_port(), free_port(), free_port()
        self.certificate = folder / "cert.pem"
        self.config = folder / "front.yaml"
        _certify(self.certificate, folder / "key.pem")
        tls = {"certificate": str(self.certificate), "key": str(folder / "key.pem")}
        gateways: dict[str, dict[str, Any]] = {
            "shared": {"grpc_port": None, "http_port": self.shared, "replicas": 2},
            "secret": {"grpc_port": None, "http_port": self.secret, "tls": tls},
            "proxied": {"grpc_port": None, "http_port": None},
        }
        applications = [_application(folder, digits, name, gateway) for name, gateway in gateways.items()]
        http = {"host": "127.0.0.1", "port": self.proxied}
        content = {"proxy_location": "HeadOnly", "http_options": http, "applications": applications}
        self.config.write_text(yaml.safe_dump(content))


def _application(folder: Path, digits: Path, name: str, gateway: dict[str, Any]) -> dict[str, Any]:
    model = {
        "name": "digits",
        "package": str(digits / "digits.pt2"),
        "weights": str(digits / "v1.safetensors"),
        "store": str(folder / name),
    }
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "aoti_serve.app:build",
        "args": {"gateway": gateway, "models": [model]},
        "deployments": [{"name": "digits-replica", "ray_actor_options": {"num_cpus": 0.5}}],
    }


def _certify(certificate: Path, key: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command, *names], check=True, capture_output=True)


@pytest.fixture(scope="module")
def front(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, Launched]]:
    made = Front(tmp_path_factory.mktemp("front"), digits_dir)
    launched = Launched([PROGRAM, "up", str(made.config), "--metrics-port", "0"], ROOT, {"COLUMNS": "200"})
    try:
        launched.wait_for("ready")
        yield made, launched
    finally:
        launched.stop()


def ask(url: str, images: Images, **options: Any) -> tuple[int, Images]:
    """Few images as JSON; many as binary data, whose answer is large enough to be written from where it lies."""
    body, headers = json_request(images) if len(images) < MANY else binary_request(images)
    response = httpx.post(f"{url}/v2/models/digits/infer", content=body, headers=headers, trust_env=False, **options)
    assert response.status_code == 200, response.text
    return logits_of(response)


def many(images: Images) -> Images:
    return np.resize(images, (MANY, *images.shape[1:]))


def test_gateways_of_one_application_share_the_port_and_the_load(
    front: tuple[Front, Launched], eager: Eager, images: Images
) -> None:
    made, launched = front
    url = f"http://127.0.0.1:{made.shared}"
    with ExitStack() as open_ones:
        for _ in range(CONNECTIONS):
            client = open_ones.enter_context(httpx.Client(base_url=url, trust_env=False))
            assert client.get("/v2/health/ready").status_code == 200
        shares = [connections(process, made.shared) for process in launched.family()]
        assert sum(share > 0 for share in shares) == 2
        assert sum(shares) == CONNECTIONS
    for _ in range(4):
        np.testing.assert_allclose(ask(url, images[:3])[1], eager.logits("v1", images[:3]), atol=1e-4)


def connections(process: psutil.Process, port: int) -> int:
    """How many clients of this port the process talks to."""
    found = process.net_connections("tcp")
    return sum(entry.status == psutil.CONN_ESTABLISHED and entry.laddr[1] == port for entry in found)


def test_tls_takes_the_certificate_of_the_configuration(
    front: tuple[Front, Launched], eager: Eager, images: Images
) -> None:
    made, _ = front
    trusted = ssl.create_default_context(cafile=str(made.certificate))
    for some in (images[:3], many(images)):
        _, logits = ask(f"https://127.0.0.1:{made.secret}", some, verify=trusted)
        np.testing.assert_allclose(logits, eager.logits("v1", some), atol=1e-4)
    command = [PROGRAM, "status", "--url", f"https://127.0.0.1:{made.secret}", "--json"]
    for trusts, code in ((True, 0), (False, 1)):
        env = os.environ | ({"SSL_CERT_FILE": str(made.certificate)} if trusts else {})
        assert subprocess.run(command, check=False, env=env, capture_output=True).returncode == code


def test_an_application_that_keeps_serves_proxies_answers_through_them(
    front: tuple[Front, Launched], eager: Eager, images: Images
) -> None:
    made, _ = front
    url = f"http://127.0.0.1:{made.proxied}/proxied"
    until(lambda: httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200)
    for some in (images[:3], many(images)):
        np.testing.assert_allclose(ask(url, some)[1], eager.logits("v1", some), atol=1e-4)
    admin = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{url}/v2/models/digits/weights", headers=admin, trust_env=False).json()["epoch"] == 1


def test_a_port_that_another_application_has_is_refused_with_both_ways_out(
    front: tuple[Front, Launched], digits_dir: Path, tmp_path: Path
) -> None:
    made, _ = front
    content = {
        "applications": [_application(tmp_path, digits_dir, "other", {"http_port": made.shared, "grpc_port": None})]
    }
    config = tmp_path / "other.yaml"
    config.write_text(yaml.safe_dump(content))
    done = subprocess.run([PROGRAM, "up", str(config)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(made.shared) in done.stderr
    assert "http_port" in done.stderr
    assert "Traceback" not in done.stderr
