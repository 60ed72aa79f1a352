"""The console in a real browser, before a real server: draw, swap, try, roll out, lose the gateway."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, expect

from tests.console_page import ABSENT, CHROMIUM, ConsolePage, chromium
from tests.e2e.checked_traffic import checked_traffic
from tests.e2e.served import TOKEN, Eager, Server, serving, write_config

Images = NDArray[np.float32]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)


@pytest.fixture(scope="module")
def served(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two replicas of the digits, version 1 = v1."""
    config = write_config(tmp_path_factory.mktemp("console"), digits_dir, weights_roots=[str(digits_dir)])
    with serving(config) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser: Browser, served: Server) -> Iterator[ConsolePage]:
    """Somebody who has opened the page, without a token."""
    context = browser.new_context(viewport={"width": 1180, "height": 1000})
    made = ConsolePage(context.new_page(), served.url)
    made.open()
    yield made
    assert {asked for asked in made.asked if not asked.startswith(served.url)} == set()
    context.close()


@pytest.fixture
def admin(visit: ConsolePage) -> ConsolePage:
    """Somebody who has entered the token."""
    visit.press("Enter a token")
    visit.type_token(TOKEN)
    expect(visit.page.locator("#versions table")).to_be_visible()
    return visit


class Drawing(NamedTuple):
    """An image of ink or none, and the digit that each version takes it for."""

    pixels: list[list[bool]]
    first: int
    second: int


@pytest.fixture(scope="module")
def drawing(eager: Eager, images: Images) -> Drawing:
    """Of those that both versions take for different digits, the one with the least ink."""
    inked = images > 0.5
    first, second = (eager.logits(name, inked.astype(np.float32)).argmax(1) for name in ("v1", "v2"))
    at = min(np.flatnonzero(first != second), key=lambda at: int(inked[at].sum()))
    return Drawing(inked[at, 0].tolist(), int(first[at]), int(second[at]))


def answers(visit: ConsolePage, version: int) -> None:
    """Wait until that version has answered what was drawn."""
    expect(visit.page.locator(".by")).to_have_text(f"answered by version {version}")


def test_what_is_drawn_is_answered_by_other_weights_after_a_swap_and_by_the_old_ones_after_a_rollback(
    visit: ConsolePage, served: Server, digits_dir: Path, drawing: Drawing
) -> None:
    page, winner = visit.page, visit.page.locator(".winner")
    visit.draw()
    answers(visit, 1)
    visit.press("Clear")
    visit.ink(drawing.pixels)
    expect(winner).to_have_text(str(drawing.first))
    visit.press("Enter a token")
    visit.type_token(TOKEN)
    expect(page.locator("[data-version='1']")).to_contain_text("answers")
    expect(page.locator("#replicas .chip.on")).to_have_text(["1", "1"])

    held = served.status()["replicas"][0]["pid"]
    os.kill(held, signal.SIGSTOP)
    try:
        visit.send(digits_dir / "v2.safetensors", label="trained longer")
        expect(page.locator(".panel.swap")).to_contain_text("1 of 2 replicas done")
        expect(page.locator(".panel.swap .bar.done")).to_have_count(1)
        assert served.status()["current"]["number"] == 1
    finally:
        os.kill(held, signal.SIGCONT)
    expect(page.locator(".lead")).to_contain_text("Version 2 (trained longer) answers on 2 replicas")
    answers(visit, 2)
    expect(winner).to_have_text(str(drawing.second))
    expect(page.locator("#replicas .chip.on")).to_have_text(["2", "2"])

    visit.press("Set a label of version 1")
    visit.dialog.get_by_label("label of the version").fill("early")
    visit.answer("Set it")
    expect(page.locator("[data-version='1']")).to_contain_text("early")
    assert served.status()["labels"] == {"early": 1}
    visit.press("Roll back to version 1")
    visit.answer("Roll back")
    answers(visit, 1)
    expect(winner).to_have_text(str(drawing.first))
    assert visit.faults == []


def shadow_all(visit: ConsolePage) -> None:
    """Let the candidate answer nothing, and run beside everything."""
    visit.press("Change its shares")
    for label, share in (("share", "0%"), ("shadow", "100%")):
        visit.dialog.get_by_label(label, exact=True).fill(share)
    visit.answer("Set them")
    expect(visit.page.locator(".panel.trial")).to_contain_text("and runs beside 100 % of the others")


def test_a_candidate_answers_its_share_until_it_is_withdrawn_or_for_all_once_it_is_promoted(
    admin: ConsolePage, served: Server, eager: Eager, digits_dir: Path
) -> None:
    page, panel = admin.page, admin.page.locator(".panel.trial")
    before = served.swap(eager.files["v1"]).json()["current"]["number"]
    admin.draw()
    for action in ("Withdraw", "Promote"):
        admin.send(str(digits_dir / "v2.safetensors"), way="candidate", share="100%")
        expect(panel).to_contain_text("It answers 100 % of the requests")
        candidate = served.status()["candidate"]["version"]["number"]
        expect(page.locator(f"[data-version='{candidate}']")).to_contain_text("v2")
        answers(admin, candidate)
        if action == "Withdraw":
            shadow_all(admin)
            answers(admin, before)
            expect(panel.get_by_role("row", name="logits")).to_contain_text("%")
        panel.get_by_role("button", name=action).click()
        admin.answer(action)
        expect(panel).to_have_count(0)
        answers(admin, candidate if action == "Promote" else before)
        expect(page.locator(".answering")).to_have_text(f"Version {served.status()['current']['number']}")
    assert admin.faults == []


def test_a_rollout_goes_on_step_by_step_until_somebody_ends_it(
    admin: ConsolePage, served: Server, eager: Eager, images: Images, digits_dir: Path
) -> None:
    panel = admin.page.locator(".panel.trial")
    before = served.swap(eager.files["v1"]).json()["current"]["number"]
    known: dict[int, Any] = {number: partial(eager.logits, "v2") for number in range(before + 10)}
    known[before] = partial(eager.logits, "v1")
    with checked_traffic(served.url, "digits", "image", np.split(images[:16], 16), known):
        admin.send(digits_dir / "v2.safetensors", way="rollout", share="25%", **{"seconds for each step": "3"})
        expect(panel.get_by_role("heading")).to_contain_text("Rollout of version")
        for step, share in enumerate(("25 %", "50 %"), start=1):
            expect(panel).to_contain_text(f"Step {step} of 2")
            expect(panel.locator("[aria-current=step]")).to_have_text(share)
        expect(panel.get_by_role("row", name="requests").get_by_role("cell")).not_to_have_text(["0", "0"])
        panel.get_by_role("button", name="Withdraw").click()
        admin.answer("Withdraw")
        expect(panel).to_have_count(0)
    expect(admin.page.locator(".answering")).to_have_text(f"Version {before}")
    assert admin.faults == []


def test_a_gateway_that_dies_is_missed_and_heard_again(admin: ConsolePage, served: Server, eager: Eager) -> None:
    page = admin.page
    admin.draw()
    (gateway,) = [each for each in served.launched.family() if "default:gateway" in "".join(each.cmdline())]
    gateway.kill()
    expect(page.locator("#link")).to_contain_text("does not answer; trying again")
    expect(page.locator(".lead")).to_contain_text("when the server was last heard")
    expect(page.locator("#link")).to_have_text("connected")
    number = served.swap(eager.files["v2"]).json()["current"]["number"]
    expect(page.locator(".answering")).to_have_text(f"Version {number}")
    answers(admin, number)
    expect(page.locator(f"[data-version='{number}']")).to_contain_text("answers")
