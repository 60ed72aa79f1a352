"""Header blocks (HPACK, RFC 7541): read with `hpack`, and remembered; written without a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hpack import Decoder, HPACKError, OversizedHeaderListError

from aoti_serve.gateway.http2.frames import BrokenConnection, ErrorCode

KNOWN_BLOCKS = 64  # of one connection
READABLE = 4  # times the limits: headers between are refused with an answer, larger ones end their connection
KNOWN_BYTES = 512  # the longest block that is remembered
ENTRY_BYTES = 32  # what a header counts beside its name and value (RFC 7541, 4.1)
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_OF_CONNECTIONS = {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
_name_is_sound = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_value_breaks = re.compile(rb"[\0\r\n]").search


class Malformed(Exception):
    """A request's headers are no request's (RFC 9113, 8.1.1). It ends its stream alone."""


class TooManyHeaders(BrokenConnection):
    """A request's headers are more than `max_bytes` or `max_headers`."""

    def __init__(self) -> None:
        text = "a request's headers exceed gateway.max_header_bytes or gateway.max_headers"
        super().__init__(ErrorCode.ENHANCE_YOUR_CALM, text)


class Head(NamedTuple):
    """A request's headers. Of several with one name the first; names are in lower case.

    `too_large`: they exceed the limits, and were read for the answer alone.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    too_large: bool = False


class HeaderReader:
    """Reads the header blocks of one connection, all of them and in their order: each may change the table.

    A client's calls are mostly alike. A block that has changed nothing means the same until one does.
    """

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        self._decoder = Decoder(READABLE * (max_bytes + max_headers * ENTRY_BYTES))
        self._max_bytes = max_bytes
        self._max_headers = max_headers
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Raises Malformed for a request; BrokenConnection when no block can be read any more."""
        if known := self._known.get(block):
            return known
        fields, changed = self._decoded(block)
        head = head_of(fields)
        if len(fields) > self._max_headers or sum([len(name) + len(value) for name, value in fields]) > self._max_bytes:
            return head._replace(too_large=True)
        if not changed and len(block) <= KNOWN_BYTES and len(self._known) < KNOWN_BLOCKS:
            self._known[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """Read a block for what it does to the table. Raises BrokenConnection."""
        self._decoded(block)

    def _decoded(self, block: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Names and values as they were sent, and whether the table is another one now."""
        newest, sizes = self._table
        try:
            fields: list[tuple[bytes, bytes]] = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise TooManyHeaders from None
        except HPACKError as error:
            raise BrokenConnection(ErrorCode.COMPRESSION_ERROR, f"headers that are not HPACK: {error}") from None
        changed = self._table[0] is not newest or self._table[1] != sizes
        if changed:
            self._known.clear()
        return fields, changed

    @property
    def _table(self) -> tuple[object, tuple[int, int]]:
        """Its newest entry, which is another object after each change, and its sizes."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return entries[0] if entries else None, (len(entries), table.maxsize)


def head_of(fields: Iterable[tuple[bytes, bytes]]) -> Head:
    """The request that these headers make. Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    headers: dict[str, str] = {}
    for name, value in fields:
        if name.startswith(b":"):
            if headers or name in pseudo or name not in _PSEUDO:
                raise Malformed
            pseudo[name] = value
        elif name in _OF_CONNECTIONS or not _name_is_sound(name) or _value_breaks(value):
            raise Malformed
        else:
            headers.setdefault(name.decode("ascii"), value.decode("latin-1"))
    if not {b":method", b":scheme", b":path"} <= pseudo.keys():
        raise Malformed
    return Head(pseudo[b":method"].decode("latin-1"), pseudo[b":path"].decode("latin-1"), headers)


NO_TABLE = b"\x20"  # at the beginning of a block: its writer has no table (RFC 7541, 6.3)


def block_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of headers that changes no table and needs none: literals, without Huffman's code."""
    return b"".join(b"\0%b%b%b%b" % (_length(name), name, _length(value), value) for name, value in fields)


def _length(text: bytes) -> bytes:
    """A number behind a bit, 0 here (RFC 7541, 5.1)."""
    number = len(text)
    if number < 127:
        return bytes((number,))
    number, parts = number - 127, bytearray((127,))
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)
