"""Requests with any header, any body, any lie about shape or size, to a whole gateway over the network."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoti_serve.signature.tensors import BY_OIP
from tests.unit.gateway.http.gateway import INFER
from tests.unit.gateway.http.listening import FIELDS, GOOD, HEAD, Client, listening

# In rounds: hypothesis remembers all that it has tried in one.
ROUNDS = pytest.mark.parametrize(
    ("rounds", "count"), [(1, 300), pytest.param(20, 1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
REFUSED = {400, 413}

SIZES = st.sampled_from([-1, 0, 1, 2, 3, 8, 64, 65, 2**31, 2**63, 2**70]) | st.integers(-3, 70)
SCALARS = st.none() | st.booleans() | SIZES | st.floats() | st.text(max_size=4)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))
LIES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "INPUT__0", "ARGS[0]", "z"]) | JSON,
        "datatype": st.sampled_from([*BY_OIP, "BYTES"]) | JSON,
        "shape": st.lists(SIZES, max_size=3) | st.just([1] * 40) | JSON,
        "data": st.lists(st.floats(width=32), max_size=4) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": SIZES | JSON}) | JSON,
    },
)
OUTPUTS = st.lists(st.fixed_dictionaries({"name": st.sampled_from(["y", "OUTPUT__0"]) | JSON}), max_size=3)
FLAGS = st.fixed_dictionaries({}, optional={"binary_data_output": st.booleans() | JSON, "priority": SIZES | JSON})
ENTRY: dict[str, Any] = json.loads(HEAD)["inputs"][0]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A request that is right, or nearly, with a lie or two; or any JSON; or any bytes."""
    kind = draw(st.sampled_from(["right", "right", "lies", "lies", "lies", "json", "bytes"]))
    if kind == "right":
        return HEAD
    if kind == "bytes":
        return draw(st.binary(max_size=64))
    if kind == "json":
        return json.dumps(draw(JSON)).encode()
    entries = [ENTRY | draw(LIES) for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2])))]
    request = {"inputs": entries} | draw(st.fixed_dictionaries({}, optional={"outputs": OUTPUTS, "parameters": FLAGS}))
    return json.dumps(request).encode()


PACKED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
LATIN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f\x85\xa0"), max_size=24)


@st.composite
def posts(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A body and its headers."""
    head = draw(heads())
    right = st.just((GOOD[len(HEAD) :], str(len(head))))
    shifted = st.integers(-2, 2).map(lambda shift: str(max(0, len(head) + shift)))
    wrong = st.tuples(st.binary(max_size=24), shifted | st.none() | SIZES.map(str) | LATIN)
    tail, length = draw(st.one_of(right, right, wrong))
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    coding = draw(st.one_of(st.none(), st.sampled_from([*PACKED, "br"]), st.none(), LATIN))
    if coding is not None:
        headers["Content-Encoding"] = coding
    body = draw(st.sampled_from([PACKED.get(coding or "", bytes), bytes]))(head + tail)
    if draw(st.integers(0, 9)) == 0 and body:
        at = draw(st.integers(0, len(body) - 1))
        body = draw(st.sampled_from([body[:at], body[:at] + b"\xff" + body[at + 1 :], body + body[at:]]))
    return body, headers | draw(st.dictionaries(st.sampled_from(["Accept-Encoding", "X-Request-ID", "Range"]), LATIN))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with listening() as (_, client):
        yield client


def assert_answered(client: Client, body: bytes, headers: dict[str, str]) -> int:
    """With outputs, or with a reason in JSON; and the next good request is answered."""
    status, answer = client.post(INFER, body, headers)
    if status != 200:
        assert status in REFUSED, (status, answer)
        assert 0 < len(json.loads(answer)["error"].encode()) <= 1024
    client.assert_good()
    return status


@ROUNDS
def test_any_request_is_answered_or_refused_and_the_next_good_one_is_answered(
    client: Client, rounds: int, count: int
) -> None:
    statuses: list[int] = []

    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(post=posts())
    def ask(post: tuple[bytes, dict[str, str]]) -> None:
        statuses.append(assert_answered(client, *post))

    for _ in range(rounds):
        ask()
    assert {200, 400} <= set(statuses)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(GOOD, FIELDS | {"Content-Encoding": "gzip"}, id="not compressed"),
        pytest.param(gzip.compress(bytes(2**27)), {"Content-Encoding": "gzip"}, id="a bomb"),
        pytest.param(GOOD, {"Inference-Header-Content-Length": "9" * 5000}, id="an endless length"),
        pytest.param(b'{"inputs":' + b"[" * 10_000, {}, id="a thousand lists"),
        pytest.param(b'{"inputs":[]}', {"Inference-Header-Content-Length": "\xb2"}, id="a digit that is none"),
    ],
)
def test_what_has_broken_others_is_refused(client: Client, body: bytes, headers: dict[str, str]) -> None:
    assert assert_answered(client, body, headers) in REFUSED
