"""Ray's HAProxy, with its open pages on this machine only, and errors that say what they are.

Ray writes HAProxy's configuration and starts the program that `RAY_SERVE_HAPROXY_BINARY_PATH` names. `aoti-serve up`
names a script that runs this file: it changes a few lines of the configuration and becomes HAProxy. A line that it does
not know, of another version of Ray, stays as it is.

It runs on its own, at each start and reload: nothing but the standard library is imported.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
LOG_TARGET = "RAY_SERVE_HAPROXY_LOG_TARGET"
LOOPBACK = "127.0.0.1"
# The status, its name, what to say, and further header lines. HAProxy says 400 in its own words, whatever one wants.
ERRORS = (
    (502, "Bad Gateway", "the gateway died while it answered", ""),
    (503, "Service Unavailable", "no gateway answers", "Retry-After: 1\r\n"),
    (504, "Gateway Timeout", "the gateway did not answer in time", ""),
)


def write_wrapper(folder: Path, haproxy: str) -> Path:
    """Write the script and its error pages into the folder; the script's path."""
    for status, name, text, headers in ERRORS:
        (folder / f"{status}.http").write_bytes(_page(status, name, text, headers))
    script = folder / "haproxy"
    command = shlex.join([sys.executable, "-I", "-S", os.path.abspath(__file__), haproxy, str(folder)])
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o700)
    return script


def adapted(config: str, pages: Path, *, logs: bool) -> str:
    """The configuration with statistics and metrics on loopback, and our error pages in place of Ray's.

    Without `logs` no line about every request is sent to port 514, where usually nobody listens.
    """
    if not logs:
        config = re.sub(rf"(?m)^[ \t]*log {re.escape(LOOPBACK)}:514 .*\n", "", config)
    config = re.sub(r"(?m)^(frontend prometheus\n\s*bind ):", rf"\g<1>{LOOPBACK}:", config)
    config = re.sub(r"(?m)^(listen stats\n\s*bind )\*:", rf"\g<1>{LOOPBACK}:", config)
    mine = "".join(rf"\g<1>errorfile {status} {pages}/{status}.http" + "\n" for status, *_ in ERRORS)
    return re.sub(r"(?m)(?:^([ \t]*)errorfile \d+ .*\n)+", mine, config)


def main(haproxy: str, folder: str, *arguments: str) -> None:
    """Adapt the configuration that `-f` names, then become HAProxy."""
    path = Path(arguments[arguments.index("-f") + 1])
    changed = path.with_suffix(".changed")
    changed.write_text(adapted(path.read_text(), Path(folder), logs=LOG_TARGET in os.environ))
    changed.replace(path)
    os.execv(haproxy, [haproxy, *arguments])


def _page(status: int, name: str, text: str, headers: str) -> bytes:
    body = json.dumps({"error": text})
    lines = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}"
    return f"HTTP/1.1 {status} {name}\r\n{lines}\r\n{body}".encode()


if __name__ == "__main__":
    main(*sys.argv[1:])
