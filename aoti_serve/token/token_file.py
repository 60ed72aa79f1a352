"""Files of tokens: read, checked, and read again when they change, so that tokens rotate without a restart."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path

from aoti_serve.errors import InvalidConfig
from aoti_serve.token.token_set import TokenSet

logger = logging.getLogger("ray.serve")

LEAST_CHARACTERS = 16  # a shorter one could be guessed, or is the beginning of one that is being written
LARGEST_FILE_BYTES = 2**20
_token = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch  # what a Bearer header may carry, RFC 6750
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}").fullmatch

Stamp = tuple[int, ...]


class TokenFile:
    """A file whose tokens a set holds. `look` takes changes; a file that cannot be used changes nothing.

    It is followed by its path: another file in its place counts, and so does another one behind a link of it.
    """

    def __init__(self, path: Path, tokens: TokenSet) -> None:
        self._path = path
        self._tokens = tokens
        self._seen: Stamp | None = None
        self._judged: Stamp | None = ()

    def load(self) -> None:
        """Take what stands there now. Raises InvalidConfig."""
        self._tokens.replace(read_tokens(self._path))

    def look(self) -> None:
        """Take a change, once the file has stayed as it is since the last look. Blocks; call it about once a second.

        What was good before holds until the file can be used again.
        """
        stamp = _stamp_of(self._path)
        settled, self._seen = stamp == self._seen, stamp
        if not settled or stamp == self._judged:
            return
        self._judged = stamp
        try:
            changed = self._tokens.replace(read_tokens(self._path))
        except InvalidConfig as error:
            logger.warning("%s; the tokens that it held before go on", error)
        else:
            if changed:
                logger.info("%s: its %d tokens hold from now on", self._path, len(self._tokens))


def read_tokens(path: Path) -> dict[str, str]:
    """The names of the tokens in a file, by token; "" for one without a name.

    A line is `TOKEN` or `NAME: TOKEN`; it may be blank, or a comment with `#`. Raises InvalidConfig, which quotes no
    token: also if there is none, and if others than the file's user and group may use it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            _check_kind(path, os.fstat(file.fileno()))
            return _parsed(path, file.read(LARGEST_FILE_BYTES + 1))
    except OSError as error:
        raise InvalidConfig(detail=f"{path} cannot be read: {error.strerror}") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe has nothing to say, and must not be waited for


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidConfig(detail=f"{path} is no file")
    if found.st_mode & 0o007:
        raise InvalidConfig(detail=f"{path} can be used by others than its user and group; run `chmod o= {path}`")


def _parsed(path: Path, content: bytes) -> dict[str, str]:
    if len(content) > LARGEST_FILE_BYTES:
        raise InvalidConfig(detail=f"{path} has more than {LARGEST_FILE_BYTES} bytes")
    lines = enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1)
    pairs = [_pair(path, number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not pairs:
        raise InvalidConfig(detail=f"{path} holds no token")
    return dict(pairs)


def _pair(path: Path, number: int, line: str) -> tuple[str, str]:
    name, colon, token = (part.strip() for part in line.rpartition(":"))
    if not _token(token) or (colon and not _name(name)):
        raise InvalidConfig(detail=f"{path}, line {number}: this is neither `TOKEN` nor `NAME: TOKEN`")
    if len(token) < LEAST_CHARACTERS:
        raise InvalidConfig(detail=f"{path}, line {number}: a token has at least {LEAST_CHARACTERS} characters")
    return token, name


def _stamp_of(path: Path) -> Stamp | None:
    """What differs if the file does; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
