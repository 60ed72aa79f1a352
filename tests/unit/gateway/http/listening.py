"""A whole gateway in a thread of this process: listener, application, data plane, link. Its clients use the network."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import numpy as np

from aoti_serve.config import BatchingConfig, GatewayConfig
from tests.unit.gateway.http.gateway import INFER, SIGNATURE, Gateway, echoed, running
from tests.unit.gateway.listener.wired import PATIENCE_S, Wired, loop_in_a_thread

HEAD = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
GOOD = HEAD + np.ones(2, np.float32).tobytes()
FIELDS = {"Inference-Header-Content-Length": str(len(HEAD))}


class Client:
    """One client, who keeps its connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.url = "http://{}:{}".format(*address)
        self._connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body. A connection that the gateway has ended is opened again."""
        for _ in range(2):
            try:
                self._connection.request("POST", path, body, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except ConnectionError:
                self._connection.close()
            except TimeoutError:
                self._connection.close()
                break
        raise AssertionError(f"no answer to {body!r} with {headers}")

    def assert_good(self) -> None:
        """The gateway answers a good request."""
        status, body = self.post(INFER, GOOD, FIELDS)
        assert (status, b'"data":[1.0,1.0]' in body) == (200, True), body

    def close(self) -> None:
        self._connection.close()


@contextmanager
def listening() -> Iterator[tuple[Gateway, Client]]:
    """A gateway whose model gives back what it takes."""
    with loop_in_a_thread() as loop:
        stack = AsyncExitStack()
        gateway = loop.run(stack.enter_async_context(running(GatewayConfig(), BatchingConfig(), SIGNATURE, echoed)))
        wired = Wired(loop, gateway.app)
        client = Client(wired.address)
        client.assert_good()
        try:
            yield gateway, client
        finally:
            client.close()
            wired.close()
            loop.run(stack.aclose())
