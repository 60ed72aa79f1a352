"""The address of a process that accepts links: a replica, or the coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Address:
    """Where a replica is reached by gateways, or the coordinator by members.

    `path` is a Unix socket, for callers on the same `node`; `tcp`, a host and a port, is for those on others, None
    while there are none. The end that connects proves that it knows `key`. `runners` batches may run at once.
    `interface` is that of a replica's signature; "" for who has none.
    """

    replica: str
    node: str
    path: str
    runners: int
    key: bytes = field(repr=False)
    tcp: tuple[str, int] | None = None
    interface: str = ""

    def reached_from(self, node: str) -> bool:
        """Whether a process on that node can connect now."""
        return node == self.node or self.tcp is not None
