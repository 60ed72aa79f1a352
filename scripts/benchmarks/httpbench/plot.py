"""The main table as a bar chart."""

from __future__ import annotations

from html import escape

from httpbench.contenders import BARE, NOOP, OURS, family
from httpbench.found import Found
from httpbench.loads import BUSY
from httpbench.wrk import Sample

LABELS, BARS, ROW, TOP = 230, 520, 30, 64
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
# Colours that can be read on white and on black, for text that lies on the page itself.
STYLE = """\
text { fill: #1f2328 } .quiet { fill: #57606a; font-size: 12px } .page { fill: #ffffff }
.ours { fill: #2da44e } .theirs { fill: #8c959f } .limit { fill: #54aeff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet { fill: #9198a1 } .page { fill: #0d1117 } .theirs { fill: #656c76 } }"""


def drawn(found: Found) -> str:
    """An SVG: requests/s at 64 connections, the fastest first, with the p99."""
    measured = [(name, found.median(name)) for name in found.names() if name != BARE]
    rows = sorted(((name, sample) for name, sample in measured if sample), key=lambda row: -row[1].rate)
    longest = max((sample.rate for _, sample in rows), default=1.0)
    bars = "\n".join(_bar(index, name, sample, longest) for index, (name, sample) in enumerate(rows))
    width, height = LABELS + BARS + 190, TOP + ROW * len(rows) + 16
    title = f"Requests per second, {BUSY.connections} connections, 1 row of 4 KB per request, 4 x 1024 MLP"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{FONT}" font-size="14" '
        f'role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{width}" height="{height}" rx="10"/>\n'
        f'<text x="20" y="30" font-weight="600">{escape(title)}</text>\n{bars}\n</svg>\n'
    )


def _bar(index: int, name: str, sample: Sample, longest: float) -> str:
    y, width = TOP + ROW * index, max(1.0, sample.rate / longest * BARS)
    figures = f'{sample.rate:,.0f} <tspan class="quiet">p99 {sample.p99:,.0f} ms</tspan>'
    return (
        f'<text x="{LABELS - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{_kind(name)}" x="{LABELS}" y="{y - 10}" width="{width:.1f}" height="20" rx="3"/>'
        f'<text x="{LABELS + width + 8:.1f}" y="{y + 5}">{figures}</text>'
    )


def _kind(name: str) -> str:
    return {NOOP: "limit", OURS: "ours"}.get(family(name), "theirs")
