"""What a Python program says of a swap, and what is sent of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from aoti_serve import GoldenRequest, save_golden
from aoti_serve.cluster.swap_call import Golden, swap_options
from aoti_serve.errors import UnreadableGolden
from aoti_serve.signature.golden.file import parse_golden

REQUEST = GoldenRequest("one", {"x": np.zeros(3, np.float32)})


def test_without_golden_requests_nothing_is_sent_first() -> None:
    options, content = swap_options("new", {"partial": True, "base_version": 3})
    assert (options.label, options.partial, options.golden, content) == ("new", True, None, b"")


def test_golden_requests_or_a_file_of_them_are_named_by_their_bytes(tmp_path: Path) -> None:
    save_golden([REQUEST], tmp_path / "golden.safetensors")
    for golden in ([REQUEST], tmp_path / "golden.safetensors"):
        options, content = swap_options("new", {"golden": golden})
        assert options.golden == hashlib.sha256(content).hexdigest()
        assert [request.name for request in parse_golden(content)] == ["one"]


def test_what_is_no_golden_request_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "golden.safetensors").write_bytes(b"nothing")
    wrong: list[Golden] = [tmp_path / "golden.safetensors", tmp_path / "nowhere", []]
    for golden in wrong:
        with pytest.raises(UnreadableGolden):
            swap_options("new", {"golden": golden})
    with pytest.raises(ValidationError, match="no golden requests are asked"):
        swap_options("new", {"golden": [REQUEST], "skip_acceptance": True})
