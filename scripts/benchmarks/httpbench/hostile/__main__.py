"""Hostile clients against a live server, and a small client beside them: how much longer does it wait?

    scripts/bench hostile [--only NAME,NAME] [--json]

One server with two models and every limit at its default. For each case the small client sends one request after the
other on a connection of its own, first alone, then while the case lasts and a second longer; target: its longest wait
grows by at most 0.3 s, and no request of its fails. Everything stays on the loopback interface; all of it takes about
ten minutes, most of them waiting for the server to lose patience. The result is also in var/bench/hostile.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from httpbench.contenders import Endpoint
from httpbench.environments import say
from httpbench.frame import bench, keep
from httpbench.hostile import models, payloads
from httpbench.hostile.cases import Case, all_cases
from httpbench.hostile.probe import Probe, Waits, probing
from httpbench.hostile.report import Outcome, as_dict, show
from httpbench.hostile.wire import Target
from httpbench.memory import watched
from httpbench.ours import TOKEN
from httpbench.ours import server as our_server
from httpbench.servers import Failed, Running, running
from httpbench.verify import answers

BEFORE_S, AFTER_S = 3.0, 1.0
WIDTHS = {models.MLP: 1024, models.TOKENS: models.COLUMNS}


def main() -> None:
    options = _options()
    with bench() as folder:
        outcomes = _outcomes(folder, options.only)
    keep("hostile", as_dict(outcomes))
    print(json.dumps(as_dict(outcomes), indent=1)) if options.json else show(outcomes)


def _outcomes(folder: Path, only: Sequence[str]) -> list[Outcome]:
    say("compiling the models")
    served = models.made(folder)
    cases = [case for case in all_cases(served.output) if not only or case.name in only]
    server = our_server("hostile", *served.models)
    endpoint = Endpoint("hostile", f"/v2/models/{models.MLP}/infer", "v2")
    gc.collect()
    gc.freeze()  # a collection of all that torch has made would be a pause of the clients
    say("starting")
    with running(server, folder, lambda url: answers(url, (endpoint,))) as up:
        _allow_many_connections()
        port = int(up.url.rpartition(":")[2])
        target = Target("127.0.0.1", port, server.env[TOKEN])
        return list(_survived(cases, up, target, folder))


def _survived(cases: Sequence[Case], server: Running, target: Target, folder: Path) -> Iterator[Outcome]:
    """Case by case, until one is the server's last."""
    for case in cases:
        yield _outcome(case, server, target, folder)
        try:
            server.check_alive()
        except Failed as failure:
            say(f"  {case.name}: {failure}")
            return


def _allow_many_connections() -> None:
    """To this process alone: the server, which runs already, has what a user's shell gives it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _outcome(case: Case, server: Running, target: Target, folder: Path) -> Outcome:
    say(f"{case.name}: {case.sends}")
    small = folder / "small"
    small.write_bytes(payloads.rows(case.model, 1, WIDTHS[case.model]))
    with probing(target.host, target.port, small) as probe:
        _waits(probe, 1.0)
        before = _waits(probe, BEFORE_S)
        began = time.monotonic()
        probe.start()
        with watched(server) as memory:
            said = uvloop.run(_attacked(case, target))
            time.sleep(AFTER_S)
        during = probe.stop()
    return Outcome(
        case.name, case.sends, dict(said), before, during, max(memory) - memory[0], time.monotonic() - began - AFTER_S
    )


async def _attacked(case: Case, target: Target) -> dict[str, int]:
    return await case.attack(target)


def _waits(probe: Probe, seconds: float) -> Waits:
    probe.start()
    time.sleep(seconds)
    return probe.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME[,NAME]")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
