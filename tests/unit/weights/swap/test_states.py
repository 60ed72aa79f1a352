"""The table of a swap's states, and the diagram that is drawn from it."""

from __future__ import annotations

from aoti_serve.weights import swap
from aoti_serve.weights.swap.states import ENDS, TRANSITIONS, Cause, State


def test_the_diagram_at_the_head_of_the_room_is_drawn_from_the_table() -> None:
    assert swap.__doc__ is not None
    shown = [line.strip() for line in swap.__doc__.splitlines() if "──>" in line]
    assert shown == diagram().splitlines()


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    reached, edge = set(), {State.STAGING}
    while edge:
        reached |= edge
        edge = {new for old in edge for new in TRANSITIONS.get(old, {}).values()} - reached
    assert reached == set(State)
    leads = set(ENDS)
    while more := {old for old, moves in TRANSITIONS.items() if leads & set(moves.values())} - leads:
        leads |= more
    assert leads == set(State)


def test_the_commit_point_is_passed_in_one_direction_only() -> None:
    """After STORING nothing leads back to where nothing has changed."""
    after, edge = set(), {TRANSITIONS[State.STORING][Cause.STORED]}
    while edge:
        after |= edge
        edge = {new for old in edge for new in TRANSITIONS.get(old, {}).values()} - after
    assert not after & {State.STAGING, State.STORING, State.ABORTING, State.ABORTED}


def test_every_cause_moves_something() -> None:
    assert {cause for moves in TRANSITIONS.values() for cause in moves} == set(Cause)


def diagram() -> str:
    """The table as text, one arrow to a line."""
    arrows = [(old, cause, new) for old, moves in TRANSITIONS.items() for cause, new in moves.items()]
    width = max(len(cause) for _, cause, _ in arrows)
    return "\n".join(f"{old:<10} ── {cause:<{width}} ──> {new}" for old, cause, new in arrows)
