"""Clients that ask a model all the time, each under a routing key of its own; every answer is checked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.e2e.served import logits_of

Numbers = NDArray[np.float32]
Expected = Callable[[Numbers], Numbers]


class KeyedAnswer(NamedTuple):
    key: str
    version: int


class CheckedTraffic:
    """`known` says what each version answers to an input; `answers` are in order of their arrival.

    `wrong` is what was no answer, or none of the version that it names.
    """

    def __init__(self, url: str, model: str, known: Mapping[int, Expected]) -> None:
        self.known = dict(known)
        self.answers: list[KeyedAnswer] = []
        self.wrong: list[str] = []
        self._url = url
        self._path = f"/v2/models/{model}/infer"
        self._done = threading.Event()

    def ask(self, number: int, name: str, x: Numbers) -> None:
        """Until `stop`. Half of the clients say their key in a header, the others in a parameter."""
        key = f"client {number}"
        tensor = {"name": name, "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        request: dict[str, Any] = {"json": {"inputs": [tensor]}}
        if number % 2:
            request["json"]["parameters"] = {"routing_key": key}
        else:
            request["headers"] = {"X-Routing-Key": key}
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            while not self._done.is_set():
                self._check(key, x, client.post(self._path, **request))

    def stop(self) -> None:
        self._done.set()

    def since(self, mark: int) -> list[int]:
        """The versions that answered, without the first so many answers; from the end if it is below 0."""
        return [answer.version for answer in self.answers[mark:]]

    def versions_by_key(self, mark: int) -> dict[str, set[int]]:
        """Since then; without each client's first answer, which may have been on its way before."""
        found: dict[str, list[int]] = {}
        for key, version in self.answers[mark:]:
            found.setdefault(key, []).append(version)
        return {key: set(versions[1:]) for key, versions in found.items() if len(versions) > 1}

    def _check(self, key: str, x: Numbers, response: httpx.Response) -> None:
        if response.status_code != 200:
            self.wrong.append(response.text)
            return
        version, logits = logits_of(response)
        if not np.allclose(logits, self.known[version](x), atol=1e-4):
            self.wrong.append(f"version {version} did not answer that")
        self.answers.append(KeyedAnswer(key, version))


@contextmanager
def checked_traffic(
    url: str, model: str, name: str, inputs: Sequence[Numbers], known: Mapping[int, Expected]
) -> Iterator[CheckedTraffic]:
    """A client for each of the inputs, which are called `name`; at the end nothing may have been wrong."""
    traffic = CheckedTraffic(url, model, known)
    threads = [threading.Thread(target=traffic.ask, args=(number, name, x)) for number, x in enumerate(inputs)]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        traffic.stop()
        for thread in threads:
            thread.join()
    assert traffic.wrong == [], traffic.wrong[:3]
