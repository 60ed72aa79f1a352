"""Whether a server answers what eager PyTorch computes. Nothing is measured before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import torch
from models import Mlp

from httpbench.bodies import Protocol, Rows, answered, request, rows_of, unframed
from httpbench.contenders import Endpoint
from httpbench.servers import Failed

ROWS, TOLERANCE = 64, 1e-5


class Verifier:
    """Knows what `module` answers, in this process."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def expected(self, rows: Rows, *, echoes: bool) -> Rows:
        if echoes:
            return rows
        with torch.inference_mode():
            answer: Rows = self.module(torch.from_numpy(rows)).numpy()
        return answer

    def check(self, url: str, endpoint: Endpoint, rows: int) -> None:
        """64 rows in requests of so many each, many at once; or one request of more. Raises Failed."""
        sent = rows_of(max(rows, ROWS))
        parts = np.split(sent, len(sent) // rows)
        at_once = min(ROWS, max(load.connections for load in endpoint.loads))  # more than is measured might be refused
        with httpx.Client(trust_env=False, timeout=60) as client, ThreadPoolExecutor(at_once) as pool:
            asked = [pool.submit(_ask, client, endpoint.url(url), endpoint.protocol, part) for part in parts]
            got = np.concatenate([future.result() for future in asked])
        wanted = self.expected(sent, echoes=endpoint.echoes)
        if got.shape != wanted.shape or not np.allclose(got, wanted, atol=TOLERANCE):
            raise Failed(f"wrong answers to {rows} rows per request")


def answers(url: str, endpoints: tuple[Endpoint, ...]) -> bool:
    """All of a server's endpoints are up."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        return all(_answers(client, endpoint.url(url), endpoint.protocol) for endpoint in endpoints)


def _answers(client: httpx.Client, url: str, protocol: Protocol) -> bool:
    try:
        return len(_ask(client, url, protocol, rows_of(1))) == 1
    except (httpx.TransportError, Failed):
        return False


def _ask(client: httpx.Client, url: str, protocol: Protocol, rows: Rows) -> Rows:
    if protocol == "grpc":
        return _ask_grpc(url, rows)
    headers, body, _ = request(protocol, rows)
    response = client.post(url, headers=headers, content=body)
    if response.status_code != 200:
        raise Failed(f"{response.status_code} to {len(rows)} rows: {response.text[:200]}")
    return answered(protocol, response.headers, response.content)


def _ask_grpc(url: str, rows: Rows) -> Rows:
    where = urlsplit(url)
    with grpc.insecure_channel(where.netloc, [("grpc.max_receive_message_length", -1)]) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(where.path)
        try:
            return answered("grpc", {}, call(unframed(request("grpc", rows)), timeout=60))
        except grpc.RpcError as error:
            raise Failed(f"gRPC to {len(rows)} rows: {error}") from None


def eager(width: int = 1024, depth: int = 4) -> Mlp:
    """The module whose weights everybody serves."""
    torch.manual_seed(0)
    return Mlp(width, depth).eval()
