"""What to do with a place that is followed: what is seen at each poll goes in, what to swap to comes out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aoti_serve.errors import AotiServeError, CandidateWithdrawn, NotSettled, StageFailed, UnreadableWeights
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.audit import MAX_TEXT, AttemptOutcome
from aoti_serve.weights.sources.found import FoundVersion, natural

MOST_TRIES = 2  # of one version whose try a coordinator has not survived
MOST_PAUSES = 10  # times the period
PASSING = (409, 503, 507)
UNDECIDED = (AttemptOutcome.BEGUN, AttemptOutcome.CANDIDATE)
UNKNOWN = "it was withdrawn, or rolled back; the audit log says why"  # an earlier coordinator knew


class Tried(Frozen):
    """The version of a place that was tried last, as the store remembers it, and what came of it.

    `number` is what the store calls it.
    """

    place: str
    name: str
    path: str
    fingerprint: str
    modified: float
    outcome: AttemptOutcome
    error: str | None = None
    tries: int = 1
    number: int | None = None

    @property
    def order(self) -> tuple[float, list[tuple[int, int, str]]]:
        return self.modified, natural(self.path)


class FollowStatus(Frozen):
    """A place that is followed: the newest version there, the one that was tried last, and what came of it.

    `uri` is without credentials. `error` is why that one failed, or why the place cannot be read now.
    """

    uri: str
    last_seen: str | None = None
    last_tried: str | None = None
    outcome: AttemptOutcome | None = None
    error: str | None = None


class Follow:
    """Decides which version of a place to try. Newest wins, never back to an older one, each once.

    A version counts once it was seen with the same fingerprint at two polls. `tried` is what the store remembers.
    """

    def __init__(self, place: str, tried: Tried | None) -> None:
        self.place = place
        self.tried = tried if tried is not None and tried.place == place else None
        self._before: dict[str, str] = {}  # fingerprints at the last poll, by path
        self._broken: dict[str, str] = {}  # of what is there, and no whole file

    def see(self, versions: Sequence[FoundVersion]) -> list[FoundVersion]:
        """A poll has found these; the ones to try, the best first."""
        before, self._before = self._before, {version.file.path: version.file.fingerprint for version in versions}
        self._broken = {path: self._broken[path] for path in self._before.keys() & self._broken.keys()}
        steady = [version for version in versions if before.get(version.file.path) == version.file.fingerprint]
        return sorted(filter(self._is_new, steady), key=lambda version: version.order, reverse=True)

    def note_broken(self, version: FoundVersion) -> None:
        """It is no whole file; not looked at again until it changes, or has been gone."""
        self._broken[version.file.path] = version.file.fingerprint

    def begun(self, version: FoundVersion, number: int) -> Tried:
        """The record of a try of what the store calls `number`, to be stored before anything can come of it."""
        tries = self.tried.tries + 1 if self.tried is not None and self._is_same(version, self.tried) else 1
        return self._tried(version, AttemptOutcome.BEGUN, number=number, tries=tries)

    def ended(
        self, version: FoundVersion, outcome: AttemptOutcome, error: str | None = None, number: int | None = None
    ) -> Tried:
        """The record of a try that has ended; it is not made again until the version's fingerprint changes."""
        self.tried = self._tried(version, outcome, error=error, number=number)
        return self.tried

    def decided(self, on_trial: int | None, current: int, why: str | None = None) -> Tried | None:
        """The record of what was tried last, if what has become of it since is new.

        `on_trial` is the number of the version that is out as a candidate, or that its rollout still watches; `current`
        that of the version that answers. One that was withdrawn has failed, and so has one that its rollout has rolled
        back; `why`, if it is known.
        """
        tried = self.tried
        if tried is None or tried.number is None or tried.outcome not in UNDECIDED:
            return None
        outcome = {current: AttemptOutcome.COMMITTED, on_trial: AttemptOutcome.CANDIDATE}.get(tried.number)
        if outcome is None and tried.outcome == AttemptOutcome.CANDIDATE:
            outcome = AttemptOutcome.FAILED
        if outcome is None or outcome == tried.outcome:
            return None
        error = (why or UNKNOWN)[:MAX_TEXT] if outcome == AttemptOutcome.FAILED else None
        self.tried = tried.model_copy(update={"outcome": outcome, "error": error, "tries": 1})
        return self.tried

    def _tried(self, version: FoundVersion, outcome: AttemptOutcome, **facts: Any) -> Tried:
        return Tried(
            place=self.place,
            name=version.name,
            path=version.file.path,
            fingerprint=version.file.fingerprint,
            modified=version.file.modified,
            outcome=outcome,
            **facts,
        )

    def _is_new(self, version: FoundVersion) -> bool:
        if self._broken.get(version.file.path) == version.file.fingerprint:
            return False
        if self.tried is None:
            return True
        if version.file.path != self.tried.path:
            return version.order > self.tried.order
        again = self.tried.outcome == AttemptOutcome.BEGUN and self.tried.tries < MOST_TRIES
        return again or not self._is_same(version, self.tried)

    @staticmethod
    def _is_same(version: FoundVersion, tried: Tried) -> bool:
        return (version.file.path, version.file.fingerprint) == (tried.path, tried.fingerprint)


def may_pass(error: BaseException) -> bool:
    """Whether another try of the same version may go better: another change is under way, or the place was cut off."""
    if isinstance(error, StageFailed | NotSettled | CandidateWithdrawn) or not isinstance(error, AotiServeError):
        return False
    return isinstance(error, UnreadableWeights) or error.http_status in PASSING


def pause(every: float, failures: int) -> float:
    """Seconds until the next poll, after so many failures in a row."""
    return float(min(every * 2 ** min(failures, MOST_PAUSES), every * MOST_PAUSES))
