"""Where a microsecond goes in a request: each step of ours by itself, in one process, without Ray and HTTP.

    scripts/bench steps [--rounds N] [--json]

The model of scripts/bench http: 4 layers of 1024, one row of 4 KB in, one out. Microseconds per request, the best of
all rounds: what a step costs when nothing disturbs it. Rows that are run or gathered together are shared out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import timeit
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from models import Mlp, compiled
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from aoti_serve import Container
from aoti_serve.cluster.answer import Answer
from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.gateway.batcher import Batcher
from aoti_serve.gateway.plan import Plan, Planner
from aoti_serve.protocol.decode import arrays_of
from aoti_serve.protocol.encode import encode_response
from aoti_serve.protocol.messages import InferResponse

WIDTH, BATCH = 1024, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, Console(stderr=True).status("compiling and measuring"):
        subject = compiled(Mlp(WIDTH, 4), (torch.randn(8, WIDTH),), Path(folder), "mlp", stock=False)
        with Container(subject.package) as container:
            container.stage(subject.weights)
            container.commit()
            found = measured(container, options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    table = Table("step", "µs per request")
    for step, cost in found.items():
        table.add_row(step, f"{cost:.1f}")
    Console().print(table)


def measured(container: Container, rounds: int) -> dict[str, float]:
    row = np.ones((1, WIDTH), np.float32)
    binary, inline = head_of(row, binary=True), head_of(row, binary=False)
    planner = Planner(container.signature, GatewayConfig())
    tail = memoryview(row.tobytes())
    plan, as_json = planner.plan(binary), planner.plan(inline)
    batch = torch.ones(BATCH, WIDTH)
    steps: dict[str, tuple[Callable[[], object], int]] = {
        "head, seen before": (lambda: planner.plan(binary), 1),
        "head, new": (lambda: Planner(container.signature, GatewayConfig()).plan(binary), 1),
        "binary input to array": (lambda: arrays_of(plan.head, tail), 1),
        "JSON request to array": (lambda: Planner(container.signature, GatewayConfig()).plan(inline), 1),
        f"{BATCH} rows gathered": (lambda: np.concatenate([row] * BATCH), BATCH),
        f"run, {BATCH} rows": (lambda: container.run([batch]), BATCH),
        "run, 1 row": (lambda: container.run([batch[:1]]), 1),
        "answer, binary": (lambda: encoded(plan, row), 1),
        "answer, JSON": (lambda: encoded(as_json, row), 1),
    }
    found = {name: best(step, rounds) / share for name, (step, share) in steps.items()}
    return found | {f"batcher, {BATCH} waiting": batched(row, rounds)}


def head_of(row: NDArray[np.float32], *, binary: bool) -> bytes:
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": list(row.shape)}
    tensor |= {"parameters": {"binary_data_size": row.nbytes}} if binary else {"data": row.ravel().tolist()}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()


def encoded(plan: Plan, row: NDArray[np.float32]) -> object:
    outputs = [(spec, row) for _, spec in plan.outputs]
    return encode_response(InferResponse("mlp", 1, None, outputs), plan.head)


def batched(row: NDArray[np.float32], rounds: int) -> float:
    """The batcher's own part: requests that come together, a run that takes no time."""

    async def run(arrays: list[NDArray[Any]], _: float | None) -> Answer:
        return Answer(1, 1, arrays)

    async def scenario() -> float:
        batcher = Batcher("mlp", BatchingConfig(), run, batches=True)
        batcher.runners = 1
        started = asyncio.get_running_loop().time()
        for _ in range(50):
            await asyncio.gather(*(batcher.submit([row]) for _ in range(BATCH)))
        return (asyncio.get_running_loop().time() - started) / (50 * BATCH) * 1e6

    return min(asyncio.run(scenario()) for _ in range(rounds))


def best(step: Callable[[], object], rounds: int) -> float:
    timer = timeit.Timer(step)
    number = max(1, int(0.02 / max(timer.timeit(3) / 3, 1e-7)))
    return min(timer.repeat(rounds, number)) / number * 1e6


if __name__ == "__main__":
    main()
