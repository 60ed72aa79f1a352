"""Tokens: the one of this user, those in a file that is watched, and the digests that servers keep of them."""

from __future__ import annotations

from aoti_serve.token.own_token import TOKEN_VARIABLE, ensure_token, read_token, token_path, token_place
from aoti_serve.token.token_file import TokenFile, read_tokens
from aoti_serve.token.token_set import TokenSet

__all__ = [
    "TOKEN_VARIABLE",
    "TokenFile",
    "TokenSet",
    "ensure_token",
    "read_token",
    "read_tokens",
    "token_path",
    "token_place",
]
