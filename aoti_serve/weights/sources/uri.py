"""URIs of weights: parsed, compared, and made safe to show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from aoti_serve.errors import AotiServeError, SourceRefused, UnreadableWeights

PORTS = {"http": 80, "https": 443}
# One parser drops these and another does not: they would see two addresses.
DECEPTIVE = re.compile(r"[\x00-\x20\x7f\\]|[^\x00-\x7f]")
HIDDEN = re.compile(r"[\x00-\x1f\x7f/\\]")


class UriLocation(NamedTuple):
    """The normalised parts of a remote URI: two URIs of one place are equal, whatever their spelling.

    `address` is what may be asked for, so that nobody else has to understand the original; on the web it leaves out
    the user, whose name and password are in `login`.
    """

    scheme: str
    user: str
    host: str
    port: int | None
    segments: tuple[str, ...]
    address: str
    login: str

    def lies_under(self, root: UriLocation) -> bool:
        """Whether it is `root` or below it, in whole segments, on the same host, as the same user."""
        prefix = root.segments[:-1] if root.segments[-1:] == ("",) else root.segments
        return self[:4] == root[:4] and self.segments[: len(prefix)] == prefix


def is_uri(place: str) -> bool:
    return "://" in place


def shown_uri(uri: str) -> str:
    """The URI for errors and logs: without its password, and without its query, which may be a signature."""
    if not is_uri(uri):
        return uri
    scheme, _, rest = re.split(r"[?#]", uri, maxsplit=1)[0].partition("://")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        return f"{scheme}://***@{authority.rpartition('@')[2]}{slash}{path}"
    if "@" in path and ":" in authority:  # a password with a slash in it makes no URI, but is a password all the same
        return f"{scheme}://***@{path.rpartition('@')[2]}"
    return f"{scheme}://{rest}"


def scrubbed(text: str, uri: str) -> str:
    """The text of a foreign error without the secrets of `uri`."""
    authority = uri.partition("://")[2].partition("/")[0].rpartition("@")[0]
    for secret in (uri.partition("?")[2], authority, authority.partition(":")[2]):
        text = text.replace(secret, "***") if secret else text
    return text


def location_of(uri: str) -> UriLocation:
    """Raise SourceRefused for a URI that two programs could understand in two ways."""
    if "::" in uri:
        raise SourceRefused(uri=shown_uri(uri), reason="it is a chain of URIs")
    if DECEPTIVE.search(uri):
        raise SourceRefused(
            uri=shown_uri(uri), reason="blanks, controls, backslashes and foreign letters are written %.."
        )
    try:
        parts = urlsplit(uri, allow_fragments=False)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError as error:
        raise SourceRefused(uri=shown_uri(uri), reason=scrubbed(str(error), uri)) from None
    segments = tuple(_segments(parts, uri))
    return UriLocation(
        scheme=parts.scheme,
        user=unquote(parts.username or ""),
        host=parts.hostname or "",
        port=port,
        segments=segments,
        address=_address(parts, segments),
        login=parts.netloc.rpartition("@")[0],
    )


def _segments(parts: SplitResult, uri: str) -> list[str]:
    """The segments of the path, dots resolved. Only HTTP decodes them: elsewhere `%41` may be part of a key."""
    web = parts.scheme in PORTS
    kept: list[str] = []
    # A key of a bucket may hold a question mark, also as its end, which urlsplit takes for an empty query.
    path = parts.path if web else uri.partition("://")[2].removeprefix(parts.netloc)
    for raw in path.split("/")[1:]:
        plain = _plain(raw)
        if HIDDEN.search(plain):
            raise SourceRefused(uri=shown_uri(uri), reason="a slash, backslash or control is hidden in it")
        if plain.startswith("..") and plain != "..":  # `..;x` leads up on servers that cut at the semicolon
            raise SourceRefused(uri=shown_uri(uri), reason="a part of its path begins with two dots")
        if plain == "..":
            del kept[-1:]
        elif plain != ".":
            kept.append(unquote(raw) if web else raw)
    return kept


def _plain(segment: str) -> str:
    """Decode until nothing is left to decode: the other side may decode more than once."""
    while (decoded := unquote(segment)) != segment:
        segment = decoded
    return segment


def _address(parts: SplitResult, segments: tuple[str, ...]) -> str:
    if parts.scheme not in PORTS:
        return f"{parts.scheme}://{parts.netloc}/" + "/".join(segments)
    path = "/".join(quote(segment, safe="!$&'()*+,;=:@") for segment in segments)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{path}{query}"


@contextmanager
def reading_from(uri: str) -> Iterator[None]:
    """Raise UnreadableWeights for whatever a backend raises in the block, without what is secret in the URI."""
    try:
        yield
    except AotiServeError:
        raise
    except Exception as error:  # backends raise what they like
        detail = scrubbed(f"{type(error).__name__}: {error}", uri)
        raise UnreadableWeights(detail=f"{shown_uri(uri)}: {detail}") from None
