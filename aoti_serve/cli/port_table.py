"""The table of listening ports, and warnings about those that other machines reach."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from rich.table import Table
from rich.text import Text

from aoti_serve.launcher.cluster.connection import AUTH_MODE, LOCAL_ONLY
from aoti_serve.launcher.processes.ports import ListeningPort

SEVERAL = 2
NO_TOKEN = f"for calls, which ask for no token ({AUTH_MODE} is not 'token'): whoever reaches them runs code here"


def ports_table(found: Sequence[ListeningPort]) -> Table:
    """One row for each purpose and address. Rows that other machines can reach are marked, and come last."""
    table = Table("listens for", "at", "reached from", "process", box=None, pad_edge=False, header_style="dim")
    groups: defaultdict[tuple[bool, str, str], list[ListeningPort]] = defaultdict(list)
    for entry in found:
        groups[entry.public, entry.purpose, entry.address].append(entry)
    for (public, purpose, address), group in sorted(groups.items()):
        reach = Text("everywhere", "yellow") if public else Text("this machine")
        ports = " ".join(str(entry.port) for entry in group)
        table.add_row(purpose, f"{_shown(address)}:{ports}", reach, _processes(group))
    return table


def exposure_of(found: Sequence[ListeningPort], asked: Collection[int], *, token: bool) -> str | None:
    """A warning about ports that other machines reach, other than the ports that were `asked` for; None without any.

    `token` is true if Ray asks for its token.
    """
    public = [entry for entry in found if entry.public and entry.port not in asked]
    if not public:
        return None
    shown = ", ".join(str(entry.port) for entry in public if entry.shows_metrics)
    calls = "for calls, which ask for Ray's token" if token else NO_TOKEN
    if shown:
        calls += f", and for metrics, which anybody may read ({shown})"
    return (
        f"Ray opens {len(public)} ports to other machines: {calls}. Put a firewall before them; with {LOCAL_ONLY}=0, "
        "here and wherever a program joins, Ray keeps all but Serve's calls to this machine"
    )


def _processes(group: Sequence[ListeningPort]) -> str:
    found = sorted({f"{entry.process} {entry.pid}" for entry in group})
    return ", ".join(found) if len(found) <= SEVERAL else f"{len(found)} processes"


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address
