"""What our server set out to reach beside others, and what it did. Ours is one gateway with its defaults throughout."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from httpbench.contenders import BARE, FASTEST_OF_RAY, GRPC, HTTP, NOOP, OURS, PEERS
from httpbench.found import Found
from httpbench.loads import ALONE, BUSY, FEW, HEAVY, MANY_ROWS, Load

# At 64 connections: how many times as many requests per second, with a p99 that is no worse.
WANTED = {"ray_serve": 18.0, FASTEST_OF_RAY: 2.0, "litserve": 6.5, "pytriton": 3.3, NOOP: 0.75}
WANTED_ALONE = {"fastapi": 1.15, "pytriton": 0.4}
OF_BARE, OF_BEST, HEAVY_OF_BARE = 0.95, 0.95, 0.85
GRPC_RATE, GRPC_P50 = 0.6, 2.0


class Target(NamedTuple):
    """`reached` is None where something that it compares was not measured."""

    what: str
    bound: float
    reached: float | None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached <= self.bound if self.at_most else self.reached >= self.bound

    def as_dict(self) -> dict[str, Any]:
        return self._asdict() | {"met": self.met}


def targets(found: Found, heavy: Found) -> list[Target]:
    return [*_at_64(found), *_alone(found), *_few(found), *_many_rows(found), *_grpc(found), *_heavy(heavy)]


def ratios(found: Found) -> dict[str, float | None]:
    """Requests/s of ours over the best setting of each peer, and over Ray's ingress with nothing behind, at 64."""
    return {peer: over(found, "rate", (peer,)) for peer in (*PEERS, NOOP)}


def cells(found: Found) -> dict[str, float]:
    """Requests/s of ours over those of the best peer, for every load that both were measured under."""
    compared = ((load.label, over(found, "rate", PEERS, load)) for load in found.loads(OURS))
    return {label: ratio for label, ratio in compared if ratio is not None}


def over(found: Found, figure: str, families: Collection[str], load: Load = BUSY) -> float | None:
    """A figure of ours over that of whichever of their settings answers the most requests per second."""
    name = found.quickest(families, load)
    ours, theirs = found.median(OURS, load), name and found.median(name, load)
    if not ours or not theirs or not getattr(theirs, figure):
        return None
    ratio: float = getattr(ours, figure) / getattr(theirs, figure)
    return ratio


def of_bare(found: Found, name: str, load: Load) -> float | None:
    """Rows per second that were served, over those of the bare container."""
    bare, sample = found.median(BARE), found.median(name, load)
    return sample.rate * load.rows / bare.rate if sample and bare else None


def _at_64(found: Found) -> Iterator[Target]:
    for peer, bound in WANTED.items():
        yield Target(f"{BUSY.label}: requests/s over {peer}", bound, over(found, "rate", (peer,)))
        yield Target(f"{BUSY.label}: p99 over {peer}", 1, over(found, "p99", (peer,)), at_most=True)


def _alone(found: Found) -> Iterator[Target]:
    for peer, bound in WANTED_ALONE.items():
        yield Target(f"{ALONE.label}: p50 over {peer}", bound, over(found, "p50", (peer,), ALONE), at_most=True)


def _few(found: Found) -> Iterator[Target]:
    yield Target(f"{FEW.label}: requests/s over the best", 1, over(found, "rate", PEERS, FEW))


def _many_rows(found: Found) -> Iterator[Target]:
    for load in MANY_ROWS:
        yield Target(f"{load.label}: rows/s over the bare container", OF_BARE, of_bare(found, OURS, load))
        yield Target(f"{load.label}: rows/s over the best", OF_BEST, over(found, "rate", PEERS, load))


def _grpc(found: Found) -> Iterator[Target]:
    """Over HTTP, asked by the same client."""
    yield Target(f"{BUSY.label}: requests/s of gRPC over HTTP", GRPC_RATE, _grpc_over_http(found, "rate", BUSY))
    p50 = _grpc_over_http(found, "p50", ALONE)
    yield Target(f"{ALONE.label}: p50 of gRPC over HTTP", GRPC_P50, p50, at_most=True)


def _grpc_over_http(found: Found, figure: str, load: Load) -> float | None:
    grpc, http = found.median(GRPC, load), found.median(HTTP, load)
    return getattr(grpc, figure) / getattr(http, figure) if grpc and http else None


def _heavy(heavy: Found) -> Iterator[Target]:
    for asked, load in HEAVY.items():
        yield Target(f"heavy model, {asked}: rows/s over the best", 1, over(heavy, "rate", PEERS, load))
        share = of_bare(heavy, OURS, load)
        yield Target(f"heavy model, {asked}: rows/s over the bare container", HEAVY_OF_BARE, share)
