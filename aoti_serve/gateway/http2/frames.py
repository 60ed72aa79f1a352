"""HTTP/2 frames (RFC 9113, 4 and 6): cut out of what arrives, and the bytes of those that are sent."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LONGEST_FRAME = 2**14  # bytes; what a peer may send that has not been told otherwise, and every peer takes
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 2**16 - 1  # bytes that either side may send before it is told otherwise

Http2Frame = tuple[int, int, int, bytes]  # type, flags, stream, payload

_head = Struct(">HBBBI")
_word, _two_words = Struct(">I"), Struct(">II")
_setting = Struct(">HI")
_PRIORITY_BYTES = 5


class FrameType(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntEnum):
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    INITIAL_WINDOW_SIZE = 4
    MAX_CONCURRENT_STREAMS = 3
    MAX_HEADER_LIST_SIZE = 6


class BrokenConnection(Exception):
    """What a peer has done that ends its connection; `text` is what it is told."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class FrameReader:
    """Cuts what arrives into frames; keeps an unfinished one, and those that nobody has taken yet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Http2Frame]:
        """The frames that are complete now. Raises BrokenConnection at one that is too long."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        try:
            while end - at >= _head.size:
                high, low, kind, flags, stream = _head.unpack_from(data, at)
                length = high << 8 | low
                if length > LONGEST_FRAME:
                    raise BrokenConnection(
                        ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes; at most {LONGEST_FRAME}"
                    )
                begin = at + _head.size
                if end - begin < length:
                    break
                at = begin + length
                yield kind, flags, stream & LARGEST_WINDOW, data[begin:at]
        finally:  # also when the frames are taken no further for now
            self._rest = data[at:]


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload without its padding. Raises BrokenConnection if that is longer than the payload."""
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise BrokenConnection(ErrorCode.PROTOCOL_ERROR, "a frame's padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def block_in(flags: int, payload: bytes) -> bytes:
    """The header block of a HEADERS frame, without padding and priority. Raises BrokenConnection."""
    content = unpadded(flags, payload)
    return content[_PRIORITY_BYTES:] if flags & Flag.PRIORITY else content


def number_in(payload: bytes) -> int:
    """The number of a WINDOW_UPDATE's or RST_STREAM's payload, 31 bits of which count. Raises BrokenConnection."""
    if len(payload) != _word.size:
        raise BrokenConnection(
            ErrorCode.FRAME_SIZE_ERROR, f"a frame with {len(payload)} bytes in the place of a number's 4"
        )
    number: int = _word.unpack(payload)[0]
    return number & LARGEST_WINDOW


def settings_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings of a payload. Raises BrokenConnection."""
    if len(payload) % _setting.size:
        raise BrokenConnection(ErrorCode.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes, which are not 6 each")
    yield from _setting.iter_unpack(payload)


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return _head.pack(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_head(len(payload), kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(FrameType.SETTINGS, 0, 0, b"".join(_setting.pack(*item) for item in values.items()))


def reset(stream: int, code: ErrorCode) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream, _word.pack(code))


def window_update(stream: int, more: int) -> bytes:
    return frame(FrameType.WINDOW_UPDATE, 0, stream, _word.pack(more))


def goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """The end of a connection; `last` is the last stream that was looked at, `text` for people."""
    return frame(FrameType.GOAWAY, 0, 0, _two_words.pack(last, code) + text.encode())
