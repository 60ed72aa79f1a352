"""The lines of a gateway's log about which replicas of a model get requests."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from aoti_serve.link.client import Link

logger = logging.getLogger("ray.serve")


class RoutingLog:
    """Tells once of each replica that gets requests, of each that gets no more, and why. Lives in a gateway."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._served: dict[str, bool] = {}  # what was told last of each replica

    def look(self, links: Mapping[str, Link]) -> None:
        for replica, link in links.items():
            if link.usable:
                self._tell_served(replica)
            elif link.fault:
                self._tell_fault(replica, link.fault)

    def ended(self, replica: str, link: Link) -> None:
        """Its link has ended: the replica has died, was ended, or has left in order."""
        if link.leaving:
            self._served.pop(replica, None)
            logger.info(f"model '{self._model}': replica {replica} has left")
        else:
            self._tell_fault(replica, "its connection has ended")

    def forget(self, replica: str) -> None:
        """It does not come back."""
        self._served.pop(replica, None)

    def _tell_served(self, replica: str) -> None:
        before = self._served.get(replica)
        if not before:
            self._served[replica] = True
            again = "" if before is None else " again"
            logger.info(f"model '{self._model}': replica {replica} gets requests{again}")

    def _tell_fault(self, replica: str, fault: str) -> None:
        if self._served.get(replica) is not False:
            self._served[replica] = False
            logger.warning(f"model '{self._model}': replica {replica} gets no requests: {fault}")
