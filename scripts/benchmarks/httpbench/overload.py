"""Ten times what our server can do, for a minute: what it accepts, what it refuses, and how it comes back.

    scripts/bench overload [--seconds 60] [--times 10] [--json]

A model that takes about 50 ms for a batch of 4, one replica, one runner, `max_queue_wait_ms` 50. Capacity is measured
with as many connections as keep the runner and the next batch full (wrk); the overload comes at a constant rate from a
client that does not wait for answers. Latencies are those of requests as sent; `late` tells how far behind its own plan
the client was. The result is also in var/bench/overload.json.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import torch
from models import compiled

from httpbench.bodies import WIDTH, request, rows_of
from httpbench.connection import Piece
from httpbench.contenders import OURS, V2_PATH, Endpoint
from httpbench.environments import say
from httpbench.flood import Flood, Phase, recovered_after, summed_up, windows
from httpbench.floodreport import as_dict, show
from httpbench.frame import bench, keep
from httpbench.heavy import calibrated
from httpbench.loads import Load
from httpbench.memory import watched
from httpbench.openloop import asked
from httpbench.ours import Model
from httpbench.ours import server as our_server
from httpbench.servers import Running, running
from httpbench.verify import Verifier, answers
from httpbench.wrk import measured

MS, BATCH, RUNNERS, QUEUE_WAIT_MS = 50.0, 4, 1, 50
FULL = Load(3 * BATCH * RUNNERS)
CLOSED_S, OPEN_S, AFTER_S = 10.0, 10.0, 30.0


def main() -> None:
    options = _options()
    with bench(wrk="wrk") as folder:
        flood = _flooded(folder, options)
    keep("overload", as_dict(flood))
    print(json.dumps(as_dict(flood), indent=1)) if options.json else show(flood)


def _flooded(folder: Path, options: argparse.Namespace) -> Flood:
    say("compiling the model")
    module = calibrated(MS, BATCH)
    compiled(module, (torch.randn(BATCH, WIDTH),), folder, "heavy", stock=False)
    gc.collect()
    gc.freeze()  # a collection of all that torch has made would be a pause of the client
    model = Model(folder / "heavy.pt2", folder / "heavy.safetensors", RUNNERS, BATCH, QUEUE_WAIT_MS)
    endpoint = Endpoint(OURS, V2_PATH, "v2", (FULL,))
    say("starting")
    with running(our_server("overload", model), folder, lambda url: answers(url, (endpoint,))) as server:
        Verifier(module).check(server.url, endpoint, 1)
        return _phases(server, folder, options)


def _phases(server: Running, folder: Path, options: argparse.Namespace) -> Flood:
    url, one = server.url + V2_PATH, request("v2", rows_of(1))
    measured(url, one, folder, connections=FULL.connections, seconds=2)
    say("  capacity")
    closed = measured(url, one, folder, connections=FULL.connections, seconds=CLOSED_S)
    capacity, phases = closed.rate, [Phase.of_wrk(f"capacity ({FULL.connections} connections)", closed)]

    def flow(*shares: tuple[str, float, float]) -> list[Phase]:
        """Shares of the capacity, each for some seconds; the last one's seconds."""
        pieces = [Piece(share * capacity, seconds) for _, share, seconds in shares]
        names = [name for name, _, _ in shares]
        say("  " + ", then ".join(f"{name}: {piece.rate:,.0f}/s" for name, piece in zip(names, pieces, strict=True)))
        found = asked(url, one, *pieces)
        phases.extend(map(summed_up, names, pieces, found))
        return windows(pieces[-1], found[-1])

    flow(("90 %", 0.9, OPEN_S))
    before = flow(("50 %", 0.5, OPEN_S))
    with watched(server) as memory:
        after = flow((f"{options.times:g}x", options.times, options.seconds), ("50 % right after", 0.5, AFTER_S))
    server.check_alive()
    return Flood(capacity, phases, memory, recovered_after(before, after), options.seconds, AFTER_S)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--times", type=float, default=10.0, help="the capacity")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
