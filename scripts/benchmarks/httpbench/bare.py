"""The container in this process, without a server: what is there to be served."""

from __future__ import annotations

from typing import NamedTuple

import torch
from container import rate, serving
from models import Subject

from httpbench.bodies import rows_of


class Bare(NamedTuple):
    """Batches of `rows` in a row on as many threads as runners."""

    subject: Subject
    rows: int
    num_runners: int = 1

    def rows_per_second(self, seconds: float) -> float:
        x = torch.from_numpy(rows_of(self.rows))
        with serving(self.subject, self.num_runners) as container:
            container.run([x])
            return self.rows * rate(lambda: container.run([x]), self.num_runners, seconds)
