"""URIs as they may be shown, compared and handed on."""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from aoti_serve.errors import SourceRefused

DEFAULT_PORTS = {"http": 80, "https": 443}
WEB = frozenset(DEFAULT_PORTS)
LOCAL = ("", "file")
# A parser may drop these, and another one not: then each sees another address.
DECEPTIVE = re.compile(r"[\x00-\x20\x7f\\]|[^\x00-\x7f]")


def is_uri(place: str) -> bool:
    return "://" in place


def shown(uri: str) -> str:
    """As it may stand in errors and logs: without user, password and query, which may be a signature."""
    if not is_uri(uri):
        return uri
    plain = uri.partition("#")[0].partition("?")[0]
    scheme, _, rest = plain.partition("://")
    user, found, host = rest.partition("/")[0].rpartition("@")
    if found and "/" not in user:
        return f"{scheme}://***@{host}{rest[len(user) + 1 + len(host) :]}"
    # A password with a slash in it is no URI, but a password all the same.
    return f"{scheme}://***@{rest.rpartition('@')[2]}" if _looks_secret(rest) else plain


def scrubbed(text: str, uri: str) -> str:
    """A foreign error's text without what `uri` keeps secret."""
    authority = uri.partition("://")[2].partition("/")[0].rpartition("@")[0]
    secrets = [authority, *authority.partition(":")[::2], uri.partition("?")[2]]
    for secret in sorted((secret for secret in secrets if secret), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


class Place(NamedTuple):
    """A remote URI in its parts, normalised: two that are equal are one place, however they were spelled."""

    scheme: str
    user: str
    host: str
    port: int | None
    segments: tuple[str, ...]
    address: str  # what is asked for

    def lies_under(self, root: Place) -> bool:
        """At or below it, counted in whole segments, on the same host, as the same user."""
        return self[:4] == root[:4] and self.segments[: len(root.segments)] == root.segments


def place_of(uri: str) -> Place:
    """Raises SourceRefused for what two readers could understand in two ways."""
    if "::" in uri:
        raise SourceRefused(uri=shown(uri), reason="chained URIs are not read")
    if DECEPTIVE.search(uri):
        raise SourceRefused(uri=shown(uri), reason="write blanks, controls, backslashes and foreign letters as %..")
    try:
        parts = urlsplit(uri, allow_fragments=False)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError as error:
        raise SourceRefused(uri=shown(uri), reason=scrubbed(str(error), uri)) from None
    segments = _segments(parts, uri)
    return Place(parts.scheme, parts.username or "", parts.hostname or "", port, segments, _address(parts, segments))


def _segments(parts: SplitResult, uri: str) -> tuple[str, ...]:
    """Of the path, without dots. On the web they are decoded; elsewhere `%20` may be three letters of a key."""
    path = parts.path if parts.scheme in WEB else _with_query(parts)
    kept: list[str] = []
    for raw in path.split("/")[1:]:
        plain = _plain(raw)
        if re.search(r"[\x00-\x1f\x7f/\\]", plain) or (plain != raw and plain in (".", "..") and not _once(raw)):
            raise SourceRefused(uri=shown(uri), reason="its path has an encoded slash, backslash or control in it")
        if plain == "..":
            del kept[-1:]
        elif plain not in (".", ""):
            kept.append(unquote(raw) if parts.scheme in WEB else raw)
    return tuple(kept)
