"""The handshake of a link: both ends show that they know the key of the one that listens.

    replica -> gateway   greeting: the link's name and version, a challenge
    gateway -> replica   greeting, the gateway's name, HMAC-SHA256(key, "gateway" + both greetings + name)
    replica -> gateway   HMAC-SHA256(key, "replica" + both greetings)

Each end has a challenge of its own, so nothing that was overheard can be used again. The frames behind it are neither
encrypted nor signed: between nodes they are as safe as the network.
"""

from __future__ import annotations

import hmac
import os
from struct import Struct

from aoti_serve.errors import LinkRefused

MAGIC = b"aoti-link"
VERSION = 2
CHALLENGE = PROOF = 32
NAME = 128
GREETING = Struct(f"<9sH{CHALLENGE}s")
INTRODUCTION = Struct(f"<{GREETING.size}s{NAME}s{PROOF}s")


def key() -> bytes:
    """A new replica's key."""
    return os.urandom(32)


def greeting() -> bytes:
    return GREETING.pack(MAGIC, VERSION, os.urandom(CHALLENGE))


def introduction(key: bytes, name: str, theirs: bytes) -> bytes:
    """The gateway's answer to a replica's greeting. Raises LinkRefused if that is of another version."""
    check_greeting(theirs)
    ours, named = greeting(), name.encode()[:NAME].ljust(NAME, b"\0")
    return INTRODUCTION.pack(ours, named, _proof(key, b"gateway", ours, theirs, named))


def read_introduction(key: bytes, ours: bytes, answer: bytes) -> tuple[str, bytes]:
    """The name of the gateway that sent this introduction, and what to answer. Raises LinkRefused."""
    theirs, named, proof = INTRODUCTION.unpack(answer)
    check_greeting(theirs)
    if not hmac.compare_digest(proof, _proof(key, b"gateway", theirs, ours, named)):
        raise LinkRefused(detail="a gateway does not know this replica's key")
    return named.rstrip(b"\0").decode(errors="replace"), _proof(key, b"replica", theirs, ours)


def check_confirmation(key: bytes, theirs: bytes, ours: bytes, proof: bytes) -> None:
    """Check the answer to the introduction. Raises LinkRefused if it is not the replica's."""
    if not hmac.compare_digest(proof, _proof(key, b"replica", ours[: GREETING.size], theirs)):
        raise LinkRefused(detail="a replica does not know its own key")


def check_greeting(theirs: bytes) -> None:
    """Check the start of the other end. Raises LinkRefused if it speaks something else."""
    magic, version, _ = GREETING.unpack(theirs)
    if magic != MAGIC:
        raise LinkRefused(detail="the other end is no aoti-serve link")
    if version != VERSION:
        raise LinkRefused(detail=f"the other end speaks version {version} of the link, this one {VERSION}")


def _proof(key: bytes, role: bytes, *challenges: bytes) -> bytes:
    return hmac.digest(key, role + b"".join(challenges), "sha256")
