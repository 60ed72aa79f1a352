"""The admin token of this user: made once, and kept in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from aoti_serve.errors import InvalidConfig

TOKEN_VARIABLE = "AOTI_SERVE_ADMIN_TOKEN"


def token_path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "aoti-serve" / "admin-token"


def read_token() -> str | None:
    """The token: from the environment, else from its file; None if there is neither.

    Raises InvalidConfig, which does not quote it, if others may read the file, or if no header can hold it.
    """
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        if not (token.isascii() and token.isprintable()):
            raise InvalidConfig(detail=f"{TOKEN_VARIABLE} is no token: a header holds printable ASCII only")
        return token
    path = token_path()
    if not path.exists():
        return None
    if path.stat().st_mode & 0o077:
        raise InvalidConfig(detail=f"{path} can be read by others; run `chmod 600 {path}`")
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(detail=f"{path} does not hold an admin token: {error}") from error


def token_place() -> str:
    """Where `read_token` finds the token, or would: the variable if it is set, else the file."""
    return TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE, "").strip() else str(token_path())


def ensure_token() -> str:
    """The token, made now if there is none. Raises InvalidConfig where it cannot be kept."""
    if token := read_token():
        return token
    path, token = token_path(), secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _kept(path, token):
            return ensure_token()  # another first start was quicker
    except OSError as error:
        detail = (
            f"the admin token cannot be kept in {path} ({error.strerror}): set {TOKEN_VARIABLE}, or XDG_CONFIG_HOME"
        )
        raise InvalidConfig(detail=detail) from error
    return token


def _kept(path: Path, token: str) -> bool:
    """Write the token, whole. Returns false if another process was first: two first starts agree on one token."""
    scratch = path.with_name(f".{token[:8]}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    try:
        scratch.replace(path) if _is_empty(path) else os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        scratch.unlink(missing_ok=True)
    return True


def _is_empty(path: Path) -> bool:
    return path.exists() and not path.read_text().strip()
