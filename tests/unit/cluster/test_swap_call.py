"""What a Python program says of a swap, and what is sent of it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from aoti_serve import GoldenRequest, RolloutPlan, save_golden
from aoti_serve.cluster.swap_call import Golden, WrittenPlan, checked_arguments, swap_call
from aoti_serve.errors import InvalidConfig, UnreadableGolden
from aoti_serve.signature.golden.file import parse_golden
from aoti_serve.weights.swap_options import ExposureOptions

REQUEST = GoldenRequest("one", {"x": np.zeros(3, np.float32)})


def test_without_golden_requests_nothing_is_sent_first() -> None:
    options, content, _ = swap_call("new", {"partial": True, "base_version": 3})
    assert (options.label, options.partial, options.golden, content) == ("new", True, None, b"")


def test_golden_requests_or_a_file_of_them_are_named_by_their_bytes(tmp_path: Path) -> None:
    save_golden([REQUEST], tmp_path / "golden.safetensors")
    for golden in ([REQUEST], tmp_path / "golden.safetensors"):
        options, content, _ = swap_call("new", {"golden": golden})
        assert options.golden == hashlib.sha256(content).hexdigest()
        assert [request.name for request in parse_golden(content)] == ["one"]


def test_what_is_no_golden_request_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "golden.safetensors").write_bytes(b"nothing")
    wrong: list[Golden] = [tmp_path / "golden.safetensors", tmp_path / "nowhere", []]
    for golden in wrong:
        with pytest.raises(UnreadableGolden):
            swap_call("new", {"golden": golden})
    with pytest.raises(InvalidConfig, match="no golden requests are asked"):
        swap_call("new", {"golden": [REQUEST], "skip_acceptance": True})


PLAN = RolloutPlan(canary=(0.1, 0.5), each=30.0)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(PLAN, id="value"),
        pytest.param({"canary": ["10%", 0.5], "each": "30s"}, id="dict"),
        pytest.param({"rollout": {"canary": [0.1, "50%"], "each": 30}}, id="dict-of-a-file"),
        pytest.param("rollout:\n  canary: [10%, 50%]\n  each: 30s\n", id="yaml"),
        pytest.param('{"canary": [0.1, 0.5], "each": "30s"}', id="json"),
    ],
)
def test_a_rollout_is_a_plan_however_it_is_written(written: WrittenPlan) -> None:
    options, *_ = swap_call("new", {"rollout": written})
    assert options.rollout == PLAN


def test_without_a_rollout_the_configuration_decides_and_false_is_none() -> None:
    assert swap_call("new", {})[0].rollout is None
    assert swap_call("new", {"rollout": None})[0].rollout is None
    assert swap_call("new", {"rollout": False})[0].rollout is False
    assert swap_call("new", {"rollout": {}})[0].rollout == RolloutPlan()


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"canaries": [0.1]}, "rollout: canaries: there is no such key"),
        ("each: soon", "rollout: each: 'soon' is no duration"),
        ({"abort_if": {"p99": "0.5x"}}, "rollout: abort_if.p99: '0.5x' would ask for a candidate that is faster"),
    ],
)
def test_a_plan_that_is_none_is_refused_by_its_key(written: WrittenPlan, says: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(says)):
        swap_call("new", {"rollout": written})


def test_an_argument_that_will_not_do_is_named_in_words() -> None:
    with pytest.raises(InvalidConfig, match=r"^sha256: 'x' is not a sha256: 64 digits"):
        swap_call("", {"sha256": "x"})
    with pytest.raises(InvalidConfig, match=r"^share: 5 is more than the whole: write 5% or 0.05$"):
        checked_arguments(ExposureOptions, {"share": 5})
