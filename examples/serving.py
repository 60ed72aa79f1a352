"""What every example begins with: packages that are compiled, a server that answers, and a way to ask it.

The server is `aoti-serve up examples/NAME/NAME.yaml`. Where AOTI_SERVE_URL is set, one that runs is asked instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

DATATYPES = {"float32": "FP32", "int64": "INT64"}
DTYPES: dict[str, Any] = {"FP32": np.float32, "INT64": np.int64}


class Answer(NamedTuple):
    """The weights version that computed it, and the outputs by name."""

    version: int
    outputs: dict[str, NDArray[Any]]


@contextmanager
def serving(name: str, make: Callable[[Path], object]) -> Iterator[httpx.Client]:
    """A client of a server of this example. `make` compiles its packages into var/examples/NAME, once.

    Inside, this process can join the server's Ray cluster. Import Ray inside, too: it reads then how to join.
    """
    folder = Path("var/examples") / name
    if url := os.environ.get("AOTI_SERVE_URL"):
        with client_of(url) as client:
            yield client
        return
    if not folder.exists():
        print(f"compiling into {folder}", flush=True)
        unfinished = folder.with_name(f"{name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        make(unfinished)
        unfinished.rename(folder)
    for versions in folder.glob("*versions"):  # each run begins with version 1
        shutil.rmtree(versions)
    with _up(f"examples/{name}/{name}.yaml") as facts:
        os.environ["RAY_ADDRESS"] = facts["ray_address"]
        if facts["ray_asks_for_token"]:
            os.environ["RAY_AUTH_MODE"] = "token"
        with client_of(facts["url"]) as client:
            yield client


@contextmanager
def _up(config: str) -> Iterator[Any]:
    """What `aoti-serve up --json` says once it is ready; it is ended at the end."""
    command = [str(Path(sys.executable).parent / "aoti-serve"), "up", config, "--metrics-port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines: list[str] = []
        for line in server.stdout:
            lines.append(line)
            if line == "}\n":
                break
        else:
            sys.exit("the server has not started")
        try:
            yield json.loads("".join(lines))
        finally:
            _leave_cluster()
            server.terminate()


def _leave_cluster() -> None:
    """Ray ends a process whose cluster goes."""
    import ray

    ray.shutdown()


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, trust_env=False)


def ask(client: httpx.Client, model: str, key: str = "", **inputs: NDArray[Any]) -> Answer:
    """One request, with binary tensors both ways. `key` says who asks, for canaries. Raises httpx.HTTPStatusError."""
    tensors = [
        {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    header = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))} | ({"X-Routing-Key": key} if key else {})
    body = header + b"".join(array.tobytes() for array in inputs.values())
    return _answer(client.post(f"/v2/models/{model}/infer", content=body, headers=headers).raise_for_status())


def _answer(response: httpx.Response) -> Answer:
    place = int(response.headers["Inference-Header-Content-Length"])
    message = json.loads(response.content[:place])
    outputs = {}
    for tensor in message["outputs"]:
        nbytes = tensor["parameters"]["binary_data_size"]
        flat = np.frombuffer(response.content[place : place + nbytes], DTYPES[tensor["datatype"]])
        outputs[tensor["name"]] = flat.reshape(tensor["shape"])
        place += nbytes
    return Answer(int(message["model_version"]), outputs)
