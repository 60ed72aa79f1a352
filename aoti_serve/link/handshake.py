"""The handshake of a link: both ends show that they know the key of the one that listens.

    listener -> caller   greeting: the link's name and version, a challenge
    caller -> listener   greeting, the caller's name, HMAC-SHA256(key, "gateway" + both greetings + name)
    listener -> caller   HMAC-SHA256(key, "replica" + both greetings)

Each end has a challenge of its own, so nothing that was overheard can be used again. The frames behind it are neither
encrypted nor signed: between nodes they are as safe as the network.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from abc import abstractmethod
from struct import Struct
from typing import Self

from aoti_serve.address import Address
from aoti_serve.errors import LinkRefused
from aoti_serve.link.connection import LinkConnection

MAGIC = b"aoti-link"
VERSION = 4
CHALLENGE = PROOF = 32
NAME = 128
GREETING = Struct(f"<9sH{CHALLENGE}s")
INTRODUCTION = Struct(f"<{GREETING.size}s{NAME}s{PROOF}s")


class CallingEnd(LinkConnection):
    """The end that connects to `address`: it names itself, and shows that it knows the other end's key.

    `silent` counts the ticks since anything has arrived. They are ticks and not seconds: a process that was stopped
    itself must not take that for the silence of others.
    """

    def __init__(self, address: Address, name: str) -> None:
        super().__init__()
        self.address = address
        self.silent = 0
        self._name = name.encode()[:NAME].ljust(NAME, b"\0")

    async def connect(self, node: str) -> Self:
        """Connect from a process on `node`. Raises OSError or LinkRefused."""
        loop = asyncio.get_running_loop()
        if self.address.node == node or self.address.tcp is None:
            await loop.create_unix_connection(lambda: self, self.address.path)
        else:
            await loop.create_connection(lambda: self, *self.address.tcp)
        try:
            await self.established
        except BaseException:
            self.abort()
            raise
        return self

    def buffer_updated(self, nbytes: int) -> None:
        self.silent = 0
        super().buffer_updated(nbytes)

    def begin(self) -> None:
        self.expect(GREETING.size, self._introduce)

    def _introduce(self, theirs: bytes) -> None:
        check_greeting(theirs)
        mine = greeting()
        proof = _proof(self.address.key, b"gateway", mine, theirs, self._name)
        self.transport.write(INTRODUCTION.pack(mine, self._name, proof))
        self.expect(PROOF, lambda proof: self._confirm(proof, mine, theirs))

    def _confirm(self, proof: bytes, mine: bytes, theirs: bytes) -> None:
        if not hmac.compare_digest(proof, _proof(self.address.key, b"replica", mine, theirs)):
            raise LinkRefused(detail="the other end does not know its own key")
        self.establish()


class ListeningEnd(LinkConnection):
    """The end that accepts a connection. `name` is that of the other end, once it is established."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.name = ""
        self._key = key

    @abstractmethod
    def beat(self) -> None:
        """Show that this process is not stopped."""

    @abstractmethod
    def welcome(self) -> None:
        """Take the other end in. Called once it has introduced itself."""

    def begin(self) -> None:
        mine = greeting()
        self.transport.write(mine)
        self.expect(INTRODUCTION.size, lambda answer: self._check(mine, answer))

    def _check(self, mine: bytes, answer: bytes) -> None:
        theirs, name, proof = INTRODUCTION.unpack(answer)
        check_greeting(theirs)
        if not hmac.compare_digest(proof, _proof(self._key, b"gateway", theirs, mine, name)):
            raise LinkRefused(detail="the other end does not know this one's key")
        self.name = name.rstrip(b"\0").decode(errors="replace")
        self.transport.write(_proof(self._key, b"replica", theirs, mine))
        self.establish()
        self.welcome()


def greeting() -> bytes:
    return GREETING.pack(MAGIC, VERSION, os.urandom(CHALLENGE))


def check_greeting(theirs: bytes) -> None:
    """Check the greeting of the other end. Raises LinkRefused if it is none of this version."""
    magic, version, _ = GREETING.unpack(theirs)
    if magic != MAGIC:
        raise LinkRefused(detail="the other end is no aoti-serve link")
    if version != VERSION:
        raise LinkRefused(detail=f"the other end speaks version {version} of the link, this one {VERSION}")


def _proof(key: bytes, role: bytes, *challenges: bytes) -> bytes:
    return hmac.digest(key, role + b"".join(challenges), "sha256")
