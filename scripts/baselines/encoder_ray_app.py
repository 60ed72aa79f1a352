"""The original sentence encoder behind Ray Serve's `@serve.batch`, as its documentation writes it.

    python encoder_ray_app.py --port N

SIGTERM takes everything down.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from itertools import chain
from typing import Any

import ray
from encoder_original import BATCH, Original
from ray import serve
from starlette.requests import Request


class Batched:
    """Waits up to 2 ms for a batch."""

    def __init__(self) -> None:
        self.model = Original()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.002)
    async def infer(self, asked: list[list[str]]) -> list[list[list[float]]]:
        found = iter(self.model(list(chain.from_iterable(asked))))
        return [[next(found) for _ in sentences] for sentences in asked]

    async def __call__(self, request: Request) -> list[list[float]]:
        answer: list[list[float]] = await self.infer((await request.json())["sentences"])
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    stop = threading.Event()
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray has put its own handlers in
        signal.signal(number, lambda *_: stop.set())
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    made: Any = serve.deployment(Batched)
    serve.run(made.options(max_ongoing_requests=1000).bind())
    stop.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main()
