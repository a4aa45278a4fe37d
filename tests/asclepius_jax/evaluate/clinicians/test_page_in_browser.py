"""The clinicians' page in a real browser: two raters score a study by the keyboard alone, and nothing is lost."""

import csv
import html
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.clinicians import ratings, store
from asclepius_jax.evaluate.clinicians.verdicts import TREATMENTS, Draft
from asclepius_jax.evaluate.judge.rubric import OMISSIONS
from asclepius_jax.evaluate.records import Rating, read_records
from data_prep.contract.records import seeded_fraction
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, answer_text, links

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SERVE = "from asclepius_jax.cli import main; main()"


class Server:
    def __init__(self, study: Path):
        self.study, self.port = study, 0
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-c",
            SERVE,
            "evaluate",
            "serve",
            "--study",
            str(self.study),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + (self.process.stderr.read() if self.process.stderr else "")
        self.port = int(found[1])
        self.base = found[0]

    def kill(self) -> str:
        """SIGKILL; what it has printed since."""
        self.process.send_signal(signal.SIGKILL)
        return "".join(self.process.communicate())


@contextmanager
def chromium() -> Iterator:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Rater:
    """Presses keys, and keeps a record of its own of what it pressed: (item, text of the answer) -> what it meant."""

    def __init__(self, browser, name: str, link: str):
        self.browser, self.name, self.link = browser, name, link
        self.meant: dict[tuple[int, str], dict] = {}
        self.problems: list[str] = []
        self.come()

    def come(self) -> None:
        self.page = self.browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(self.link)

    def press(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    def begin(self) -> int:
        """Enter on the one button, which is the first stop of Tab; the item that it leads to."""
        button = self.page.locator("#go")
        button.wait_for()
        if button.text_content().strip().startswith("Start"):  # below the instructions; "Continue" has the focus
            self.press("Tab")
        button.and_(self.page.locator(":focus")).wait_for()  # a busy machine is slow to give it
        self.press("Enter")
        self.page.wait_for_url("**/item/*")
        return self.position

    @property
    def position(self) -> int:
        return int(self.page.url.partition("#")[0].rsplit("/", 1)[1])

    def told(self, beginning: str) -> None:
        self.page.locator("#saved", has_text=re.compile("^" + beginning)).wait_for()

    def texts(self) -> list[str]:
        return self.page.locator(".answer-text").all_text_contents()

    def verdict(self, text: str) -> None:
        """Press what is drawn for this answer."""

        def draw(purpose: str, count: int) -> int:
            return int(seeded_fraction(1, purpose, self.name, self.position, text) * count)

        incorrect, omitted, treatment = draw("incorrect", 2), draw("omitted", 3), draw("treatment", 4)
        self.press("12"[1 - incorrect], "12"[incorrect], "345"[omitted], "6789"[treatment])
        meant = {"incorrect": bool(incorrect), "omitted": OMISSIONS[omitted], "treatment": list(TREATMENTS)[treatment]}
        self.meant[self.position, text] = meant
        meant.update(cannot_judge=False, comment="", span="")
        if draw("special", 5) == 0:
            self.press("0")
            meant["cannot_judge"] = True
        if draw("special", 5) == 1:
            # The last word of the text, and the one before.
            self.press("m", "End", "Shift+ArrowLeft", "Enter", "3", "6", "Enter")
            self.page.locator(".answer[data-active] mark").wait_for()
            meant["span"] = " ".join(text.split()[-2:])
        if draw("special", 5) == 2:
            meant["comment"] = f"1 2 3, item {self.position}?\nn"
            self.press("c")
            for line, words in enumerate(meant["comment"].split("\n")):
                if line:
                    self.press("Enter")
                self.page.keyboard.type(words)
            self.press("Escape")

    def score_item(self) -> None:
        for text in self.texts():
            self.verdict(text)
            here = self.page.url
            self.press("Enter")
        self.page.wait_for_url(lambda url: url != here)
        assert self.page.title() != "taken"


def score_all(rater: Rater, server: Server, first: int, last: int, die_at: int) -> None:
    """Items `first` to `last`; at one of them the server is killed between two answers, and comes back."""
    for position in range(first, last + 1):
        assert rater.position == position
        if position == die_at:
            text = rater.texts()[0]
            rater.verdict(text)
            rater.told("Saved")
            server.kill()
            rater.press("Enter")
            incorrect = rater.meant[position, text]["incorrect"]
            rater.press("k", "1" if incorrect else "2")  # the other choice: told as not saved, and sent later
            rater.meant[position, text]["incorrect"] = not incorrect
            rater.told("Not saved")
            server.start()
            rater.told("Saved")
            rater.page.reload()
            rater.press("j")
            rater.verdict(rater.texts()[1])
            rater.press("Enter", "Enter")
            rater.page.wait_for_url(f"**/item/{position + 1}")
        else:
            rater.score_item()


def expected_rating(rater: Rater, position: int, text: str) -> dict:
    from asclepius_jax.evaluate.judge.rubric import Verdict, score

    meant = rater.meant[position, text]
    verdict = Verdict(meant["incorrect"], meant["omitted"], *TREATMENTS[meant["treatment"]])
    return {**meant, "score": 0 if meant["cannot_judge"] else score(verdict)}


def check_export(rows: list[dict[str, str]], rater: Rater, texts: dict[tuple[int, str], str]) -> None:
    for row in rows:
        wanted = expected_rating(rater, int(row["item"]), texts[int(row["item"]), row["label"]])
        assert row["score"] == str(wanted["score"])
        assert row["incorrect"] == ("yes" if wanted["incorrect"] else "no")
        assert (row["omitted"], row["treatment"]) == (wanted["omitted"], wanted["treatment"])
        assert row["comment"] == wanted["comment"]


def run_study(tmp_path: Path, capsys, count: int) -> None:
    settings = replace(made_study.config(tmp_path, count=count), repeats=0.1)
    paths = links(capsys, settings)
    total = count + round(0.1 * count)
    server = Server(settings.out)
    started = time.monotonic()
    try:
        with chromium() as browser:
            raters = [Rater(browser, name, server.base + paths[name]) for name in ("Dr Ito", "Dr Weiss")]
            first, second = raters
            assert first.begin() == 1
            half = total // 2
            score_all(first, server, 1, half, die_at=2)
            first.page.context.close()  # interrupted, and back another day
            assert second.begin() == 1
            score_all(second, server, 1, total, die_at=total - 1)
            first.come()
            assert first.page.locator("h1").text_content() == "Continue where you left off"
            assert first.begin() == half + 1
            score_all(first, server, half + 1, total, die_at=0)
            for rater in raters:
                assert "Thank you" in str(rater.page.locator("h1").text_content())
                # A lost connection is what was done to them; a refused script or an error of ours is not.
                assert not [text for text in rater.problems if "ERR_CONNECTION_REFUSED" not in text]
            assert second.page.goto(server.base + paths["Dr Ito"][:-1]).status == 404
            request = browser.new_context().request
            table = request.get(server.base + paths["Administrator"] + "/ratings.csv").text()
            shown = {rater.name: shown_texts(request, server.base + paths[rater.name], total) for rater in raters}
        assert server.kill() == ""  # nothing of a note, a link or an answer was printed
    finally:
        server.process.kill()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 2 * total * len(MODELS)
    for rater in raters:
        check_export([row for row in rows if row["rater"] == rater.name], rater, shown[rater.name])
    check_unblinded(tmp_path, settings.out, raters, rows, shown, time.monotonic() - started)


def shown_texts(request, link: str, total: int) -> dict[tuple[int, str], str]:
    """What stood under which label, read from the pages: nothing of our own database."""
    found = {}
    for position in range(1, total + 1):
        page = request.get(f"{link}/item/{position}").text()
        for label, text in re.findall(r'aria-label="Text of answer (\w)">(.*?)</div>', page, re.DOTALL):
            found[position, label] = html.unescape(re.sub(r"</?mark[^>]*>", "", text))
    return found


def check_unblinded(tmp_path: Path, study: Path, raters: list[Rater], rows, shown, elapsed: float) -> None:
    out = tmp_path / "ratings"
    ratings.run(ratings.RatingsConfig(study, study / "key.json", out))
    found = {
        (rating.rater, rating.question_id, rating.model, rating.repeat): rating
        for rating in read_records(out, "ratings", Rating)
    }
    assert len(found) == len(rows)
    by_name = {rater.name: rater for rater in raters}
    for row in rows:
        text = shown[row["rater"]][int(row["item"]), row["label"]]
        (model,) = [model for model in MODELS if text == answer_text(row["question_id"], model)]
        rating = found[row["rater"], row["question_id"], model, int(row["kind"] == "repeat")]
        wanted = expected_rating(by_name[row["rater"]], int(row["item"]), text)
        assert (rating.answerable, rating.recognised) == TREATMENTS[wanted["treatment"]]
        for name in ("score", "incorrect", "omitted", "comment"):
            assert getattr(rating, name) == wanted[name]
        spans = [] if not rating.spans else json.loads(rating.spans)
        assert [text[span["start"] : span["end"]] for span in spans] == ([wanted["span"]] if wanted["span"] else [])
        assert all((span["type"], span["severity"]) == ("cause", "major") for span in spans)
        assert 0 < rating.seconds < elapsed
    assert {rating.score for rating in found.values()} == {0, 1, 2, 3, 4}
    assert any(rating.spans for rating in found.values())
    assert any(rating.comment for rating in found.values())


@pytest.mark.parametrize("items", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_two_raters_score_by_the_keyboard_and_killing_the_server_loses_nothing(tmp_path, capsys, items: int):
    run_study(tmp_path, capsys, items)


@pytest.fixture
def served(tmp_path, capsys) -> Iterator[tuple[str, Path]]:
    """The address of Dr Ito's page, and the study that is served."""
    settings = made_study.config(tmp_path, count=2)
    path = links(capsys, settings)["Dr Ito"]
    server = Server(settings.out)
    yield server.base + path, settings.out
    server.kill()


def drafts(study: Path) -> dict[tuple[int, str], Draft]:
    with store.transaction(study / store.DATABASE) as db:
        return {
            (item.position, answer.label): answer.draft for item in store.items_of(db, 1) for answer in item.answers
        }


def test_keys_pressed_while_the_next_item_is_on_its_way_change_nothing(served):
    link, study = served
    with chromium() as browser:
        rater = Rater(browser, "Dr Ito", link)
        rater.begin()
        rater.press("1", "3", "6", "Enter", "1", "3", "6")
        rater.told("Saved")

        def slowly(route):
            time.sleep(0.3)
            route.continue_()

        rater.page.route("**/item/1/B", slowly)
        rater.press("4", "Enter", "2", "5", "0", "k", "2")
        rater.page.wait_for_url("**/item/2")
    assert drafts(study)[1, "A"] == Draft(False, "nothing", "answered")
    assert drafts(study)[1, "B"] == Draft(False, "minor", "answered")


def test_the_page_works_without_script(served):
    link, study = served
    with chromium() as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(link + "/item/1")
        card = page.locator("#B")
        for words in ("No", "Something significant", "Yes, and it answers"):
            card.locator(".verdict label", has_text=re.compile(rf"\b{words}$")).first.click()
        card.get_by_label("Comment").fill("by hand")
        card.get_by_role("button", name="Save answer B").click()
        assert card.locator(".score").text_content() == "poor"
        card.locator("summary").click()
        card.get_by_label("Words of the answer").fill("warfarin")
        card.get_by_label("fabrication").check()
        card.get_by_label("major").check()
        card.get_by_role("button", name="Mark").click()
        assert card.locator("mark.major").text_content() == "warfarin"
        page.locator("#search").wait_for(state="hidden")  # its style sheet may come later than the text
    draft = drafts(study)[1, "B"]
    assert (draft.omitted, draft.treatment, draft.comment, len(draft.spans)) == (
        "significant",
        "answered",
        "by hand",
        1,
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_and_the_scale_is_always_in_sight(served, width):
    link, _ = served
    with chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
        for path in ("", "/item/1"):
            page.goto(link + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#B summary").click()
        for place in ("#A .verdict", "#note", "#B .comment", "#next"):
            page.locator(place).scroll_into_view_if_needed()
            playwright.expect(page.locator(".rubric li").nth(0)).to_be_in_viewport(ratio=1)
            playwright.expect(page.locator(".rubric li").nth(3)).to_be_in_viewport(ratio=1)
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select, textarea, button')]"
            ".filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())"
            ".map((one) => one.outerHTML)"
        )
        assert unnamed == []


def test_search_finds_across_sentences_and_the_keys_can_be_switched_off(served):
    link, study = served
    with chromium() as browser:
        rater = Rater(browser, "Dr Ito", link)
        rater.begin()
        rater.press("/")
        rater.page.keyboard.type("25 MG - aspirin 75")
        assert rater.page.locator("#found").text_content() == "1 of 1"
        rater.press(*["Backspace"] * 20, "m", "g", "Enter")
        assert rater.page.locator("#found").text_content() == "2 of 2"
        rater.press("Escape", "?", "Shift+Tab", "Space", "Escape", "2", "m", "0")
        rater.page.wait_for_timeout(200)
        assert set(drafts(study).values()) == {Draft()}
        rater.press("Tab")
        assert rater.page.locator(".answer[data-active] .answer-text").evaluate(
            "(one) => one === document.activeElement"
        )
