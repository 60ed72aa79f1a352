"""Who leads the store of a model: this application, or another one that has opened it since."""

from __future__ import annotations

import time

from aoti_serve.cluster.membership.server import MemberServer
from aoti_serve.cluster.status import FollowedApplication
from aoti_serve.errors import LedElsewhere


class Leadership:
    """Changes are made while this application leads. `status` is for people; `leader` says why changes are refused."""

    def __init__(self, members: MemberServer) -> None:
        self._members = members
        self.leader: LedElsewhere | None = None
        self.status: FollowedApplication | None = None

    def check(self) -> None:
        """Raise LedElsewhere if another application leads."""
        if self.leader is not None:
            raise self.leader

    def lose(self, leader: LedElsewhere) -> None:
        """Another application leads from now on."""
        self.leader = leader
        self.status = FollowedApplication(newer=str(leader.newer), since=time.time(), behind="")
        self._members.tell(f"superseded: {leader}")

    def show_behind(self, behind: str) -> None:
        """What the members do not answer with yet, and why."""
        if self.status is not None and behind != self.status.behind:
            self.status = self.status.model_copy(update={"behind": behind})
            self._members.touch()
