"""A real server in processes of its own, and a client of its HTTP interface."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psutil
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from aoti_serve.demo import digits

ROOT = Path(__file__).parent.parent.parent
TOKEN = "the-token-of-the-tests"
PROGRAM = str(Path(sys.executable).parent / "aoti-serve")
START_S = 240
LAST_LINE = "Ctrl-C takes it down again."  # of what `up` prints when it is ready


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(pids: set[int] | None = None) -> set[int]:
    """The ports that these processes, or any, listen on."""
    found = [entry for entry in psutil.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
    return {int(getattr(entry.laddr, "port", 0)) for entry in found if pids is None or entry.pid in pids}


def write_config(folder: Path, digits: Path, *others: dict[str, Any], **model: Any) -> Path:
    """A configuration for the digits package, with a store of its own, without gRPC; `others` take no core of Ray's."""
    entry = {
        "name": "digits",
        "package": str(digits / "digits.pt2"),
        "weights": str(digits / "v1.safetensors"),
        "store": str(folder / "versions"),
        "replicas": 2,
    } | model
    application = {"name": "default", "route_prefix": "/", "import_path": "aoti_serve.app:build"}
    args = {"models": [entry, *others], "gateway": {"grpc_port": None}}
    rest = [{"name": f"{other['name']}-replica", "ray_actor_options": {"num_cpus": 0}} for other in others]
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({"applications": [application | {"args": args, "deployments": rest}]}))
    return path


class Launched:
    """A command that serves; its output lines, and every process that it has started."""

    def __init__(self, command: Sequence[str], cwd: Path, env: dict[str, str], **options: Any) -> None:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=cwd, env=os.environ | env, **pipes, **options)
        self.lines: list[str] = []
        self._new = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str, timeout: float = START_S) -> None:
        """Until a line holds `text`; fails with the output if it never does."""
        with self._new:
            found = self._new.wait_for(lambda: any(text in line for line in self.lines) or self._ended(), timeout)
        assert found, f"no {text!r} in {timeout} s:\n{self.output}"
        assert any(text in line for line in self.lines), f"ended without {text!r}:\n{self.output}"

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def listening(self) -> set[int]:
        """The ports that its processes listen on."""
        return listening({process.pid for process in self.family()})

    def assert_leaves_nothing(self, send: Callable[[], object], status: int = 0, timeout: float = 60) -> None:
        """`send` a signal. The command ends with this status; no process of it is left, so no port either."""
        family = self.family()
        send()
        assert self.process.wait(timeout) == status, self.output
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert "Traceback" not in self.output

    def stop(self, number: int = signal.SIGTERM, patience: float = 60) -> int:
        """Send the signal and wait for so many seconds; the exit status. Kills whatever it leaves behind."""
        family = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(patience)
        finally:
            for process in family:
                if process.is_running():
                    process.kill()
            self.process.wait()
            self._reader.join()

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._new:
                self.lines.append(line)
                self._new.notify_all()
        with self._new:
            self._new.notify_all()


class Server:
    """The HTTP interface of a running server."""

    def __init__(self, launched: Launched, port: int, store: Path = Path(), metrics_port: int = 0) -> None:
        self.launched = launched
        self.store = store
        self.port = port
        self.metrics_port = metrics_port
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.admin = {"Authorization": f"Bearer {TOKEN}"}

    def infer(self, images: NDArray[np.float32], *, binary: bool = False) -> tuple[int, NDArray[np.float32]]:
        """The version that answered and its logits."""
        response = self.post_infer(*(binary_request(images) if binary else json_request(images)))
        assert response.status_code == 200, response.text
        return logits_of(response)

    def post_infer(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.http.post("/v2/models/digits/infer", content=body, headers=headers)

    def swap(self, content: bytes, **params: Any) -> httpx.Response:
        """As a trainer does, whose files are never the same twice."""
        headers = self.admin | {"Content-Type": "application/octet-stream"}
        return self.http.post("/v2/models/digits/weights", content=_unlike(content), headers=headers, params=params)

    def swap_uri(self, uri: str, **options: Any) -> httpx.Response:
        body = {"uri": uri} | options
        return self.http.post("/v2/models/digits/weights", json=body, headers=self.admin)

    def rollback(self, **body: int) -> httpx.Response:
        return self.http.post("/v2/models/digits/weights/rollback", json=body, headers=self.admin)

    def status(self) -> Any:
        return self.http.get("/v2/models/digits/weights", headers=self.admin).json()

    def events(self) -> Iterator[Any]:
        """The status, now and at every change."""
        with self.http.stream("GET", "/v2/models/digits/weights/events", headers=self.admin) as events:
            for line in events.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))


def _unlike(content: bytes) -> bytes:
    """The same tensors in other bytes; what has no header stays as it is."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        return content
    header["__metadata__"] = {"made": uuid4().hex}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


@contextmanager
def serving(config: Path, *options: str, wait: bool = True, **process: Any) -> Iterator[Server]:
    """`aoti-serve up` on a free port; ready, unless `wait` is false; taken down at the end.

    `process` goes to subprocess.Popen.
    """
    port, metrics_port = free_port(), free_port()
    command = [PROGRAM, "up", str(config), "--port", str(port), "--metrics-port", str(metrics_port), *options]
    launched = Launched(command, ROOT, {"COLUMNS": "200"}, **process)
    try:
        if wait:
            launched.wait_for("It stays up" if "--address" in options else LAST_LINE)
        server = Server(launched, port, config.parent / "versions", metrics_port)
        with server.http:
            yield server
    finally:
        launched.stop()


def json_request(images: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode(), {}


def binary_request(images: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": images.nbytes}
    tensor = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "parameters": size}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + images.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


def logits_of(response: httpx.Response) -> tuple[int, NDArray[np.float32]]:
    """The version that answered and its first output."""
    split = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    message = json.loads(response.content[:split])
    output = message["outputs"][0]
    flat = output["data"] if "data" in output else np.frombuffer(response.content[split:], np.float32)
    return int(message["model_version"]), np.asarray(flat, np.float32).reshape(output["shape"])


class Eager:
    """The eager PyTorch model under each file's weights."""

    def __init__(self, folder: Path) -> None:
        self.files = {name: (folder / f"{name}.safetensors").read_bytes() for name in ("v1", "v2")}
        self._nets = {name: self._net(folder / f"{name}.safetensors") for name in self.files}

    def logits(self, name: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = self._nets[name](torch.from_numpy(images))["logits"].numpy()
        return found

    @staticmethod
    def _net(path: Path) -> torch.nn.Module:
        net = digits.DigitsNet().eval()
        net.load_state_dict(load_file(path), strict=False)
        return net
