"""What the chaos lab reports as JSON."""

from __future__ import annotations

import json
from collections import Counter

from chaoslab.campaign import Fault, Finding
from chaoslab.counts import Counts
from chaoslab.report import as_json


def test_a_finding_is_told_with_all_its_counts() -> None:
    counts = Counts(requests=7, stale=1, cuts=Counter({"reset": 2}), versions=Counter({3: 5}))
    [told] = json.loads(as_json([Finding(Fault("node", "kill -9 a node", lambda lab: None), counts, {"committed": 2})]))
    assert told["fault"] == {"name": "node", "done": "kill -9 a node"}
    assert (told["lost"], told["outcomes"]) == (True, {"committed": 2})
    assert told["counts"] | {"slowest_ms": 0} == vars(Counts()) | {
        "requests": 7,
        "stale": 1,
        "cuts": {"reset": 2},
        "versions": {"3": 5},
    }
