"""The orders of the rules: the coordinator's server carries them out, and reports the result."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_serve.address import Address
from aoti_serve.weights.swap.target import Target
from aoti_serve.weights.version import Version


@dataclass(frozen=True)
class Publish:
    """Send the target to every member."""

    target: Target


@dataclass(frozen=True)
class Reroute:
    """Tell every gateway which replicas have come and gone."""

    added: tuple[Address, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Commit:
    """Write this version as the committed one; then call `stored` or `refused`. Its success is the commit point."""

    version: Version


@dataclass(frozen=True)
class Expel:
    """End these processes, unless a newer coordinator has taken over; then call `killed` or `superseded`."""

    members: tuple[str, ...]


Order = Publish | Reroute | Commit | Expel
