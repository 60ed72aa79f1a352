"""Traffic for the digits demo: the held-out images, one per request, and what the server makes of them, live.

Each image is asked for by a client of its own, as the header X-Routing-Key says: a canary is a share of them.

    scripts/demo_traffic [--url http://127.0.0.1:8000] [--connections 4] [--seconds 60] [--json]

Shows, for each second: requests per second, p50 and p99 in milliseconds, errors, accuracy, and which versions answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import digits
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

ROWS_SHOWN = 15


@dataclass
class Second:
    """What came back within one second; `latencies` in seconds."""

    latencies: list[float] = field(default_factory=list)
    right: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def summary(self, at: int) -> dict[str, object]:
        answered = len(self.latencies)
        quantiles = statistics.quantiles(self.latencies, n=100) if answered > 1 else [0.0] * 99
        return {
            "second": at,
            "requests_per_s": answered,
            "p50_ms": round(quantiles[49] * 1e3, 2),
            "p99_ms": round(quantiles[98] * 1e3, 2),
            "errors": sum(self.errors.values()),
            "accuracy": round(self.right / answered, 4) if answered else None,
            "versions": dict(sorted(self.versions.items())),
            "error_texts": dict(self.errors.most_common(3)),
        }


class Traffic:
    """`connections` threads, each with a connection of its own, each sending one image after the other."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._lock = threading.Lock()
        self._second = Second()
        self._stop = threading.Event()
        held_out = digits.load()[1]
        self._requests = [_request(f"image {number}", image.numpy()) for number, image in enumerate(held_out.images)]
        self._labels = held_out.labels.tolist()
        self._threads = [threading.Thread(target=self._send, args=(index,)) for index in range(connections)]

    def seconds(self, limit: float) -> Iterator[Second]:
        """What came back in each second, until `limit` seconds have passed."""
        for thread in self._threads:
            thread.start()
        try:
            for _ in range(int(limit)) if limit else iter(int, 1):
                self._stop.wait(1.0)
                with self._lock:
                    done, self._second = self._second, Second()
                yield done
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _send(self, index: int) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        while not self._stop.is_set():
            index = (index + 1) % len(self._requests)
            started = time.perf_counter()
            try:
                version, guess = _infer(connection, *self._requests[index])
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                with self._lock:
                    self._second.errors[f"{type(error).__name__}: {error}"[:120]] += 1
                self._stop.wait(0.1)
                continue
            with self._lock:
                self._second.latencies.append(time.perf_counter() - started)
                self._second.right += guess == self._labels[index]
                self._second.versions[version] += 1
        connection.close()


def _request(key: str, image: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """A V2 request with binary tensors: the body and its headers."""
    raw = image.tobytes()
    shape, size = [1, *image.shape], {"binary_data_size": len(raw)}
    tensor = {"name": "image", "datatype": "FP32", "shape": shape, "parameters": size}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    return header + raw, headers | {"X-Routing-Key": key}


def _infer(connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> tuple[str, int]:
    """The version that answered, and the class it saw."""
    connection.request("POST", "/v2/models/digits/infer", body, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise ValueError(f"{response.status} {content[:200].decode(errors='replace')}")
    split = int(response.headers["Inference-Header-Content-Length"])
    return json.loads(content[:split])["model_version"], int(np.frombuffer(content[split:], np.float32).argmax())


def _table(rows: deque[dict[str, object]]) -> Table:
    table = Table("second", "requests/s", "p50 ms", "p99 ms", "errors", "accuracy", "versions answering")
    for row in rows:
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        versions = row["versions"]
        assert isinstance(versions, dict)
        seen = ", ".join(f"{version} ({count})" for version, count in versions.items())
        figures = [str(row[key]) for key in ("second", "requests_per_s", "p50_ms", "p99_ms", "errors")]
        table.add_row(*figures, accuracy, seen, style="red" if row["errors"] else "")
    return table


def _line(row: dict[str, object]) -> str:
    """A second in one line, for a pipe or a file."""
    figures = [f"{key} {row[key]}" for key in ("second", "requests_per_s", "p99_ms", "errors", "accuracy", "versions")]
    return "  ".join(figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Send the held-out digits to a running server and show what comes back."
    )
    parser.add_argument("--url", default=os.environ.get("AOTI_SERVE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0, help="stop after so many; 0: with Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one line of JSON per second")
    options = parser.parse_args()
    traffic = Traffic(options.url, options.connections)
    rows: deque[dict[str, object]] = deque(maxlen=ROWS_SHOWN)
    answered, errors = 0, Counter[str]()
    drawn = sys.stdout.isatty() and not options.json
    live = Live(_table(rows), console=Console(quiet=not drawn))
    with suppress(KeyboardInterrupt), live:
        for at, second in enumerate(traffic.seconds(options.seconds), start=1):
            rows.append(second.summary(at))
            live.update(_table(rows))
            answered += len(second.latencies)
            errors.update(second.errors)
            if not drawn:
                print(json.dumps(rows[-1]) if options.json else _line(rows[-1]), flush=True)
    if not options.json:
        print(f"{answered} answers, {sum(errors.values())} errors", *errors.most_common(3), sep="\n")
    if not answered:
        sys.exit(1)


if __name__ == "__main__":
    main()
