"""What `scripts/fuzz` begins with is taken; a short look at it goes with every change."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzzing.targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_seeds_and_what_is_nearly_a_seed_let_no_other_error_out(target: Target) -> None:
    random = Random(0)
    target.take(b"")
    for seed in target.seeds:
        target.take(seed)
        for _ in range(100):
            damaged = bytearray(seed)
            damaged[random.randrange(len(seed))] = random.randrange(256)
            target.take(bytes(damaged[: random.randint(1, len(seed))]))
