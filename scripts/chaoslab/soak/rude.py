"""Clients that send what they should not, send it slowly, or leave before they are answered."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import httpx
import numpy as np

from chaoslab.connections import Cut, GrpcConnection, Refused
from chaoslab.judge import Judge
from chaoslab.model import NAME

PATH = f"/v2/models/{NAME}/infer"
TIMEOUT_S = 30.0
DRIP_S = 0.3
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset


def tensor(**facts: Any) -> dict[str, Any]:
    """A request whose only input is not as it should be."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]} | facts]}


BAD_BODIES: dict[str, bytes] = {
    "no JSON": b'{"inputs": [',
    "no object": b"[1, 2]",
    "no inputs": b"{}",
    "unknown input": json.dumps(tensor(name="y")).encode(),
    "wrong datatype": json.dumps(tensor(datatype="INT64")).encode(),
    "wrong shape": json.dumps(tensor(shape=[1, 7])).encode(),
    "shape and data differ": json.dumps(tensor(data=[1.0, 2.0])).encode(),
    "huge shape": json.dumps(tensor(shape=[2**40, 1])).encode(),
    "negative shape": json.dumps(tensor(shape=[-1, 1])).encode(),
    "words for numbers": json.dumps(tensor(data=["one"])).encode(),
    "deep nesting": b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
}
FIT = json.dumps(tensor()).encode()


class RudeClient:
    """One client, which does one thing after the other. `done` counts them; the judge hears of what was let pass."""

    def __init__(self, judge: Judge, port: int, grpc_port: int, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._judge = judge
        self._port = port
        self._grpc_port = grpc_port
        self._rng = random.Random(seed)
        self._acts: tuple[Callable[[threading.Event], None], ...] = (
            self._bad_body,
            self._bad_body,
            self._bad_tensor_over_grpc,
            self._noise,
            self._slow,
            self._vanishing,
        )

    def insist(self, stop: threading.Event) -> None:
        while not stop.wait(self._rng.uniform(0.0, 0.5)):
            act = self._rng.choice(self._acts)
            with suppress(OSError, httpx.HTTPError):  # gateways come and go meanwhile
                act(stop)
                self.done[act.__name__.strip("_").replace("_", " ")] += 1

    def _bad_body(self, stop: threading.Event) -> None:
        name = self._rng.choice(list(BAD_BODIES))
        url = f"http://127.0.0.1:{self._port}{PATH}"
        response = httpx.post(url, content=BAD_BODIES[name], timeout=TIMEOUT_S, trust_env=False)
        if response.status_code != 503 and not 400 <= response.status_code < 500:
            self._judge.failed(f"bad input ({name}) was answered with {response.status_code}: {response.text[:200]}")

    def _bad_tensor_over_grpc(self, stop: threading.Event) -> None:
        connection = GrpcConnection(self._grpc_port)
        try:
            connection.infer(np.ones((1, 7), np.float32))
        except Refused as refusal:
            if "INVALID_ARGUMENT" not in str(refusal):
                self._judge.failed(f"bad input over gRPC was answered with {refusal}")
        except Cut:
            pass
        else:
            self._judge.failed("a tensor of the wrong shape was answered over gRPC")
        finally:
            connection.close()

    def _noise(self, stop: threading.Event) -> None:
        port = self._rng.choice([self._port, self._grpc_port])
        with closing(_connected(port)) as stream:
            stream.sendall(self._rng.randbytes(self._rng.randint(1, 4096)))
            stream.shutdown(socket.SHUT_WR)
            stream.recv(4096)

    def _slow(self, stop: threading.Event) -> None:
        """A request that comes a byte at a time, and is given up in its middle."""
        with closing(_connected(self._port)) as stream:
            for byte in _request()[: self._rng.randint(2, 30)]:
                stream.sendall(bytes([byte]))
                if stop.wait(DRIP_S):
                    return

    def _vanishing(self, stop: threading.Event) -> None:
        """A request of which a part, or all, is sent; then the connection is reset."""
        request = _request()
        with closing(_connected(self._port)) as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            stream.sendall(request[: self._rng.choice([len(request), self._rng.randint(1, len(request))])])


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def _request() -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(FIT)}\r\n\r\n".encode() + FIT
