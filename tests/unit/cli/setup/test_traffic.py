"""`aoti-serve demo traffic` against a tiny server: scripts hear by its exit status whether all went well."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import numpy as np
import pytest
from typer.testing import CliRunner

from aoti_serve.cli import app

HEAD = json.dumps({"model_version": "1"}).encode()
ANSWER = HEAD + np.zeros(10, np.float32).tobytes()


@contextmanager
def answering(fails_every: int) -> Iterator[str]:
    """The URL of a server that refuses each request of so many; 0: none."""
    numbers = count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            fails = fails_every and next(numbers) % fails_every == 0
            self.send_response(503 if fails else 200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.send_header("Inference-Header-Content-Length", str(len(HEAD)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("fails_every", "status"), [(0, 0), (3, 1), (1, 1)])
def test_errors_are_told_by_the_exit_status(fails_every: int, status: int) -> None:
    with answering(fails_every) as url:
        result = CliRunner().invoke(app, ["demo", "traffic", "--url", url, "--seconds", "1", "--connections", "1"])
    assert result.exit_code == status, result.output
    assert (", 0 errors" in result.stdout) == (status == 0)
