"""Who may change a store: the coordinator that has opened it last."""

from __future__ import annotations

from aoti_serve.errors.weights import WeightsError


class Superseded(WeightsError, status=503):
    """Another coordinator has opened the store; this one may not change it any more."""

    text = (
        "model '{model}': coordinator {term} of its store was followed by {newer}; ask that one. If this goes on, "
        "another application uses the same `store`"
    )
    model: str
    term: int
    newer: int | str


class LedElsewhere(Superseded, status=503):
    """Another application has opened the store: that one changes the weights, and this one follows."""

    text = (
        "model '{model}': another application has opened its store (coordinator {newer}, after {term} of this one) and "
        "leads: ask that one for changes. This one goes on answering with what that one commits, and takes the store "
        "back a minute after that one has ended"
    )
