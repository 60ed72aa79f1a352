#!/usr/bin/env python3
"""Make the pictures of docs/guides/console.md: light, dark, a swap and a rollout under way.

Needs Chromium (Debian: chromium, fonts-inter). The gateway is real; the coordinator and the runs behind it are those
that the tests of the console play.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, FilePayload, Page, sync_playwright  # noqa: E402

from tests.unit.gateway.console.playing import console  # noqa: E402
from tests.unit.gateway.http.gateway import TOKEN  # noqa: E402

SIX = [(0.62, 0.16), (0.45, 0.3), (0.36, 0.55), (0.4, 0.78), (0.55, 0.86), (0.66, 0.75), (0.6, 0.6), (0.45, 0.58)]
FILLED_MS = 12_000  # until the charts have something to show
PATIENCE_MS = 120_000


def opened(browser: Browser, url: str, scheme: str) -> Page:
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.add_init_script(f"sessionStorage.setItem('aoti-serve.token', '{TOKEN}')")
    page.goto(f"{url}/console")
    page.get_by_role("button", name="Ask").wait_for()
    return page


def draw(page: Page) -> None:
    box = page.locator("#try canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in SIX]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def begin_swap(page: Page) -> None:
    chosen = FilePayload(name="v2.safetensors", mimeType="application/octet-stream", buffer=b"played")
    page.get_by_label("weights, a safetensors file").set_input_files(chosen)
    page.get_by_label("label").fill("step 1200")
    page.get_by_role("button", name="Swap").click()
    page.locator(".panel.swap").wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    out = parser.parse_args().out
    with sync_playwright() as playwright, console() as (url, weights, (loop, _)):
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE_MS)
        for scheme in ("light", "dark"):
            page = opened(browser, url, scheme)
            draw(page)
            page.wait_for_timeout(FILLED_MS)
            page.screenshot(path=out / f"console-{scheme}.png", full_page=True, timeout=PATIENCE_MS)
        loop.call(weights.may_commit.clear)
        begin_swap(page)
        page.screenshot(path=out / "console-swap.png", full_page=True, timeout=PATIENCE_MS)
        loop.call(weights.may_commit.set)
        page.get_by_text("Version 2 answers on every replica.").first.wait_for()
        loop.run(weights.try_out())
        page.locator(".panel.trial").wait_for()
        page.screenshot(path=out / "console-rollout.png", timeout=PATIENCE_MS)


if __name__ == "__main__":
    main()
