"""One run of `h2load`, which speaks HTTP/1.1 and HTTP/2, so that gRPC and HTTP are asked by the same client."""

from __future__ import annotations

import re
import statistics
import subprocess
from pathlib import Path

from httpbench.bodies import GRPC_HEADERS, Request
from httpbench.wrk import Sample

PERCENT = (50, 90, 99)


def measured(url: str, request: Request, folder: Path, *, connections: int, seconds: float) -> Sample:
    """`connections` with one request each, that ask again as soon as they are answered."""
    (folder / "body").write_bytes(request.body)
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)  # h2load adds to it
    protocol = [] if request.headers == GRPC_HEADERS else ["--h1"]
    options = [f"-c{connections}", "-m1", f"-D{max(1, round(seconds))}", f"--log-file={log}", f"-d{folder / 'body'}"]
    headers = [f"-H{name}: {value}" for name, value in request.headers.items()]
    command = ["h2load", *protocol, *options, *headers, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return parsed(done.stdout, log.read_text(), request.least)


def parsed(output: str, log: str, least: int) -> Sample:
    """Answers that cannot all have had `least` bytes: some were errors of gRPC, which have status 200 and no body."""
    rate = float(_found(r"([\d.]+) req/s", output))
    answered = int(_found(r"status codes: (\d+) 2xx", output))
    broken = int(_found(r"(\d+) errored", output))
    empty = max(0, answered - int(_found(r"\((\d+)\) data", output)) // least)
    refused = int(_found(r"(\d+) failed", output)) - broken + empty
    milliseconds = [int(line.split("\t")[2]) / 1e3 for line in log.splitlines()]
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    p50, p90, p99 = (cuts[percent - 1] for percent in PERCENT)
    return Sample(rate * (answered - empty) / max(answered, 1), p50, p90, p99, refused, broken)


def _found(pattern: str, output: str) -> str:
    found = re.search(pattern, output)
    assert found is not None, output
    return found[1]
