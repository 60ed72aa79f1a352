"""What no route answers is told in JSON: unknown paths, unknown methods, and what Triton serves and this server not."""

from __future__ import annotations

import pytest

from tests.unit.gateway.http.gateway import INFER, NAME, WEIGHTS, Gateway, assert_error, rows_of

# With the start of the way out, which each of them names.
UNSERVED = [
    *((f"/v2/repository/models/{NAME}/{action}", "POST /v2/models/") for action in ("load", "unload")),
    *((f"/v2{place}/trace/setting", "send an X-Request-ID") for place in ("", f"/models/{NAME}")),
    ("/v2/logging", "in the configuration"),
    *(
        (f"/v2/{kind}sharedmemory{region}/{action}", "as binary data")
        for kind in ("system", "cuda")
        for region in ("", "/region/mine")
        for action in ("status", "register", "unregister")
    ),
    *(
        (f"/v2/models/{NAME}{version}/{action}", "/infer")
        for version in ("", "/versions/7")
        for action in ("generate", "generate_stream")
    ),
]


@pytest.mark.parametrize(("path", "instead"), UNSERVED)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_triton_has_and_this_server_not_is_told_with_the_way_out(
    gateway: Gateway, method: str, path: str, instead: str
) -> None:
    assert instead in assert_error(await gateway.client.request(method, path), 501)
    assert rows_of(await gateway.infer(1.0)).tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v2", "GET, HEAD, OPTIONS"),
        (INFER, "POST, OPTIONS"),
        (WEIGHTS, "GET, POST, OPTIONS"),
        (f"{WEIGHTS}/rollback", "POST, OPTIONS"),
        (f"{WEIGHTS}/candidate", "POST, OPTIONS"),
        ("/v2/logging", "GET, HEAD, POST, OPTIONS"),
    ],
)
async def test_a_path_says_which_methods_it_takes(gateway: Gateway, path: str, methods: str) -> None:
    asked = await gateway.client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, methods, b"")
    for method in ("DELETE", "PUT", "x" * 5000):
        refused = await gateway.client.request(method, path)
        assert methods in assert_error(refused, 405)
        assert refused.headers["allow"] == methods


@pytest.mark.parametrize("path", ["/nowhere", "/v2/", f"{INFER}/", f"/v2/models/{NAME}/", "/v2//health/live"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_a_path_that_is_nearly_right_is_a_404_and_leads_nowhere_else(
    gateway: Gateway, method: str, path: str
) -> None:
    """A redirect would name a scheme and a host that a proxy may have changed."""
    text = assert_error(await gateway.client.request(method, path), 404)
    assert path in text
    assert "/v2/models lists what is served" in text
