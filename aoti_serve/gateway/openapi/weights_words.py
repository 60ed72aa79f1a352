"""What the operations of the weights API do, beyond the sentence that sums each up: by the name of the operation."""

from __future__ import annotations

DETAILS = {
    "status": (
        "Current and previous version, the candidate, every replica's receipt, the swap in progress (phase, and bytes "
        "per replica), the outcome of the last one; the `rollout` that is on, or the last, and what was counted of "
        "both versions while a `trial` is on."
    ),
    "swap": (
        "The bytes of safetensors (`application/octet-stream`, options as query parameters), or JSON with the `uri` "
        "and the options. Answers when every replica has committed, or with `wait=false` at once."
    ),
    "golden": "Answers its `digest` and `nbytes`, and how many `requests` are in it.",
    "story": "At most 400, of members, targets and swaps.",
    "events": "Server-sent events: the status now, and at every change.",
    "expose": '`share` and `shadow` are like `"5%"` or 0.05. All gateways keep to them when it returns.',
    "promote": "With `wait=false` it answers at once.",
    "withdraw": "With `wait=false` it answers at once.",
    "label": (
        "With `expected` only if it names that version now, with null only if it is not there; else a 409. A repeat of "
        "what stands is no error."
    ),
    "unlabel": "With `expected` only if it names that version now; else a 409.",
}
