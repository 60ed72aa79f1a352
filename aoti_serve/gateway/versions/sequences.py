"""Sequences: requests that belong together stay with the version that the first of them met. Pure.

No gateway remembers a sequence: the client holds its state, and with it the number of the version that has made it,
which every answer names. So any gateway can go on with it, also after the one before has ended.
"""

from __future__ import annotations

from aoti_serve.errors import SequenceEnded, SequenceWithoutVersion, UnknownVersion
from aoti_serve.protocol.messages import SequenceStep


def check_step(step: SequenceStep, asked: str | None) -> None:
    """Raise SequenceWithoutVersion if it goes on, and no number says with which version: other names may move."""
    if not step.begins and not (asked and asked.isascii() and asked.isdecimal()):
        raise SequenceWithoutVersion(sequence=step.id)


def refusal(step: SequenceStep | None, error: UnknownVersion) -> UnknownVersion | SequenceEnded:
    """What a client is told whose version no replica holds."""
    if step is None or step.begins:
        return error
    return SequenceEnded(sequence=step.id, name=error.name, version=error.version, current=error.current)
