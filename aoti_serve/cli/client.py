"""The client of the server's HTTP interface that the commands use."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import httpx
import typer

from aoti_serve.cli.answers import answer_json, safe
from aoti_serve.cli.console import progress_out
from aoti_serve.errors import CertificateNotTrusted, NoAdminToken, ServerUnreachable, TryAgain
from aoti_serve.launcher.processes.ports import is_loopback
from aoti_serve.token import TOKEN_VARIABLE, read_token, token_path
from aoti_serve.weights.files.checkpoint import open_checkpoint
from aoti_serve.weights.labels import LabelChange
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions

DEFAULT_URL = "http://127.0.0.1:8000"
CHUNK_BYTES = 2**20
OCTETS = {"Content-Type": "application/octet-stream"}
CONNECT_S = 10.0
REQUEST_TIMEOUT_S = 30.0  # for answers that come at once; the event stream sends something every two seconds


def _with_scheme(url: str) -> str:
    whole = url if "://" in url else f"http://{url}"
    with suppress(ValueError):
        parts = urlsplit(whole)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return whole
    raise typer.BadParameter(f"'{safe(url)}' is no URL of a server: write http://HOST:PORT, or https://HOST:PORT")


URL_VARIABLE = "AOTI_SERVE_URL"
Url = Annotated[str, typer.Option(envvar=URL_VARIABLE, callback=_with_scheme, help="Where the server answers.")]


class AdminClient:
    """Client of the weights API of one model. Returns the server's JSON unchanged.

    Raises ServerUnreachable, ServerRefused (with the server's own text), NoAdminToken, or Unavailable if a connection
    breaks.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url = url
        self.model = model
        self._base = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}"
        self._weights = f"{self._base}/weights"
        self._client = httpx.Client(
            headers=_authorization(url),
            timeout=httpx.Timeout(CONNECT_S, read=REQUEST_TIMEOUT_S),
            trust_env=False,
            verify=_trusted(),
        )

    def status(self) -> Any:
        return self._send("GET", "")

    def figures(self) -> Any:
        """What the model does now."""
        with _words_for_failures(self.url):
            return answer_json(self._client.get(f"{self._base}/figures"))

    def versions(self) -> Any:
        return self._send("GET", "/versions")

    def story(self) -> Any:
        return self._send("GET", "/story")

    def labels(self) -> Any:
        return self._send("GET", "/labels")

    def relabel(self, change: LabelChange) -> Any:
        """Move a label that can be moved, or delete it; all labels afterwards."""
        path, asked = f"/labels/{change.name}", change.model_dump(exclude={"name"}, exclude_defaults=True)
        if change.version is None:
            expected = "none" if change.expected is None else change.expected
            return self._send("DELETE", path, params={"expected": expected})
        return self._send("PUT", path, json=asked)

    def rollback(self, version: int | None, *, wait: bool = True) -> Any:
        """Swap back to a stored version; the previous one if `version` is None."""
        return self._change("/rollback", wait, json={} if version is None else {"version": version})

    def expose(self, options: ExposureOptions) -> Any:
        """Let the candidate meet other shares of the requests."""
        return self._change("/candidate", wait=True, json=options.model_dump(exclude_none=True))

    def promote(self, *, wait: bool = True) -> Any:
        """Let the candidate answer."""
        return self._change("/promote", wait)

    def withdraw(self, *, wait: bool = True) -> Any:
        """Free the candidate everywhere."""
        return self._change("/withdraw", wait)

    def offer_golden(self, golden: bytes) -> Any:
        """Send a file of golden requests, which a swap then names by its sha256."""
        return self._change("/golden", True, headers=OCTETS, content=golden)

    def offer_asset(self, asset: bytes) -> Any:
        """Send a file that the processor reads, which a swap then names by its sha256."""
        return self._change("/assets", True, headers=OCTETS, content=asset)

    def swap_file(self, file: Path, options: SwapOptions, sent: Callable[[int], None], *, wait: bool = True) -> Any:
        """Upload `file`, or the shards that it is the index of, as one file; then wait for the swap.

        `sent` is called with the size of each chunk when it leaves.
        """
        found = open_checkpoint(file)
        headers = OCTETS | {"Content-Length": str(found.nbytes)}
        params = {
            name: json.dumps(asked) if isinstance(asked, dict | tuple) else asked
            for name, asked in _asked(options).items()
        }
        return self._change("", wait, params=params, headers=headers, content=_counted(found.pieces(CHUNK_BYTES), sent))

    def swap_uri(self, uri: str, options: SwapOptions, *, wait: bool = True) -> Any:
        """Swap to a file that the server reads by itself."""
        return self._change("", wait, json={"uri": uri, **_asked(options)})

    def events(self) -> Iterator[Any]:
        """The status now and after every change, until the stream ends."""
        with _words_for_failures(self.url), self._client.stream("GET", f"{self._weights}/events") as response:
            if not response.is_success:
                response.read()
                answer_json(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def _change(self, path: str, wait: bool, params: dict[str, Any] | None = None, **request: Any) -> Any:
        """Send a change, and wait for it to end, however long that takes."""
        asked = (params or {}) | ({} if wait else {"wait": False})
        timeout = httpx.Timeout(CONNECT_S, read=None, write=None)
        return self._send("POST", path, params=asked, timeout=timeout, **request)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        with _words_for_failures(self.url):
            return answer_json(self._client.request(method, self._weights + path, **request))


def served_models(url: str) -> list[str]:
    """The names of the models that the server serves. Raises what `AdminClient` does."""
    headers = _authorization(url)
    with _words_for_failures(url):
        asked = f"{url.rstrip('/')}/v2/models"
        answer = answer_json(httpx.get(asked, headers=headers, timeout=CONNECT_S, trust_env=False, verify=_trusted()))
        if not isinstance(answer, dict) or not isinstance(answer.get("models"), list):
            raise ValueError("no list of models")
    return [str(name) for name in answer["models"]]


def _trusted() -> ssl.SSLContext:
    """The system's authorities, or those of SSL_CERT_FILE; httpx by itself has a list of its own."""
    return ssl.create_default_context()


def _authorization(url: str) -> dict[str, str]:
    """The header with the admin token. Raises NoAdminToken."""
    token = read_token()
    if token is None:
        raise NoAdminToken(url=url, path=token_path(), variable=TOKEN_VARIABLE)
    with _words_for_failures(url):
        _warn_if_readable(url)
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def _words_for_failures(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        if (distrust := _DISTRUST.search(str(error))) is not None:
            raise CertificateNotTrusted(url=url, detail=safe(distrust[1])) from error
        detail = f"{_why(error)}; start one with `aoti-serve up`, or name another with --url"
        raise ServerUnreachable(url=url, detail=detail) from error
    except httpx.HTTPError as error:
        detail = f"the connection to {url} broke off ({_why(error)}); see what stands with `aoti-serve status`"
        raise TryAgain(detail=detail) from error
    except ValueError as error:
        raise ServerUnreachable(url=url, detail=f"what answers there is something else ({_why(error)})") from error


@cache  # once per server, for all its models
def _warn_if_readable(url: str) -> None:
    """Warn if the admin token, which each request carries, would cross a network in plain text."""
    parts = httpx.URL(url)
    if parts.scheme == "http" and not is_loopback(parts.host):
        progress_out.print(
            f"warning: the admin token goes to {parts.host} in plain text, which every machine in between can read; "
            "use https (`gateway.tls`), or a tunnel"
        )


# What OpenSSL says of a certificate, without its number and the place in its code.
_DISTRUST = re.compile(r"certificate verify failed: (.+?)(?: \(_ssl\.c:\d+\))?$")
_FAILURES = {
    "WRONG_VERSION_NUMBER": "it speaks plain HTTP, and no TLS: write http://",
    "Name or service not known": "no machine of this name is known: write http://HOST:PORT",
    "Temporary failure in name resolution": "no machine of this name is known: write http://HOST:PORT",
}


def _why(error: Exception) -> str:
    said = safe(str(error)) or type(error).__name__
    return next((words for sign, words in _FAILURES.items() if sign in said), said)


def _asked(options: SwapOptions) -> dict[str, Any]:
    """The options that differ from their defaults. The server has the same defaults."""
    return options.model_dump(exclude_defaults=True)


def _counted(pieces: Iterator[bytes], sent: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        sent(len(piece))  # the server may begin as soon as it has the last one
        yield piece
