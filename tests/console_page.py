"""The console in a headless Chromium, used as a person uses it: by the words on the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
ABSENT = "Chromium is not installed (Debian: apt-get install chromium)"
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)

Place = tuple[float, float]  # across and down, from 0 to 1


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # no sandbox: a test may run as root, and shows no page but ours
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=2 * PATIENCE_MS)
        yield found
        found.close()


class ConsolePage:
    """A page, the addresses that it has asked, and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.dialog = page.get_by_role("dialog")
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)

    def open(self, *, token: str | None = None) -> None:
        """With a `token` as one that was entered before."""
        if token:
            self.page.add_init_script(f"sessionStorage.setItem('aoti-serve.token', '{token}')")
        self.page.goto(f"{self.url}/console")
        expect(self.page.get_by_role("button", name="Ask", exact=True)).to_be_visible()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def answer(self, name: str) -> None:
        """Press a button of the dialog."""
        self.dialog.get_by_role("button", name=name, exact=True).click()

    def type_token(self, token: str) -> None:
        """Into the dialog that asks for it."""
        self.dialog.get_by_label("token", exact=True).fill(token)
        self.answer("Use it")

    def draw(self, places: Sequence[Place] = ((0.5, 0.15), (0.5, 0.75))) -> None:
        """A stroke with the mouse."""
        self.page.locator("#try canvas").scroll_into_view_if_needed()
        box = self.page.locator("#try canvas").bounding_box()
        assert box is not None
        (x, y), *rest = [(box["x"] + across * box["width"], box["y"] + down * box["height"]) for across, down in places]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for x, y in rest:
            self.page.mouse.move(x, y, steps=6)
        self.page.mouse.up()

    def ink(self, pixels: Sequence[Sequence[bool]]) -> None:
        """Draw an image with the keys, row by row, to and fro."""
        self.page.locator("#try canvas").focus()
        self.page.keyboard.press("ArrowRight")  # onto the first pixel
        for line, step in zip(pixels, cycle(("ArrowRight", "ArrowLeft")), strict=False):
            for column, inked in enumerate(line if step == "ArrowRight" else line[::-1]):
                for key in [step] * (column > 0) + ["Space"] * bool(inked):
                    self.page.keyboard.press(key)
            self.page.keyboard.press("ArrowDown")

    def send(self, weights: Path | str, *, way: str = "now", **fields: str) -> None:
        """Fill in the form for new weights, with a file, or with a URI that the server reads, and send it.

        `fields` are others of its fields, by their names.
        """
        if isinstance(weights, Path):
            self.page.get_by_label("weights, a safetensors file").set_input_files(weights)
        else:
            self.page.get_by_label("where the weights are").select_option("uri")
            self.page.get_by_label("path or URI of the weights").fill(weights)
        self.page.get_by_label("how the weights come into use").select_option(way)
        for name, value in fields.items():
            self.page.locator("#swap").get_by_label(name, exact=True).fill(value)
        self.press("Swap" if way == "now" else "Try")
