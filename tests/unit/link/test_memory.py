"""Memory for what arrives: used again once nobody holds it, never before."""

from __future__ import annotations

import numpy as np

from aoti_serve.link.memory import KEPT_BYTES, LARGE, MEMORY_ALIGNMENT, Memory


def place(view: memoryview) -> int:
    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    return address


def test_a_large_piece_is_used_again_when_its_last_view_has_gone() -> None:
    memory = Memory()
    first = memory.take(LARGE)
    tensor = np.frombuffer(first, np.float32)
    at = place(first)
    del first
    assert place(memory.take(LARGE)) != at, "a tensor is still a view of it"
    del tensor
    assert place(memory.take(LARGE)) == at


def test_a_piece_that_is_far_too_large_is_left_for_others() -> None:
    memory = Memory()
    at = place(memory.take(8 * LARGE))
    assert place(memory.take(LARGE)) != at


def test_no_more_is_kept_than_a_bound() -> None:
    memory = Memory()
    pieces = [memory.take(KEPT_BYTES // 4) for _ in range(8)]
    places = [place(piece) for piece in pieces]
    del pieces
    again = [memory.take(KEPT_BYTES // 4) for _ in range(8)]
    assert len({place(piece) for piece in again} & set(places[-3:])) == 3


def test_every_piece_is_aligned_and_as_large_as_asked() -> None:
    memory = Memory()
    for nbytes in (1, 100, LARGE, LARGE + 1):
        piece = memory.take(nbytes)
        assert len(piece) == nbytes
        assert place(piece) % MEMORY_ALIGNMENT == 0
