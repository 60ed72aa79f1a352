"""Lines over minutes, as an SVG that can be read on white and on black."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 940, 380, 70, 56, 40, 250
TICKS = 5
COLOURS = ("#2da44e", "#0969da", "#cf222e", "#bf8700", "#8250df", "#bc4c00", "#1b7c83", "#bf3989", "#6e7781", "#57ab5a")
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
STYLE = """\
text { fill: #1f2328 } .quiet { fill: #57606a } .page { fill: #ffffff }
.grid { stroke: #d0d7de } .storm { fill: #ddf4ff }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .quiet { fill: #9198a1 } .page { fill: #0d1117 }
.grid { stroke: #30363d } .storm { fill: #121d2f } }"""


class Line(NamedTuple):
    """Points are (minute, value)."""

    name: str
    points: Sequence[tuple[float, float]]


class Scale(NamedTuple):
    """From minutes and values to places in the picture."""

    minutes: float
    top: float

    def x(self, minute: float) -> float:
        return LEFT + minute / self.minutes * (WIDTH - LEFT - LEGEND)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)


def drawn(title: str, lines: Sequence[Line], storm_minutes: float) -> str:
    """The chart; faults were caused until `storm_minutes`, which is shaded."""
    points = [point for line in lines for point in line.points]
    minutes = max([storm_minutes, *(minute for minute, _ in points)], default=1.0) or 1.0
    scale = Scale(minutes, round_up(max((value for _, value in points), default=1.0)))
    storm = f'<rect class="storm" x="{LEFT}" y="{TOP}" width="{scale.x(storm_minutes) - LEFT:.1f}" '
    ordered = sorted(lines, key=lambda line: -(line.points[-1][1] if line.points else 0.0))
    body = [f'{storm}height="{HEIGHT - TOP - BOTTOM}"/>', *_grid(scale)]
    body += [part for index, line in enumerate(ordered) for part in _line(index, line, scale)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" font-size="12" '
        f'role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="10"/>\n'
        f'<text x="20" y="30" font-weight="600" font-size="14">{escape(title)}</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = float(10 ** math.floor(math.log10(max(value, 1e-9))))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if value <= step * power)


def _grid(scale: Scale) -> list[str]:
    parts = []
    for tick in range(TICKS + 1):
        value, minute = scale.top * tick / TICKS, scale.minutes * tick / TICKS
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - LEGEND}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
        place = f'x="{scale.x(minute):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
        parts.append(f'<text class="quiet" {place}>{minute:.3g} min</text>')
    return parts


def _line(index: int, line: Line, scale: Scale) -> list[str]:
    colour = COLOURS[index % len(COLOURS)]
    points = " ".join(f"{scale.x(minute):.1f},{scale.y(value):.1f}" for minute, value in line.points)
    y = TOP + 12 + 18 * index
    return [
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>',
        f'<rect x="{WIDTH - LEGEND + 14}" y="{y - 9}" width="10" height="10" rx="2" fill="{colour}"/>',
        f'<text x="{WIDTH - LEGEND + 30}" y="{y}">{escape(line.name)}</text>',
    ]
