"""CPU per member and swap over the number of members, as an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from scale.report import CPU_US
from scale.simulated import ScaleRun
from scale.sockets import SocketRun

LEFT, TOP, WIDTH, HEIGHT = 60, 60, 560, 220
MOST_US, DECADES = 300.0, (10, 100, 1_000, 10_000)
# Before November 2026, measured as the simulation is, with the books of that time.
BEFORE = ((10, 81.0), (100, 84.0), (300, 134.0), (1_000, 342.0))
STYLE = """\
text { fill: #1f2328 } .quiet { fill: #57606a; font-size: 12px } .page { fill: #ffffff }
.line { fill: none; stroke-width: 2 } .time { stroke: #2da44e } .wire { stroke: #54aeff } .before { stroke: #8c959f }
.target { stroke: #8c959f; stroke-dasharray: 4 4 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .quiet { fill: #9198a1 } .page { fill: #0d1117 } }"""
TITLE = "CPU of the coordinator, microseconds per member and swap"


def drawn(simulated: Sequence[ScaleRun], sockets: Sequence[SocketRun]) -> str:
    """Three lines: simulated time, real connections, and the books of before."""
    lines = [
        _line("time", "simulated time", [(run.members, run.cpu_us) for run in simulated]),
        _line("wire", "real connections", [(run.members, run.cpu_us) for run in sockets]),
        _line("before", "before", BEFORE),
    ]
    width, height, y = LEFT + WIDTH + 150, TOP + HEIGHT + 40, _y(CPU_US)
    axis = "".join(
        f'<text class="quiet" x="{_x(size):.0f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{size:,}</text>'
        for size in DECADES
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="14" role="img" aria-label="{escape(TITLE)}">\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{width}" height="{height}" rx="10"/>\n'
        f'<text x="20" y="30" font-weight="600">{escape(TITLE)}</text>\n'
        f'<path class="line target" d="M{LEFT},{y:.0f} H{LEFT + WIDTH}"/>'
        f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{CPU_US:g}</text>\n'
        f"{axis}\n{''.join(lines)}</svg>\n"
    )


def _line(kind: str, name: str, points: Sequence[tuple[int, float]]) -> str:
    shown = [(_x(members), _y(min(us, MOST_US))) for members, us in points]
    path = " L".join(f"{x:.0f},{y:.0f}" for x, y in shown)
    x, y = shown[-1]
    return f'<path class="line {kind}" d="M{path}"/><text class="quiet" x="{x + 8:.0f}" y="{y + 4:.0f}">{name}</text>\n'


def _x(members: int) -> float:
    return LEFT + WIDTH * math.log(members / DECADES[0]) / math.log(DECADES[-1] / DECADES[0])


def _y(us: float) -> float:
    return TOP + HEIGHT * (1 - us / MOST_US)
