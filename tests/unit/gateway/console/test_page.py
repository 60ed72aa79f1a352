"""The console in a real browser, before a gateway that listens: it draws, swaps, survives a lost server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from aoti_serve.cluster.status import Outcome
from aoti_serve.weights.version import MergedAdapter
from tests.console_page import ABSENT, CHROMIUM, ConsolePage, chromium
from tests.unit.gateway.console.playing import NAME, TEXT, PlayedWeights, console, staging
from tests.unit.gateway.http.gateway import TOKEN
from tests.unit.gateway.listener.wired import Loop, Wired

LOOKING = "a-token-with-which-one-may-look"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A file that the played coordinator takes for weights."""
    (file := tmp_path / "new.safetensors").write_bytes(b"played")
    return file


class Visit(ConsolePage):
    """A page that has been opened, and the server behind it."""

    def __init__(self, page: Page, url: str, weights: PlayedWeights, loop: Loop, wired: Wired) -> None:
        super().__init__(page, url)
        self.weights, self.loop, self.wired = weights, loop, wired


@contextmanager
def visiting(browser: Browser, **config: Any) -> Iterator[Visit]:
    with console(**config) as (url, weights, (loop, wired)):
        context = browser.new_context(viewport={"width": 1180, "height": 1000})
        made = Visit(context.new_page(), url, weights, loop, wired)
        yield made
        assert {asked for asked in made.asked if not asked.startswith(url)} == set()
        context.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    with visiting(browser) as made:
        yield made


@pytest.mark.parametrize("fragment", ["%", "nobody", NAME])
def test_an_address_that_names_no_model_shows_the_first(visit: Visit, fragment: str) -> None:
    visit.page.goto(f"{visit.url}/console#{fragment}")
    expect(visit.page.get_by_role("heading", name=NAME)).to_be_visible()


def test_without_a_token_it_shows_figures_and_answers_and_changes_nothing(visit: Visit) -> None:
    visit.open()
    page = visit.page
    expect(page.get_by_role("heading", name=NAME)).to_be_visible()
    expect(page.locator("#charts figure")).to_have_count(5)
    visit.draw()
    expect(page.locator(".by")).to_have_text("answered by version 1")
    expect(page.locator("figure.requests .now")).not_to_contain_text("–")
    expect(page.locator("#replicas")).to_contain_text("well")
    expect(page.locator("#swap")).to_contain_text("needs the admin token")
    assert not [asked for asked in visit.asked if "/weights" in asked]
    assert visit.faults == []


def test_without_a_token_a_candidate_is_not_taken_for_the_version_that_answers(visit: Visit) -> None:
    visit.loop.run(visit.weights.try_out())
    visit.open()
    assert visit.page.evaluate(f"fetch('/v2/models/{NAME}').then((it) => it.json()).then((it) => it.versions)") == [
        "1",
        "2",
    ]
    expect(visit.page.locator(".answering")).to_have_text("Version 1")
    expect(visit.page.locator("#told")).to_be_empty()
    visit.loop.run(visit.weights.promote("somebody", wait=True))
    expect(visit.page.locator("#told")).to_have_text("Version 2 answers.")
    expect(visit.page.locator(".answering")).to_have_text("Version 2")


def test_a_swap_is_seen_replica_by_replica_and_the_answer_changes(visit: Visit, new: Path) -> None:
    visit.open(token=TOKEN)
    page = visit.page
    visit.draw()
    expect(page.locator(".by")).to_have_text("answered by version 1")
    visit.loop.call(visit.weights.may_commit.clear)
    visit.send(new, label="better")
    expect(page.locator(".panel.swap .bar.done")).to_have_count(1)
    expect(page.locator(".panel.swap")).to_contain_text("1 of 2 replicas done")
    expect(page.locator(".by")).to_have_text("answered by version 1")
    visit.loop.call(visit.weights.may_commit.set)
    expect(page.locator(".lead")).to_contain_text("Version 2 (better) answers on 2 replicas")
    expect(page.locator(".by")).to_have_text("answered by version 2")
    expect(page.locator("[data-version='2']")).to_contain_text("answers")
    page.get_by_role("button", name="Roll back to version 1").click()
    visit.answer("Roll back")
    expect(page.locator(".by")).to_have_text("answered by version 1")
    assert visit.faults == []


def test_a_candidate_is_promoted_or_withdrawn(visit: Visit, new: Path) -> None:
    visit.open(token=TOKEN)
    page = visit.page
    for action, answering in (("Withdraw", "Version 1"), ("Promote", "Version 3")):
        visit.send(new, way="candidate")
        page.locator(".panel.trial").get_by_role("button", name=action).click()
        visit.answer(action)
        expect(page.locator(".panel.trial")).to_have_count(0)
        expect(page.locator(".answering")).to_have_text(answering)


def test_a_rollout_is_seen_step_by_step(visit: Visit) -> None:
    visit.open(token=TOKEN)
    visit.loop.run(visit.weights.try_out())
    panel = visit.page.locator(".panel.trial")
    expect(panel.get_by_role("heading")).to_have_text("Rollout of version 2")
    expect(panel).to_contain_text("Step 2 of 3, another 42 s. It answers 25 % of the requests")
    expect(panel.locator("[aria-current=step]")).to_have_text("25 %")
    expect(panel.get_by_role("row", name="p99, ms")).to_contain_text("3.9")
    expect(visit.page.locator("[data-version='2']")).to_contain_text("candidate")
    assert visit.faults == []


def test_a_candidates_card_says_how_far_both_versions_agree(visit: Visit) -> None:
    visit.open(token=TOKEN)
    visit.loop.run(visit.weights.try_out())
    panel = visit.page.locator(".panel.trial")
    expect(panel).to_contain_text("Shadow: 81 compared, 2 dropped, 1 failed, 3 not finite.")
    expect(panel.get_by_role("row", name="logits").get_by_role("cell")).to_have_text(
        ["logits", "87.3 %", "0.9912", "1.25"]
    )
    expect(panel.get_by_role("row", name="not finite").get_by_role("cell")).to_have_text(["–", "2 %"])
    expect(panel.get_by_role("button", name="Change its shares")).to_have_count(0)  # a rollout sets them


def test_the_shares_of_a_candidate_can_be_changed(visit: Visit, new: Path) -> None:
    visit.open(token=TOKEN)
    visit.send(new, way="candidate")
    panel, dialog = visit.page.locator(".panel.trial"), visit.dialog
    expect(panel).to_contain_text("It answers 5 % of the requests.")
    visit.press("Change its shares")
    expect(dialog.get_by_label("share", exact=True)).to_have_value("5 %")
    dialog.get_by_label("share", exact=True).fill("200%")
    visit.answer("Set them")
    expect(dialog.get_by_role("alert")).to_contain_text("more than the whole")
    dialog.get_by_label("share", exact=True).fill("20%")
    dialog.get_by_label("shadow", exact=True).fill("10%")
    visit.answer("Set them")
    expect(panel).to_contain_text("It answers 20 % of the requests, and runs beside 10 % of the others.")


def test_while_a_candidate_is_out_what_would_be_refused_says_why(visit: Visit, new: Path) -> None:
    visit.weights.store("step 1200")
    visit.open(token=TOKEN)
    swap = visit.page.locator("#swap button[type=submit]")
    back = visit.page.get_by_role("button", name="Roll back to version 2")
    expect(back).to_be_enabled()
    visit.loop.run(visit.weights.try_out())
    why = "Version 3 is a candidate: promote it or withdraw it first."
    for button, section in ((swap, "#swap"), (back, "#versions")):
        expect(button).to_be_disabled()
        expect(button).to_have_accessible_description(why)
        expect(visit.page.locator(section).get_by_text(why)).to_be_visible()
        button.focus()
        visit.page.keyboard.press("Enter")
        if section == "#versions":
            expect(visit.page.locator("#told")).to_have_text(why)
    expect(visit.dialog).to_be_hidden()
    visit.loop.run(visit.weights.become(candidate=None, rollout=None))
    expect(swap).to_be_enabled()
    expect(back).to_be_enabled()


def test_the_end_of_a_change_is_told_in_words(visit: Visit) -> None:
    visit.open(token=TOKEN)
    facts = {
        "id": "1",
        "version": 2,
        "error": None,
        "seconds": 0.13,
        "phases": {},
        "ended": time.time(),
    }
    for action, outcome, words in (
        ("expose", "exposed", "Version 2 was given other shares"),
        ("withdraw", "withdrawn", "Version 2 was withdrawn"),
        ("promote", "committed", "Version 2 was promoted"),
        ("rollback", "committed", "Version 2 was brought back"),
        ("swap", "committed", "Version 2 took over"),
        ("promote", "failed", "Promotion of version 2 failed"),
    ):
        last = Outcome.model_validate(facts | {"action": action, "outcome": outcome})
        visit.loop.run(visit.weights.become(last=last))
        expect(visit.page.locator(".last")).to_contain_text(f"{words} a moment ago, in 0.13 s")


def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    visit.open()
    page = visit.page
    page.get_by_role("button", name="Enter a token").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("token", exact=True)).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("[data-version='1']")).to_be_visible()
    page.locator("#try canvas").focus()
    for key in ("ArrowDown", "ArrowDown", "Space", "ArrowDown", "Space"):
        page.keyboard.press(key)
    expect(page.locator(".winner")).to_have_text("3")  # two rows have ink, and version 1 answers


def test_a_token_changes_nothing_of_what_is_drawn_and_answered(visit: Visit) -> None:
    visit.open()
    page = visit.page
    page.get_by_label("and again every second").uncheck()
    visit.draw()
    expect(page.locator(".by")).to_have_text("answered by version 1")
    drawn = page.locator("#try canvas").evaluate("canvas => canvas.toDataURL()")
    for action, shown in (("Enter a token", "To swap, roll back"), ("Forget the token", "needs the admin token")):
        visit.press(action)
        if action == "Enter a token":
            visit.type_token(TOKEN)
            expect(page.locator("#swap")).not_to_contain_text(shown)
        else:
            expect(page.locator("#swap")).to_contain_text(shown)
        assert page.locator("#try canvas").evaluate("canvas => canvas.toDataURL()") == drawn
        expect(page.locator(".by")).to_have_text("answered by version 1")


def test_a_wrong_token_is_told_and_can_be_typed_again(visit: Visit) -> None:
    visit.open()
    page, dialog = visit.page, visit.dialog
    visit.press("Enter a token")
    visit.type_token("wrong")
    expect(dialog.get_by_role("alert")).to_have_text("This token is not the server’s.")
    assert page.evaluate("sessionStorage.length") == 0
    visit.type_token(TOKEN)
    expect(dialog).to_be_hidden()
    expect(page.locator("[data-version='1']")).to_be_visible()


def test_a_token_that_the_server_has_dropped_is_forgotten(visit: Visit) -> None:
    visit.open(token="of yesterday")
    expect(visit.page.locator("#told")).to_have_text("The server does not take the token any more. Enter another one.")
    expect(visit.page.locator("#swap")).to_contain_text("needs the admin token")
    expect(visit.page.locator("#key")).to_have_text("Enter a token")


def test_with_an_inference_token_one_may_look(browser: Browser, tmp_path: Path) -> None:
    (file := tmp_path / "tokens").write_text(f"{LOOKING}\n")
    file.chmod(0o600)
    with visiting(browser, inference_tokens=str(file)) as visit:
        page = visit.page
        page.goto(f"{visit.url}/console")
        expect(page.locator("#link")).to_contain_text("asks for a token")
        visit.press("Enter a token")
        visit.type_token(LOOKING)
        expect(page.locator("#told")).to_have_text("With this token you may look. An admin token changes weights.")
        visit.draw()
        expect(page.locator(".by")).to_have_text("answered by version 1")
        expect(page.locator("#swap")).to_contain_text("needs the admin token")
        expect(page.locator("#key")).to_have_text("Forget the token")


def test_a_file_that_the_server_reads_may_change_some_tensors(visit: Visit) -> None:
    visit.open(token=TOKEN)
    page = visit.page
    page.get_by_label("only some tensors").check()
    visit.send("s3://weights/step-7.safetensors", way="candidate")
    expect(page.locator(".news")).to_have_text("Version 2 is a candidate on every replica.")
    assert visit.weights.asked is not None
    source, options = visit.weights.asked
    assert options.label == "step-7"
    assert source == "s3://weights/step-7.safetensors"
    assert (options.partial, options.base_version, options.candidate, options.share) == (True, 1, True, 0.05)


def test_the_file_names_the_version_if_nobody_does(visit: Visit, new: Path) -> None:
    visit.open(token=TOKEN)
    cases: tuple[tuple[Path | str, str], ...] = (
        (new, "new"),
        ("s3://weights/step.7.safetensors?versionId=3", "step.7"),
        ("/srv/tuned/model.safetensors.index.json", "tuned"),
    )
    for number, (given, label) in enumerate(cases, 2):
        visit.send(given)
        expect(visit.page.locator(".answering")).to_have_text(f"Version {number}")
        assert visit.weights.versions[-1].label == label
        if given == new:
            visit.page.get_by_label("where the weights are").select_option("uri")


def test_the_weights_of_the_package_are_a_version_to_go_back_to(visit: Visit) -> None:
    first = visit.weights.status.current
    visit.loop.run(visit.weights.become(previous=first.model_copy(update={"number": 0, "label": "", "digest": ""})))
    visit.open(token=TOKEN)
    row = visit.page.locator("[data-version='0']")
    expect(row).to_contain_text("built into the package")
    expect(row.get_by_role("button", name="Roll back to version 0")).to_be_enabled()


def test_a_label_is_set_moved_and_deleted_and_only_if_nobody_else_did(visit: Visit, new: Path) -> None:
    visit.open(token=TOKEN)
    page, dialog = visit.page, visit.dialog
    first, second = page.locator("[data-version='1']"), page.locator("[data-version='2']")
    visit.send(new, label="better")
    expect(first).to_contain_text("stable")
    visit.press("Set a label of version 2")
    visit.loop.run(visit.weights.become(labels={"stable": 2}))  # as somebody else does
    expect(second).to_contain_text("stable")
    dialog.get_by_label("label of the version").fill("stable")
    visit.answer("Set it")
    expect(second).to_contain_text("stable")
    visit.press("Delete the label stable")
    visit.loop.run(visit.weights.become(labels={"stable": 1}))
    visit.answer("Delete it")
    expect(dialog.get_by_role("alert")).to_contain_text("names version 1 now, not 2")
    visit.answer("Cancel")
    visit.press("Delete the label stable")
    visit.answer("Delete it")
    expect(first).not_to_contain_text("stable")
    assert visit.weights.status.labels == {}


def test_it_says_that_the_server_is_lost_and_connects_again(visit: Visit) -> None:
    visit.open(token=TOKEN)
    page = visit.page
    expect(page.locator("#link")).to_have_text("connected")
    address, app = visit.wired.address, visit.wired.listener
    visit.wired.close()
    expect(page.locator("#link")).to_contain_text("does not answer; trying again")
    expect(page.locator(".lead")).to_contain_text("when the server was last heard")
    visit.loop.run(app.open())
    assert app.address[1] == address[1]
    expect(page.locator("#link")).to_have_text("connected")


INKED = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const at = data.findIndex((value, at) => at % 4 === 3 && value > 60);
  return data[at - 1] > 128 ? "light" : "dark";
}"""


def test_ink_can_be_seen_in_every_colour_of_the_page(visit: Visit) -> None:
    visit.page.emulate_media(color_scheme="light")
    visit.open()
    visit.draw()
    canvas = visit.page.locator("#try canvas")
    assert canvas.evaluate(INKED) == "dark"
    visit.page.emulate_media(color_scheme="dark")
    visit.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert canvas.evaluate(INKED) == "light"
    for theme in ("light", "dark"):  # after `auto` the button goes through both
        visit.page.locator("#theme").click()
        expect(visit.page.locator("#theme")).to_have_text(f"Colours: {theme}")
        assert canvas.evaluate(INKED) == {"light": "dark", "dark": "light"}[theme]


def test_dimensions_have_names_and_ranges_and_those_of_one_name_follow_each_other(browser: Browser) -> None:
    with visiting(browser, signature=TEXT) as visit:
        visit.open()
        page = visit.page
        form = page.locator("#try form")
        expect(form.locator("legend")).to_have_text(["ids INT64 [batch, length]", "mask FP32 [batch, 2*length, 2]"])
        expect(form).to_contain_text("1 to 128")
        expect(form).to_contain_text("2 to 256, in steps of 2")
        form.get_by_label("length of ids", exact=True).fill("3")
        expect(form.get_by_label("2*length of mask")).to_have_value("6")
        form.get_by_label("batch of mask").fill("2")
        expect(form.get_by_label("batch of ids")).to_have_value("2")
        with page.expect_request("**/infer") as asked:
            visit.press("Ask")
        sent: Any = asked.value.post_data_json
        inputs = sent["inputs"]
        assert [tensor["shape"] for tensor in inputs] == [[2, 3], [2, 6, 2]]
        assert [len(tensor["data"]) for tensor in inputs] == [6, 24]
        expect(page.locator(".by")).to_have_text("answered by version 1")
        assert visit.faults == []


BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map((each) => `${each.tagName}.${each.className} ${each.textContent.slice(0, 40)}`)"""


@pytest.mark.parametrize("width", [360, 400, 700, 880])
def test_nothing_is_off_the_screen(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.weights.store("a_label_without_any_blank_" * 6, adapter=MergedAdapter(base=1, digest="0" * 64))
    visit.weights.store("trained for another night with twice the rate, and then with half of it, on all days")
    visit.loop.run(visit.weights.become(labels={"stable": 1, "best-of-all-those-that-were-tried-in-the-last-week": 2}))
    visit.open(token=TOKEN)
    page = visit.page
    visit.loop.run(visit.weights.try_out())
    expect(page.locator("[data-version='4']")).to_contain_text("candidate")
    expect(page.locator("[data-version='2']")).to_contain_text("adapter on 1")
    expect(page.locator("[data-version='2']").get_by_role("button", name="Roll back")).to_be_visible()
    assert page.evaluate(BEYOND) == []
    visit.loop.run(visit.weights.become(candidate=None, rollout=None, swap=staging(visit.weights.versions[1], 1)))
    expect(page.locator(".panel.swap .bar")).to_have_count(2)
    assert page.evaluate(BEYOND) == []
    heights = page.locator(".kept, td.number").evaluate_all("all => all.map((each) => each.getClientRects().length)")
    assert set(heights) == {1}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit: Visit, scheme: Any) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 740})
    visit.page.emulate_media(color_scheme=scheme)
    visit.open()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
