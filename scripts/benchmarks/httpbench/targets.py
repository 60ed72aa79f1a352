"""What the servers of this project set out to reach, and what they did."""

from __future__ import annotations

from typing import Any, NamedTuple

from httpbench.contenders import ALONE, BUSY, HEAVY, HEAVY_WHOLE, PLACEMENTS, Load
from httpbench.rounds import BARE, Found

FASTEST_OF_RAY = "ray_serve_fast"
PEERS = ("ray_serve", FASTEST_OF_RAY, "litserve", "pytriton", "noop")


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


def fastest_of_ray(found: Found) -> str:
    """The faster of the two ways in which Ray's own batching was measured at 64 connections."""
    names = [name for name in found.names() if name.startswith(FASTEST_OF_RAY)]
    return max(names, key=lambda name: _rate(found, name) or 0.0, default=FASTEST_OF_RAY)


def best_placement(found: Found) -> str:
    return max(_ours(), key=lambda name: _rate(found, name) or 0.0)


def ratios(found: Found) -> dict[str, float | None]:
    """Requests/s of our best placement over theirs, at 64 connections."""
    best = best_placement(found)
    return {peer: _over(found, "rate", best, _name(found, peer)) for peer in PEERS}


def targets(found: Found, heavy: Found) -> list[Target]:
    return [*_at_64(found), *_alone(found), *_limits(found, heavy)]


def _at_64(found: Found) -> list[Target]:
    bounds = (("fused", "ray_serve", 10), ("fused", "litserve", 4), ("fused", "pytriton", 1.8))
    fast = (("fused", FASTEST_OF_RAY, 1), ("split", FASTEST_OF_RAY, 0.85))
    made = []
    for placement, peer, bound in (*bounds, *fast):
        ours, theirs = f"ours-{placement}", _name(found, peer)
        made.append(Target(f"requests/s, {placement} / {peer}", bound, _over(found, "rate", ours, theirs)))
        made.append(Target(f"p99, {placement} / {peer}", 1, _over(found, "p99", ours, theirs), at_most=True))
    return made


def _alone(found: Found) -> list[Target]:
    fused = _over(found, "p50", "ours-fused", "fastapi", ALONE)
    split = _over(found, "p50", "ours-split", "pytriton", ALONE)
    return [
        Target("1 connection: p50, fused / fastapi", 1.3, fused, at_most=True),
        Target("1 connection: p50, split / pytriton", 1, split, at_most=True),
    ]


def of_bare(heavy: Found, placement: str, load: Load) -> float | None:
    """Rows per second that were served, over those of the bare container."""
    bare, sample = heavy.median(BARE), heavy.median(placement, load)
    return sample.rate * load.rows / bare.rate if sample and bare else None


def _limits(found: Found, heavy: Found) -> list[Target]:
    made = [Target(f"requests/s, {best_placement(found)} / noop", 0.6, ratios(found)["noop"])]
    for asked, load in (("whole batches", HEAVY_WHOLE), ("single rows", HEAVY)):
        for placement in PLACEMENTS:
            share = of_bare(heavy, placement, load)
            made.append(Target(f"heavy model, {asked}: {placement} / bare", 0.95, share))
    return made


def _ours() -> list[str]:
    return [f"ours-{placement}" for placement in PLACEMENTS]


def _name(found: Found, peer: str) -> str:
    return fastest_of_ray(found) if peer == FASTEST_OF_RAY else peer


def _rate(found: Found, name: str) -> float | None:
    sample = found.median(name)
    return sample.rate if sample else None


def _over(found: Found, figure: str, ours: str, theirs: str, load: Load = BUSY) -> float | None:
    mine, other = found.median(ours, load), found.median(theirs, load)
    if mine is None or other is None or not getattr(other, figure):
        return None
    ratio: float = getattr(mine, figure) / getattr(other, figure)
    return ratio
