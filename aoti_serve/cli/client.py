"""The server's HTTP interface as the commands use it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from aoti_serve.errors import AdminClosed, ServerRefused, ServerUnreachable
from aoti_serve.token import read_token

DEFAULT_URL = "http://127.0.0.1:8000"
CHUNK_BYTES = 2**20

Url = Annotated[str, typer.Option(envvar="AOTI_SERVE_URL", help="Where the server answers.")]


class AdminClient:
    """The weights API of one model. Raises ServerUnreachable, ServerRefused (the server's own words) or AdminClosed."""

    def __init__(self, url: str, model: str) -> None:
        token = read_token()
        if token is None:
            raise AdminClosed()
        self._url = url
        self._weights = f"{url.rstrip('/')}/v2/models/{model}/weights"
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(10.0, read=None, write=None),
            trust_env=False,
        )

    def status(self) -> Any:
        return self._send("GET", "")

    def versions(self) -> Any:
        return self._send("GET", "/versions")

    def rollback(self, version: int | None) -> Any:
        return self._send("POST", "/rollback", json={} if version is None else {"version": version})

    def swap(self, file: Path, label: str, sha256: str | None, sent: Callable[[int], None]) -> Any:
        """Upload `file`, then wait for the swap; `sent` hears of the bytes."""
        params = {"label": label} | ({"sha256": sha256} if sha256 else {})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        return self._send("POST", "", params=params, headers=headers, content=_pieces(file, sent))

    def events(self) -> Iterator[Any]:
        """The status, now and at every change, until the caller stops."""
        with self._client.stream("GET", f"{self._weights}/events") as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def close(self) -> None:
        self._client.close()

    def _send(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._client.request(method, self._weights + path, **request)
        except httpx.TransportError as error:
            raise ServerUnreachable(url=self._url, detail=str(error) or type(error).__name__) from error
        return answer_of(response)


def answer_of(response: httpx.Response) -> Any:
    """The JSON of a good answer; raises ServerRefused with the server's own text for any other."""
    if response.is_success:
        return response.json()
    try:
        detail = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        detail = f"{response.status_code} {response.text[:500]}"
    raise ServerRefused(status=response.status_code, detail=detail)


def model_names(url: str) -> list[str]:
    """The models that are served there."""
    try:
        response = httpx.get(f"{url.rstrip('/')}/v2/models", timeout=10, trust_env=False)
    except httpx.TransportError as error:
        raise ServerUnreachable(url=url, detail=str(error) or type(error).__name__) from error
    return [str(name) for name in answer_of(response)["models"]]


def _pieces(file: Path, sent: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as source:
        while piece := source.read(CHUNK_BYTES):
            yield piece
            sent(len(piece))
