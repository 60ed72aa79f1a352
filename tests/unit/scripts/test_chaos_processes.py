"""The chaos lab finds a process by its title, which holds the name of its class."""

from __future__ import annotations

from chaoslab.kills import TITLES

from aoti_serve.cluster.transfer.actor import TransferActor


def test_the_actor_that_hands_out_bytes_is_found_by_its_name() -> None:
    assert TITLES["transfer"] == f"ray::{TransferActor.__name__}"
