"""Labels of a real server: moved, kept through a swap, and asked for by name."""

from __future__ import annotations

import httpx

from tests.e2e.served import Eager, Server
from tests.e2e.wire import until


def test_a_label_moves_between_versions_and_requests_may_name_it(server: Server, eager: Eager) -> None:
    first = server.swap(eager.files["v1"], label="one").json()["current"]["number"]
    second = server.swap(eager.files["v2"], label="two").json()["current"]["number"]
    url = f"{server.url}/v2/models/digits/weights/labels"
    with httpx.Client(headers=server.admin, timeout=60, trust_env=False) as client:
        assert client.put(f"{url}/stable", json={"version": first, "expected": None}).json() == {"stable": first}
        moved = client.put(f"{url}/stable", json={"version": second, "expected": second + 1})
        assert (moved.status_code, server.status()["labels"]) == (409, {"stable": first})
        ready = f"{server.url}/v2/models/digits/versions/stable/ready"
        until(lambda: client.get(ready).status_code == 200)  # the version before is resident
        server.swap(eager.files["v1"], label="three")
        until(lambda: client.get(ready).status_code == 404)
        assert f"holds no version {first}, which is labelled" in client.get(ready).json()["error"]
        assert client.put(f"{url}/stable", json={"version": second, "expected": first}).status_code == 200
        until(lambda: client.get(ready).status_code == 200)
        assert client.delete(f"{url}/stable", params={"expected": second}).json() == {}
        until(lambda: client.get(ready).status_code == 404)
