"""Errors of candidates: versions that are staged and not committed."""

from __future__ import annotations

from aoti_serve.errors.weights import WeightsError


class CandidateOut(WeightsError, status=409):
    """While a candidate is out, its memory is taken, and no other change may begin."""

    text = "model '{model}': version {version} is a candidate; promote it or withdraw it first"
    model: str
    version: int


class NoCandidate(WeightsError, status=409):
    """There is nothing to expose, promote or withdraw."""

    text = (
        "model '{model}' has no candidate: a swap with `candidate` makes one. A version that was promoted answers now: "
        "`rollback` goes back to the one before"
    )
    model: str


class CandidateWithdrawn(WeightsError, status=409, text="candidate version {version} was withdrawn: {reason}"):
    """The candidate was freed everywhere, and nothing was committed."""

    version: int
    reason: str


class RolloutDecides(WeightsError, status=409):
    """The shares of a candidate were to be changed by hand, and a rollout sets them."""

    text = (
        "model '{model}': a rollout decides on the shares of candidate version {version}; `promote` or `withdraw` "
        "decides before it does"
    )
    model: str
    version: int
