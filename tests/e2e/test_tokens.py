"""One server with files of tokens, which rotate while it serves, over HTTP and gRPC."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e import labour
from tests.e2e.labour import INFER, infer, row
from tests.e2e.served import PROGRAM, TOKEN, Server, free_port, serving
from tests.e2e.wire import until

ADMIN, SECOND, ASKER, NEXT = (f"{name}-token-0123456789" for name in ("admin", "second", "asker", "next"))
PAGE = "https://app.example"
LET_IN, TURNED_AWAY = (200, "OK"), (401, "StatusCode.UNAUTHENTICATED")


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Kubernetes mounts a secret: its files are links into a folder that is exchanged."""
    folder = tmp_path_factory.mktemp("tokens")
    mount(folder, admin=f"ops: {ADMIN}\nci: {SECOND}\n", inference=f"app: {ASKER}\n")
    for name in ("admin", "inference"):
        (folder / name).symlink_to(f"..data/{name}")
    return folder


@pytest.fixture(scope="module")
def served(labour_dir: Path, tmp_path_factory: pytest.TempPathFactory, files: Path, grpc_port: int) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    named = {"admin_tokens": str(files / "admin"), "inference_tokens": str(files / "inference")}
    gateway = named | {"grpc_port": grpc_port, "cors_origins": [PAGE]}
    config = labour.write_config(labour_dir, folder, gateway)
    with labour.at_work(folder), serving(config) as server:
        yield server


@pytest.fixture
def client(served: Server, grpc_port: int) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        yield client


def mount(folder: Path, **contents: str) -> None:
    """Put these files into the folder's place, in one step."""
    number = len(list(folder.glob("..20*")))
    fresh = folder / f"..20{number}"
    fresh.mkdir()
    for name, content in contents.items():
        (fresh / name).write_text(content)
        (fresh / name).chmod(0o440)
    (folder / "..next").symlink_to(fresh.name)
    (folder / "..next").replace(folder / "..data")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def weights_status(served: Server, token: str) -> int:
    return served.http.get("/v2/models/labour/weights", headers=bearer(token)).status_code


def answers(served: Server, client: Any, token: str) -> tuple[int, str]:
    """The statuses over HTTP and gRPC of an inference with this token."""
    inputs = [triton.InferInput("x", [1, 8], "FP32"), triton.InferInput("seconds", [1, 1], "FP32")]
    for given, array in zip(inputs, (row(1.0), np.zeros((1, 1), np.float32)), strict=True):
        given.set_data_from_numpy(array)
    over_http = infer(served, 1.0, headers=bearer(token)).status_code
    try:
        client.infer("labour", inputs, headers=bearer(token))
    except InferenceServerException as error:
        return over_http, str(error.status())
    return over_http, "OK"


def test_who_may_ask_and_who_may_change_weights(served: Server, client: Any) -> None:
    assert served.http.get("/v2/health/ready").status_code == 200
    assert client.is_server_ready()
    assert served.http.get("/v2").status_code == 401
    assert answers(served, client, "") == answers(served, client, "wrong") == TURNED_AWAY
    assert answers(served, client, ASKER) == answers(served, client, ADMIN) == LET_IN
    assert served.http.get("/v2", headers=bearer(ASKER)).status_code == 200
    assert client.get_server_metadata(headers=bearer(ASKER)).name == "aoti-serve"
    assert (weights_status(served, ASKER), weights_status(served, ADMIN)) == (401, 200)


def test_what_up_prints_sends_a_token(served: Server) -> None:
    served.launched.wait_for("curl", 60)
    (line,) = (line for line in served.launched.lines if line.strip().startswith("curl"))
    known = os.environ | {"TOKEN": ASKER}
    ran = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, env=known)
    assert '"model_version"' in ran.stdout, ran.stdout


def test_the_command_line_sends_its_admin_token(served: Server) -> None:
    """`TOKEN`, which all tests have in their environment, is none of this server's."""
    command = [PROGRAM, "status", "--url", served.url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "stands in AOTI_SERVE_ADMIN_TOKEN" in ran.stderr
    assert TOKEN not in ran.stderr
    known = os.environ | {"AOTI_SERVE_ADMIN_TOKEN": ADMIN}
    subprocess.run(command, capture_output=True, text=True, check=True, env=known)


def test_a_page_may_ask(served: Server) -> None:
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert served.http.options(INFER, headers=asks).headers["Access-Control-Allow-Origin"] == PAGE
    response = infer(served, 1.0, headers={"Origin": PAGE} | bearer(ASKER))
    assert response.headers["Access-Control-Allow-Origin"] == PAGE


def test_tokens_rotate_while_it_serves(served: Server, client: Any, files: Path) -> None:
    """In the end the one file is gone, and then empty. A gateway has looked at it when it has taken the other."""

    def rotate(before: str, after: str, **admin: str) -> None:
        mount(files, inference=f"app: {after}\n", **admin)
        until(lambda: answers(served, client, before) == TURNED_AWAY)
        assert answers(served, client, after) == answers(served, client, SECOND) == LET_IN
        assert (weights_status(served, SECOND), weights_status(served, "")) == (200, 401)

    assert weights_status(served, ADMIN) == weights_status(served, SECOND) == 200
    rotate(ASKER, NEXT, admin=f"ci: {SECOND}\n")
    assert weights_status(served, ADMIN) == 401
    rotate(NEXT, ASKER)
    rotate(ASKER, NEXT, admin="")
