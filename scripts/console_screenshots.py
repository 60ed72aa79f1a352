"""Make the pictures of docs/guides/console.md: light, dark, a swap and a rollout under way.

    PYTHONPATH=. .venv/bin/python scripts/console_screenshots.py

It serves the digits, sends traffic, and uses the page as its e2e test does. Needs Chromium (Debian: chromium,
fonts-inter), and var/digits, which scripts/make_digits fills. The picture of the swap shows a replica whose process is
held still for a moment: that of the digits is too quick to be seen.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from chaoslab.beside import going_on
from playwright.sync_api import expect

from aoti_serve.demo.traffic import Traffic
from tests.console_page import ConsolePage, chromium
from tests.e2e.served import ROOT, TOKEN, Server, serving, write_config
from tests.e2e.wire import until

SIX = [(0.62, 0.16), (0.45, 0.3), (0.36, 0.55), (0.4, 0.78), (0.55, 0.86), (0.66, 0.75), (0.6, 0.6), (0.45, 0.58)]
POINTS = "line => line.getAttribute('d').split(/[ML]/).length - 1"
PATIENCE_S = 300
CONNECTIONS, STEP_S = 2, 20


@contextmanager
def served(folder: Path, digits: Path) -> Iterator[Server]:
    """The digits, under traffic."""
    os.environ["AOTI_SERVE_ADMIN_TOKEN"] = TOKEN
    with serving(write_config(folder, digits)) as server, going_on(partial(ask, server.url)):
        yield server


def ask(url: str, stop: threading.Event) -> None:
    for _ in Traffic(url, CONNECTIONS).seconds(0):
        if stop.is_set():
            return


class Pictures:
    """The page, and the folder that pictures of it go to."""

    def __init__(self, visit: ConsolePage, server: Server, out: Path) -> None:
        self._visit, self._server, self._out = visit, server, out

    def calm(self) -> None:
        """What answers, after a swap: in light colours, and in dark ones."""
        self._visit.draw(SIX)
        self._seconds(45)
        for scheme in ("light", "dark"):
            self._visit.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            self._take(scheme, whole=True)
        self._visit.page.emulate_media(color_scheme="light")

    def swap(self, weights: Path) -> None:
        self._seconds(25)
        held = self._server.status()["replicas"][0]["pid"]
        os.kill(held, signal.SIGSTOP)
        try:
            self._visit.send(weights, label="trained longer")
            expect(self._visit.page.locator(".panel.swap .bar.done")).to_have_count(1)
            self._take("swap")
        finally:
            os.kill(held, signal.SIGCONT)
        expect(self._visit.page.locator(".lead")).to_contain_text("Version 2 (trained longer) answers")

    def rollout(self, weights: Path) -> None:
        fields = {"label": "step 1300", "share": "25%", "seconds for each step": str(STEP_S)}
        self._visit.send(weights, way="rollout", **fields)
        expect(self._visit.page.locator(".panel.trial")).to_contain_text("Step 2 of 2", timeout=10 * STEP_S * 1000)
        self._take("rollout")

    def _seconds(self, count: int) -> None:
        """Wait until the charts show so many of them."""
        line = self._visit.page.locator("figure.requests path.line:not(.second)")
        until(lambda: bool(line.evaluate(POINTS) >= count), PATIENCE_S)

    def _take(self, name: str, whole: bool = False) -> None:
        self._visit.page.evaluate("scrollTo(0, 0)")
        self._visit.page.screenshot(path=self._out / f"console-{name}.png", full_page=whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--digits", type=Path, default=ROOT / "var" / "digits")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser, served(Path(folder), asked.digits) as server:
        page = browser.new_page(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
        visit = ConsolePage(page, server.url)
        visit.open(token=TOKEN)
        pictures = Pictures(visit, server, asked.out)
        pictures.swap(asked.digits / "v2.safetensors")
        pictures.calm()
        pictures.rollout(asked.digits / "v3.safetensors")


if __name__ == "__main__":
    main()
