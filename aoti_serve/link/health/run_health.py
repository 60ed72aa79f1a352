"""The health of one replica: outcomes of runs and a clock in, a verdict out."""

from __future__ import annotations

import math
from asyncio import CancelledError
from collections.abc import Callable

from aoti_serve.errors import DeadlineExceeded, InvalidInput, Unavailable

PROBE_REST_S = 1.0  # the least time between two probes
PROBE_PART = 0.1  # of its time: what probes may take of a runner
PATIENCE = 2.0  # times the longest run
FADING = 0.99  # of the longest run, with each one that succeeds: a rare long one is not forgotten at once


class RunHealth:
    """Judges whether runs succeed, in one event loop.

    Any run that succeeds is proof, a client's as well as a probe's: a replica with traffic needs no probe. A client's
    run that fails proves nothing, since the client may be at fault; it makes a probe due. So does half a `period`
    without a success. A replica is at fault if a probe has failed, or if it has had work for the other half of the
    period and finished none of it; until a run succeeds. So a fault shows within a period. A model whose runs take
    longer gets more time: slow is not broken, and probes take a tenth of a runner at most.

    `clock` gives seconds that pass only while this process runs: a process that was stopped must not take that for the
    silence of others.
    """

    def __init__(self, period: float, clock: Callable[[], float]) -> None:
        self._half = period / 2
        self._clock = clock
        self._proven = self._probing = False
        self._suspect = False
        self._broken = ""
        self._in_hand = 0
        self._owes_since: float | None = None
        self._longest = 0.0
        self._probed = -math.inf
        self._tried = clock()  # the last success, or the last probe

    @property
    def trusted(self) -> bool:
        """Whether a run has succeeded, and nothing speaks against the next one."""
        return self._proven and not self._broken and self._owed() <= self._patience

    @property
    def fault(self) -> str | None:
        """The reason not to send work there, in words; None for a replica that has not run yet."""
        if self._broken:
            return f"its runs fail ({self._broken})"
        if (owed := self._owed()) > self._patience:
            return f"it has finished no run for {owed:.0f} s"
        return None

    @property
    def probe_due(self) -> bool:
        now = self._clock()
        if self._probing or now - self._probed < PROBE_REST_S:
            return False
        first = self._probed == -math.inf  # what the model makes of made-up inputs must be known before it breaks
        return first or self._suspect or now - self._tried >= max(self._half, self._longest / PROBE_PART)

    def begin(self) -> float:
        """A run begins; returns the time, for `end`."""
        now = self._clock()
        self._in_hand += 1
        if self._owes_since is None:
            self._owes_since = now
        return now

    def end(self, began: float, error: BaseException | None = None) -> None:
        """It ends, with this error if it has failed."""
        self._in_hand -= 1
        if error is None or isinstance(error, InvalidInput):  # an index out of range is found by a run
            self.succeed(self._clock() - began)
        else:
            self._suspect = True

    def succeed(self, seconds: float) -> None:
        """A run has succeeded that took so many seconds."""
        self._tried = self._clock()
        self._longest = max(seconds, FADING * self._longest)
        self._proven, self._suspect, self._broken = True, False, ""
        self._owes_since = self._tried if self._in_hand else None

    def begin_probe(self) -> None:
        self._probing, self._suspect = True, False
        self._probed = self._tried = self._clock()

    def end_probe(self, error: BaseException | None) -> None:
        """The probe is over. `error` says that no run of it has succeeded, though others of the same have."""
        self._probing = False
        if error is not None:
            self._broken = type(error).__name__

    @property
    def _patience(self) -> float:
        return max(self._half, PATIENCE * self._longest)

    def _owed(self) -> float:
        return 0.0 if self._owes_since is None else self._clock() - self._owes_since


def proves_nothing(error: BaseException) -> bool:
    """Whether a run has ended for reasons beside the run: it was cancelled, was late, or the replica cannot run now."""
    return isinstance(error, CancelledError | DeadlineExceeded | Unavailable)
