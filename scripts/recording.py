"""Record a swap of the digits demo under traffic, as the animation of the README. `scripts/serve` must be running.

    .venv/bin/python scripts/recording.py [--url http://127.0.0.1:8000] [--out docs/swap.svg]

Version 1 answers, and after `BEFORE` seconds version 2 is swapped in. Each picture is a second of the traffic's table,
as scripts/demo_traffic shows it, with the command and what it printed below.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

from rich.console import Console

from aoti_serve.cli.setup.traffic_view import traffic_table
from aoti_serve.demo.traffic import Traffic

BEFORE, AFTER, MOST = 4, 4, 60  # seconds: before the swap, after it, in all
ROWS_SHOWN, WIDTH = 8, 88
SWAP = ["aoti-serve", "swap", "digits", "var/digits/v2.safetensors"]
PICTURE = "<style>{styles}</style>{backgrounds}{matrix}"
COLOURS = ("#ffffff", "#292929")  # rich's own, of a dark terminal


def recorded(url: str) -> list[str]:
    """The terminal's text of each second, as parts of an SVG."""
    rows: deque[dict[str, object]] = deque(maxlen=ROWS_SHOWN)
    swap: subprocess.Popen[str] | None = None
    pictures, said, left = list[str](), "", AFTER
    for at, second in enumerate(Traffic(url, 4).seconds(MOST), start=1):
        rows.append(second.summary(at))
        if swap is not None and swap.poll() is not None:
            said, left = said or swap.communicate()[0], left - 1
        pictures.append(_picture(at, rows, swap is not None, said))
        if at == BEFORE:
            swap = _swap(url)
        if not left:
            break
    if swap is None or swap.returncode != 0:
        raise SystemExit(f"the swap has failed: {said}")
    return pictures


def _swap(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aoti_serve", *SWAP[1:], "--url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _picture(at: int, rows: deque[dict[str, object]], asked: bool, said: str) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(traffic_table(rows))
    console.print(f"\n$ {' '.join(SWAP)}" if asked else "", highlight=False, markup=False)
    console.print(said, highlight=False, markup=False)
    svg = console.export_svg(unique_id=f"s{at}", code_format=PICTURE)
    return re.sub(r' clip-path="[^"]*"| textLength="[^"]*"', "", svg)


def animated(pictures: list[str]) -> str:
    """One SVG that shows each picture for a second, again and again; the last for three."""
    length = len(pictures) + 2
    shown = [f'<g class="p" style="animation-delay:{at}s">{each}</g>' for at, each in enumerate(pictures[:-1])]
    shown.append(f'<g class="p last" style="animation-delay:{len(pictures) - 1}s">{pictures[-1]}</g>')
    white, black = COLOURS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1090 560" role="img" aria-label="A swap under traffic">'
        "<style>text{font:20px ui-monospace,Menlo,Consolas,monospace;white-space:pre}"
        f".p{{visibility:hidden;animation:p {length}s step-end infinite}}.last{{animation-name:l}}"
        f"@keyframes p{{0%{{visibility:visible}}{100 / length:.3f}%{{visibility:hidden}}}}"
        f"@keyframes l{{0%{{visibility:visible}}{300 / length:.3f}%{{visibility:hidden}}}}</style>"
        f'<rect width="1090" height="560" rx="10" fill="{black}"/>'
        f'<g transform="translate(9 30)" fill="{white}">{"".join(shown)}</g></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Record a swap of the digits demo under traffic.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "swap.svg")
    options = parser.parse_args()
    options.out.write_text(animated(recorded(options.url)))


if __name__ == "__main__":
    main()
