"""One run of `wrk`, and what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from httpbench.bodies import Request

MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
TIMEOUT_S = 10  # above it wrk counts a socket error
SCRIPT = """\
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
"""


class Sample(NamedTuple):
    """Good answers per second; latencies in ms; how many answers were none of 2xx, and how many sockets broke."""

    rate: float
    p50: float
    p90: float
    p99: float
    refused: int = 0
    broken: int = 0


def measured(url: str, request: Request, folder: Path, *, connections: int, seconds: float) -> Sample:
    """`connections` that ask again as soon as they are answered."""
    (folder / "body").write_bytes(request.body)
    return scripted(url, _script(request, folder / "body"), folder, connections=connections, seconds=seconds)


def scripted(url: str, script: str, folder: Path, *, connections: int, seconds: float) -> Sample:
    """The same with what a script in Lua makes of each request."""
    (folder / "wrk.lua").write_text(script)
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s", "--latency"]
    command = ["wrk", *options, "-s", str(folder / "wrk.lua"), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return parsed(done.stdout)


def parsed(output: str) -> Sample:
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", output)
    assert total is not None, output
    refused = _count(r"Non-2xx or 3xx responses: (\d+)", output)
    seconds = float(total[2]) * MILLISECONDS[total[3]] / 1e3
    p50, p90, p99 = (_latency(share, output) for share in (50, 90, 99))
    broken = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", output)))
    return Sample((int(total[1]) - refused) / seconds, p50, p90, p99, refused, broken)


def _script(request: Request, body: Path) -> str:
    headers = [f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items()]
    return SCRIPT.format(body=body) + "".join(headers)


def _latency(share: int, output: str) -> float:
    found = re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s|m)", output, re.MULTILINE)
    assert found is not None, output
    return float(found[1]) * MILLISECONDS[found[2]]


def _count(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    return int(found[1]) if found else 0
