"""Views of weights for the terminal: receipts and versions as tables, a swap as bars. Pure: values in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from aoti_serve.cli.answers import (
    Uncut,
    adapter_text,
    age_text,
    assets_text,
    golden_text,
    line,
    narrow_table,
    reading_lines,
    skipped_text,
    title,
)
from aoti_serve.cli.candidate_view import absence_text, candidate_line
from aoti_serve.cli.console import bytes_text
from aoti_serve.cli.weights.trial_view import trial_views, unjudged_lines
from aoti_serve.cluster.status import FollowedApplication, Outcome, ReplicaProgress, SwapProgress, WeightsStatus
from aoti_serve.weights.sources.follow import FollowStatus
from aoti_serve.weights.store.usage import StoredVersion
from aoti_serve.weights.swap.states import Phase
from aoti_serve.weights.swap.story import StoryEvent
from aoti_serve.weights.swap.target import Receipt
from aoti_serve.weights.version import BUILT_IN, Version

TOWARDS = ("swap", "rollback")  # actions that lead to a version; others are of one that is out
BAR_WIDTH = 36
MOST_BARS = 24
DIGEST_DIGITS = 12
NODE_DIGITS = 6
DONE: dict[str, str] = {
    Phase.STAGING: "staged",
    Phase.CANDIDATE: "staged",
    Phase.COMMITTING: "done",
    Phase.ABORTING: "aborted",
}
STYLES = {"staged": "green", "done": "green", "aborting": "red", "aborted": "red"}


def status_view(status: WeightsStatus, now: float) -> RenderableType:
    """The whole status of a model: what answers, the receipts, the swap in progress, the last attempt's outcome."""
    out = [candidate_line(status.candidate, now)] if status.candidate else []
    parts: list[RenderableType] = [_headline(status), *out, *trial_views(status), receipts_view(status.replicas)]
    if status.swap:
        parts.append(swap_bars_view(status.swap))
    if status.last:
        parts.append(ending(status.last, now))
    if status.superseded:
        parts.append(_superseded_line(status.superseded, now))
    if status.follow:
        parts.append(_follow_line(status.follow))
    return Uncut(Group(*parts))


def spaced(parts: Sequence[RenderableType]) -> RenderableType:
    """The parts one below the other, with a blank line between them."""
    blank = Text()
    return Group(*[piece for part in parts for piece in (blank, part)][1:])


def swap_view(status: WeightsStatus, seconds: float) -> RenderableType:
    """The outcome of a swap that has returned; of one with a rollout also what its rules could not judge."""
    if status.unchanged:
        text = f" answers with these bytes already: version {title(status.current)}; nothing was staged"
    else:
        text = f" answers with version {title(status.current)}  ({seconds:.2f} s{_own_phases(status)})"
    read = reading_lines(status.current)
    rollout = status.rollout
    unjudged = unjudged_lines(rollout) if rollout and rollout.version == status.current.number else ()
    return Uncut(Group(line((status.model, "bold green"), text), *read, *unjudged, receipts_view(status.replicas)))


def receipts_view(found: Sequence[Receipt]) -> RenderableType:
    if not found:
        return Text("no replica has reported yet", "yellow")
    right = (Column(name, justify="right") for name in ("stage\nms", "commit\nms", "also\nholds"))
    table = narrow_table("replica", "node", "pid", "device", "version", "digest", *right)
    for receipt in found:
        table.add_row(
            receipt.replica,
            receipt.node[:NODE_DIGITS],
            str(receipt.pid),
            f"gpu {','.join(receipt.gpu_ids)}" if receipt.gpu_ids else receipt.device,  # of the node; cuda:0 in each
            str(receipt.version),
            Text(_digest(receipt.digest), no_wrap=True, overflow="crop"),  # a terminal may lack a column for it
            f"{receipt.stage_milliseconds:.1f}",
            f"{receipt.commit_milliseconds:.1f}",
            "-" if receipt.previous is None else str(receipt.previous),
        )
    packages = Counter(receipt.package for receipt in found)
    if len(packages) == 1:
        return table
    told = ", ".join(f"{_digest(package)} on {count}" for package, count in packages.most_common())
    return Group(table, line(("the replicas run different packages: ", "yellow"), told))


def versions_view(stored: Sequence[StoredVersion], status: WeightsStatus, now: float) -> RenderableType:
    """The stored versions, what each alone holds of the disk, and what all hold; and the built-in one while it answers
    or can be rolled back to.
    """
    built_in = [
        version for version in (status.current, status.previous) if version and version.number == BUILT_IN.number
    ]
    right = (Column(name, justify="right") for name in ("tensors", "size", "alone", "age", "parent"))
    table = narrow_table(Column("version", justify="right"), "", "label", "digest", *right)
    for version in [*built_in, *stored]:
        table.add_row(str(version.number), _marks(version, status), version.label, *_facts(version, now))
    return Uncut(Group(table, _disk_line(stored)))


def story_view(model: str, events: Sequence[StoryEvent]) -> RenderableType:
    """The last events of one model, each on a line; times are UTC."""
    table = narrow_table(Column("UTC", no_wrap=True), Column(model, no_wrap=True), "")
    for event in events:
        at = datetime.fromtimestamp(event.at, UTC).strftime("%H:%M:%S.%f")[:-3]
        table.add_row(at, event.member or "coordinator", event.event)
    return Uncut(table)


def swap_bars_view(swap: SwapProgress) -> RenderableType:
    """A line about the swap, and a bar for each replica. Of many replicas, those that are not done come first."""
    shown = swap.replicas
    if len(shown) > MOST_BARS:
        shown = tuple(sorted(shown, key=lambda replica: replica.done)[:MOST_BARS])
    grid = bars()
    for replica in shown:
        grid.add_row(*_replica_row(replica, swap))
    hidden = len(swap.replicas) - len(shown)
    return Group(_swap_line(swap), grid, *([Text(f"  and {hidden} more", "dim")] if hidden else []))


def bars() -> Table:
    """An empty grid for bars: name, bar, bytes, state."""
    return Table.grid(
        Column(min_width=8), Column(max_width=BAR_WIDTH), Column(justify="right"), Column(), padding=(0, 2, 0, 0)
    )


def bar(name: str, nbytes: int, total: int, state: str) -> tuple[RenderableType, ...]:
    style = "red" if state in ("aborting", "aborted") else "cyan"  # the default's red would look like a failure
    drawn = ProgressBar(total=total or 1, completed=nbytes, complete_style=style)
    amount = f"{bytes_text(nbytes)} of {bytes_text(total)}" if total else ""
    return name, drawn, amount, Text(state, STYLES.get(state, ""))


def ending(last: Outcome, now: float) -> Text:
    """The outcome of the last attempt, and the error if it failed."""
    ago = age_text(now - last.ended)
    text = f"last: {_what(last)}: {last.outcome} {ago} ago, in {last.seconds:.2f} s{_phases(last)}"
    return line(text) if last.error is None else line(f"{text}: ", (last.error, "red"))


def _superseded_line(superseded: FollowedApplication, now: float) -> Text:
    text = f"superseded {age_text(now - superseded.since)} ago by another application, coordinator {superseded.newer}"
    text += ", and follows it: ask that one for changes"
    return line((text, "yellow"), (f"; {superseded.behind}", "red") if superseded.behind else "")


def _follow_line(follow: FollowStatus) -> Text:
    tried = f", {follow.last_tried} {follow.outcome}" if follow.last_tried else ""
    text = f"follows {follow.uri}: newest {follow.last_seen or 'none'}{tried}"
    return line(text) if follow.error is None else line(f"{text}: ", (follow.error, "red"))


def _headline(status: WeightsStatus) -> Text:
    previous = f", previous {title(status.previous)}{absence_text(status)}" if status.previous else ""
    labels = "".join(f", {name} is {number}" for name, number in status.labels.items())
    return line((status.model, "bold"), f"  version {title(status.current)}{previous}, epoch {status.epoch}{labels}")


def _swap_line(swap: SwapProgress) -> Text:
    done = sum(replica.done for replica in swap.replicas)
    counted = "" if swap.phase == Phase.CHECKING else f", {done} of {len(swap.replicas)} replicas"
    return line((_what(swap), "bold"), f": {swap.phase}{counted}")


def _replica_row(replica: ReplicaProgress, swap: SwapProgress) -> tuple[RenderableType, ...]:
    state = DONE.get(swap.phase, swap.phase) if replica.done else swap.phase
    staged = swap.phase in (Phase.STAGING, Phase.CANDIDATE) and replica.done
    whole = staged or swap.phase == Phase.COMMITTING
    row = bar(replica.replica, swap.nbytes if whole else replica.nbytes, swap.nbytes, state)
    if whole and swap.action in ("rollback", "promote") and not replica.nbytes:
        return *row[:2], "resident", row[3]
    return row


def _what(attempt: SwapProgress | Outcome) -> str:
    towards = "to" if attempt.action in TOWARDS else "of"
    version = "" if attempt.version is None else f" {towards} version {attempt.version}"
    return f"{attempt.action} {attempt.id}{version}"


def _phases(last: Outcome) -> str:
    return f" ({', '.join(f'{phase} {seconds:.2f}' for phase, seconds in last.phases.items())})" if last.phases else ""


def _own_phases(status: WeightsStatus) -> str:
    """The phases of the swap that has returned; empty if another attempt has ended since."""
    last = status.last
    if last is None or last.error or last.version != status.current.number:
        return ""
    return "".join(f", {phase} {seconds:.2f}" for phase, seconds in last.phases.items())


def _marks(version: Version, status: WeightsStatus) -> str:
    resident = bool(status.replicas) and all(receipt.previous == version.number for receipt in status.replicas)
    marks = {
        "current": version.number == status.current.number,
        "previous": status.previous is not None and version.number == status.previous.number,
        "resident": resident,
        adapter_text(version): version.adapter is not None,
        "not strict": not version.strict,
        golden_text(version): version.golden is not None,
        assets_text(version): version.assets is not None,
        skipped_text(version): version.skips_acceptance,
        "renamed": version.names is not None,
        "cast": version.rounding is not None,
        **{name: number == version.number for name, number in status.labels.items()},
    }
    return ", ".join(mark for mark, holds in marks.items() if holds)


def _facts(version: Version, now: float) -> tuple[str, ...]:
    if version.number == BUILT_IN.number:
        return "-", "-", "-", "-", "-", "-"
    parent = "-" if version.parent is None else str(version.parent)
    size, age = bytes_text(version.nbytes), age_text(now - version.created)
    alone = bytes_text(version.disk.alone) if isinstance(version, StoredVersion) else "-"
    return _digest(version.digest), str(version.tensors), size, alone, age, parent


def _disk_line(stored: Sequence[StoredVersion]) -> Text:
    total, alone = sum(each.disk.added for each in stored), sum(each.disk.alone for each in stored)
    return Text(f"on the disk {bytes_text(total)}, of which several versions share {bytes_text(total - alone)}", "dim")


def _digest(digest: str) -> str:
    return digest[:DIGEST_DIGITS] or "-"
