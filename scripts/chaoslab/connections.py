"""One client's connection, over HTTP or gRPC, and what may become of a request on it."""

from __future__ import annotations

import http.client
import json
import select
from typing import Any, Protocol

import grpc
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from chaoslab.model import NAME

TIMEOUT_S = 60.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # else all channels to one port share a connection
NO_ANSWER = {str(code) for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)}
Answered = tuple[int, NDArray[np.float32]]  # the version, and y


class Cut(Exception):
    """No answer: the connection broke."""


class Refused(Exception):
    """A gateway has answered with an error."""


class Leaving(Exception):
    """A gateway that is about to go has taken no new request: another one will."""


class Asks(Protocol):
    """What both kinds of connections do. `infer` raises Cut, Refused or Leaving."""

    def infer(self, x: NDArray[np.float32]) -> Answered: ...

    def close(self) -> None: ...


class Connection:
    """One keep-alive connection; asks in V2 with binary tensors.

    `key` is that of the client, who meets one version while a candidate's share stands; `version` is asked for by name.
    """

    def __init__(self, port: int, key: str = "", version: str = "") -> None:
        self._key = {"X-Routing-Key": key} if key else {}
        self._path = f"/v2/models/{NAME}{f'/versions/{version}' * bool(version)}/infer"
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def infer(self, x: NDArray[np.float32]) -> Answered:
        """The version that answered, and y; raises Cut, Refused or Leaving.

        A connection that the server has closed while it was idle is opened anew, as every client has to.
        """
        if self._http.sock is not None and select.select([self._http.sock], [], [], 0)[0]:
            self.close()
        try:
            body, headers = _request(x)
            self._http.request("POST", self._path, body, headers | self._key)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Cut(repr(error)) from error
        if response.status != 200:
            leaving = response.status == 503 and response.headers["Connection"] == "close"
            kind = Leaving if leaving else Refused
            raise kind(f"{response.status} {content[:300].decode(errors='replace')}")
        split = int(response.headers["Inference-Header-Content-Length"])
        message: Any = json.loads(content[:split])
        y = np.frombuffer(content[split:], np.float32).reshape(message["outputs"][0]["shape"])
        return int(message["model_version"]), y

    def close(self) -> None:
        self._http.close()


class GrpcConnection:
    """The same with Triton's own client, on a channel of its own, which `infer` opens anew after `close`."""

    def __init__(self, port: int, key: str = "") -> None:
        self._url = f"127.0.0.1:{port}"
        self._headers = {"x-routing-key": key}
        self._client: triton.InferenceServerClient | None = None

    def infer(self, x: NDArray[np.float32]) -> Answered:
        """The version that answered, and y; raises Cut or Refused."""
        self._client = self._client or triton.InferenceServerClient(self._url, channel_args=OWN_CONNECTION)
        tensor = triton.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        try:
            result = self._client.infer(NAME, [tensor], headers=self._headers, client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            raise (Cut if error.status() in NO_ANSWER else Refused)(f"{error.status()} {error.message()}") from error
        return int(result.get_response().model_version), result.as_numpy("y")

    def close(self) -> None:
        if self._client:
            self._client.close()
        self._client = None


def _request(x: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    return header + x.tobytes(), headers
