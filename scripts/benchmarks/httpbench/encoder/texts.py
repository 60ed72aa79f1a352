"""Sentences of mixed lengths, the requests that ask for them, and the script with which wrk sends them in turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COUNT, SHORTEST, LONGEST = 256, 3, 200
WORDS = ["the", "dog", "barks", "while", "a", "server", "swaps", "weights", "and", "nobody", "in", "town", "sees"]
# One file with a body in each line; a connection takes the next line each time.
SCRIPT = """\
local bodies, at = {{}}, 0
local headers = {{["Content-Type"] = "application/json"}}
function init()
  for body in io.lines("{bodies}") do bodies[#bodies + 1] = wrk.format("POST", nil, headers, body) end
end
function request()
  at = at % #bodies + 1
  return bodies[at]
end
"""
Body = Callable[[Sequence[str]], dict[str, Any]]


def sentences(count: int = COUNT, seed: int = 7) -> list[str]:
    """From 3 to 200 words, half of them below 25: lengths are even on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), count)).round().astype(int)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def v2(asked: Sequence[str]) -> dict[str, Any]:
    """As our server is asked."""
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(asked)], "data": list(asked)}]}


def plain(asked: Sequence[str]) -> dict[str, Any]:
    """As the others are."""
    return {"sentences": list(asked)}


def script(body: Body, folder: Path) -> str:
    """One sentence in each request."""
    path = folder / "bodies"
    path.write_text("".join(json.dumps(body([sentence])) + "\n" for sentence in sentences()))
    return SCRIPT.format(bodies=path)
