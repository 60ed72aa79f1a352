"""Read a file of weights in pieces of bytes: from this host, from an HTTP server, or through fsspec.

In all functions `uri` is the name that errors show. `expect` is called with the size in bytes before the first piece,
if the source tells it, and raises if that is too much. Any failure of the source becomes UnreadableWeights, without the
URI's password or signature.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import HTTPRedirectHandler, Request, build_opener

from upath import UPath

from aoti_serve.errors import SourceRefused, UnreadableWeights, quantity
from aoti_serve.weights.sources.uri import UriLocation, reading_from, shown_uri

FETCH_CHUNK_BYTES = 4 * 2**20
SILENCE_S = 30.0

Expect = Callable[[int], None]


def local_chunks(path: Path, uri: str, allowed: Callable[[str], bool], expect: Expect) -> Iterator[bytes]:
    """Yield the bytes of a file on this host.

    `allowed` gets the real path of the file that was opened, after all links; SourceRefused is raised if it says no.
    """
    try:
        with _opened(path, uri, allowed) as descriptor, open(f"/proc/self/fd/{descriptor}", "rb") as file:
            expect(os.fstat(descriptor).st_size)
            while piece := file.read(FETCH_CHUNK_BYTES):
                yield piece
    except OSError as error:
        raise UnreadableWeights(detail=f"no file at {uri}: {error.strerror}") from error


def web_chunks(place: UriLocation, uri: str, expect: Expect) -> Iterator[bytes]:
    """Yield the bytes of an HTTP answer. Redirects are not followed: no configuration has allowed where they lead."""
    headers = {"Accept-Encoding": "identity"}
    if place.login:
        login = base64.b64encode(unquote(place.login).encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    with reading_from(uri), _answer(Request(place.address, headers=headers)) as answer:
        size = answer.length
        if size is not None:
            expect(size)
        while piece := answer.read1(FETCH_CHUNK_BYTES):
            yield piece
        if answer.length:
            raise HTTPException(f"the connection ended {quantity(answer.length, 'bytes')} early")


def fetch(place: UriLocation, uri: str, expect: Expect) -> Iterator[bytes]:
    """Yield the bytes of a file that fsspec opens: in S3, for example."""
    with reading_from(uri):
        files = UPath(place.address).fs
        files.invalidate_cache()
        expect(int(files.info(place.address)["size"] or 0))
        with files.open(place.address, "rb", block_size=FETCH_CHUNK_BYTES, cache_type="readahead") as file:
            while piece := file.read(FETCH_CHUNK_BYTES):
                yield piece


@contextmanager
def _opened(path: Path, uri: str, allowed: Callable[[str], bool]) -> Iterator[int]:
    """Open with O_PATH, which opens any kind of file and has no effect on it, and check the file before it is read."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not allowed(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise SourceRefused(uri=uri, reason="a link in its path has changed, and leads out of the weights_roots")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableWeights(detail=f"no file at {uri}")
        yield descriptor
    finally:
        os.close(descriptor)


class _Straight(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer is an error then."""


@contextmanager
def _answer(request: Request) -> Iterator[HTTPResponse]:
    try:
        answer: HTTPResponse = build_opener(_Straight).open(request, timeout=SILENCE_S)
    except HTTPError as error:
        error.close()
        where = error.headers.get("Location")
        what = f", a redirect to {shown_uri(where)}, which is not followed" if where else ""
        raise HTTPException(f"HTTP {error.code} {error.reason}{what}") from None
    with answer:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise HTTPException("it is compressed")
        yield answer
