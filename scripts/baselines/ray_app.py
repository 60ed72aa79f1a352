"""Ray Serve with `@serve.batch` and eager PyTorch, as its documentation writes it; and the no-op ingress, its limit.

    python ray_app.py --port N [--apps batched,eager,noop] [--copies N] [--max-batch-size N] [--quiet]

`/` waits up to 2 ms for a batch, `/eager` not at all, `/noop` answers with the body it has read. Ray's own settings
come from the environment. SIGTERM takes everything down.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from typing import Any

import numpy as np
import ray
from eager import Eager, Rows, decoded
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

BINARY = "application/octet-stream"


class Batched:
    """One request's rows are one element of a batch."""

    def __init__(self, wait_s: float, max_batch_size: int) -> None:
        self.model = Eager()
        batching: Any = self.infer
        batching.set_batch_wait_timeout_s(wait_s)
        batching.set_max_batch_size(max_batch_size)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def infer(self, parts: list[Rows]) -> list[Rows]:
        answers = self.model(np.concatenate(parts))
        return np.split(answers, np.cumsum([len(part) for part in parts])[:-1])

    async def __call__(self, request: Request) -> Response:
        answer = await self.infer(decoded(await request.body()))
        return Response(answer.tobytes(), media_type=BINARY)


class Noop:
    """Reads 4 KB, answers 4 KB."""

    async def __call__(self, request: Request) -> Response:
        return Response(await request.body(), media_type=BINARY)


def targets(names: list[str], copies: int, max_batch_size: int, *, quiet: bool) -> list[serve.RunTarget]:
    known: dict[str, tuple[str, type, tuple[float, ...]]] = {
        "batched": ("/", Batched, (0.002, max_batch_size)),
        "eager": ("/eager", Batched, (0.0, max_batch_size)),
        "noop": ("/noop", Noop, ()),
    }
    logged = {"logging_config": {"enable_access_log": False, "log_level": "WARNING"}} if quiet else {}
    found = []
    for name in names:
        path, kind, arguments = known[name]
        made: Any = serve.deployment(kind)
        application = made.options(num_replicas=copies, max_ongoing_requests=1000, **logged).bind(*arguments)
        found.append(serve.RunTarget(application, name=name, route_prefix=path))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--apps", default="batched")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--max-batch-size", type=int, default=64)
    parser.add_argument("--quiet", action="store_true", help="no line in the log for each request")
    options = parser.parse_args()
    stop = threading.Event()
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray has put its own handlers in
        signal.signal(number, lambda *_: stop.set())
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    names = options.apps.split(",")
    serve.run_many(targets(names, options.copies, options.max_batch_size, quiet=options.quiet))
    stop.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main()
