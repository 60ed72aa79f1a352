"""Where a microsecond goes in a request: each step by itself, in the order in which a request takes them, without Ray.

    scripts/bench steps [--rounds N] [--json]

The model of scripts/bench http: 4 layers of 1024, one row of 4 KB in, one out. Microseconds per request, the best
of all rounds: what a step costs when nothing disturbs it. What is done for many rows together is shared out.
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
from httpbench.loads import BATCH, BUSY
from models import Mlp, compiled
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from wire_steps import called, linked, listened

from aoti_serve import Container
from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.gateway.batching.batcher import Batcher
from aoti_serve.gateway.figures.counted import GatewayFigures
from aoti_serve.gateway.figures.model_figures import HTTP, ModelFigures
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.link.messages import AnswerMessage, RunFacts
from aoti_serve.protocol.decode import arrays_of
from aoti_serve.protocol.encode import encode_response
from aoti_serve.protocol.messages import InferResponse

WIDTH = 1024
Row = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, Console(stderr=True).status("compiling and measuring"):
        subject = compiled(Mlp(WIDTH, 4), (torch.randn(8, WIDTH),), Path(folder), "mlp", stock=False)
        with Container(subject.package) as container:
            container.stage(subject.weights)
            container.commit()
            found = measured(container, options.rounds, Path(folder))
    if options.json:
        print(json.dumps(found))
        return
    table = Table("step", "µs per request")
    for step, cost in found.items():
        table.add_row(step, f"{cost:.1f}")
    Console().print(table)


def measured(container: Container, rounds: int, folder: Path) -> dict[str, float]:
    """In the order of a request's way; the same step for JSON beside that for binary."""
    row = np.ones((1, WIDTH), np.float32)
    alone, together = linked(1, rounds), linked(BATCH, rounds)
    return {
        f"listener, {BUSY.label}": listened(rounds, folder),
        f"gRPC, {BUSY.label}": called(rounds, folder),
        **decoded(container, row, rounds),
        f"batcher, {BATCH} waiting": batched(row, rounds),
        f"{BATCH} rows gathered": best(lambda: np.concatenate([row] * BATCH), rounds) / BATCH,
        f"link, the gateway's end, {BATCH} rows": together.gateway / BATCH,
        f"link, the replica's end, {BATCH} rows": together.replica / BATCH,
        "link, the gateway's end, 1 row": alone.gateway,
        "link, the replica's end, 1 row": alone.replica,
        **run(container, rounds),
        **answered(container, row, rounds),
        **counted(rounds),
    }


def decoded(container: Container, row: Row, rounds: int) -> dict[str, float]:
    checker, tail = RequestChecker(container.signature, GatewayConfig()), memoryview(row.tobytes())
    binary, inline = head_of(row, binary=True), head_of(row, binary=False)
    plan = checker.read(binary)
    return {
        "head, seen before": best(lambda: checker.read(binary), rounds),
        "head, new": best(lambda: RequestChecker(container.signature, GatewayConfig()).read(binary), rounds),
        "binary input to array": best(lambda: arrays_of(plan.head, tail), rounds),
        "JSON request to array": best(
            lambda: RequestChecker(container.signature, GatewayConfig()).read(inline), rounds
        ),
    }


def run(container: Container, rounds: int) -> dict[str, float]:
    batch = torch.ones(BATCH, WIDTH)
    return {
        f"run, {BATCH} rows": best(lambda: container.run([batch]), rounds) / BATCH,
        "run, 1 row": best(lambda: container.run([batch[:1]]), rounds),
    }


def answered(container: Container, row: Row, rounds: int) -> dict[str, float]:
    checker = RequestChecker(container.signature, GatewayConfig())
    plan, as_json = (checker.read(head_of(row, binary=binary)) for binary in (True, False))
    return {
        "answer, binary": best(lambda: encoded(plan, row), rounds),
        "answer, JSON": best(lambda: encoded(as_json, row), rounds),
    }


def counted(rounds: int) -> dict[str, float]:
    """The figures: what each request adds, alone in its batch or among many. The batcher's step has its part of it."""
    model = ModelFigures("mlp")
    figures, response, run = GatewayFigures([model]), InferResponse("mlp", 1, None), RunFacts(1000, 1000, 1000, 1000)

    def request() -> None:
        with figures.request(HTTP, "mlp") as one:
            one.response = response

    def batch(waits: list[float]) -> None:
        model.round_trip.note(1e-3)
        model.note_run(1, len(waits), len(waits), waits, run)

    each, alone, together = (
        best(step, rounds) for step in (request, lambda: batch([1e-3]), lambda: batch([1e-3] * BATCH))
    )
    return {"figures, 1 row": each + alone, f"figures, {BATCH} rows": each + together / BATCH}


def head_of(row: Row, *, binary: bool) -> bytes:
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": list(row.shape)}
    tensor |= {"parameters": {"binary_data_size": row.nbytes}} if binary else {"data": row.ravel().tolist()}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()


def encoded(plan: CheckedRequest, row: Row) -> object:
    outputs = [(spec, row) for _, spec in plan.outputs]
    return encode_response(InferResponse("mlp", 1, None, outputs), plan.head)


def batched(row: Row, rounds: int) -> float:
    """The batcher's own part: requests that come together, a run that takes no time."""

    async def run(arrays: list[NDArray[Any]], _: float | None) -> AnswerMessage:
        return AnswerMessage(1, 1, arrays)

    async def scenario() -> float:
        batcher = Batcher(ModelFigures("mlp"), BatchingConfig(), run, batches=True)
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
