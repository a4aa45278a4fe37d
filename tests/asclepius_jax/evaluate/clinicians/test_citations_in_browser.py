"""Citations on the clinicians' page in a real browser: a button marks the sentence of the note, by mouse and by key."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.clinicians import paper, store
from asclepius_jax.evaluate.clinicians.verdicts import Draft
from asclepius_jax.evaluate.records import Answer, Question
from data_prep.contract.prompt.cited_sentences import numbered_sentences
from tests.asclepius_jax.evaluate.clinicians.test_page_in_browser import CHROMIUM, Server, chromium
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, SCRIPT, links

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
WIDTHS = pytest.mark.parametrize("width", [1280, 390])

NOTE = "\n".join(
    [
        "DISCHARGE SUMMARY",
        "Admitted by Dr. Adams with chest pain. Troponin was 0.9 ng/mL.",
        "HISTORY:",
        *(f"On day {day} he walked {100 * day} m. His weight was {80 - day} kg." for day in range(1, 31)),
        "PLAN:",
        SCRIPT + " was typed by a visitor.",
        "Metoprolol 25 mg twice daily.",
    ]
)
SENTENCES = numbered_sentences(NOTE)
LAST = len(SENTENCES)  # Metoprolol
CITING = (
    f"He takes metoprolol 25 mg [{LAST}]. The 💊 follows an infarction [1, 2, {LAST + 1}].\n"
    + "He slept well.\n" * 30
    + f"- A visitor typed [{LAST - 1}]\nHe walked [1,2]. Nothing else [0]."
)
PLAIN = "He takes warfarin."


def test_the_note_is_numbered_as_in_the_prompt():
    assert LAST == 64
    assert SENTENCES[0].text == "Admitted by Dr. Adams with chest pain."
    assert SENTENCES[LAST - 2].text.startswith("<script>")


def studied(folder: Path, capsys, note: str, citing: str) -> tuple[str, Path]:
    """Link of the rater, and a study of one item with an answer that cites and one that does not."""
    question = Question("q0", "n0", "Question Answering", note, "Which drugs does he take?")
    answers = [Answer("q0", model, text, "stop") for model, text in zip(MODELS, (citing, PLAIN), strict=True)]
    settings = replace(
        made_study.config(folder, 1, ("Dr Ito",)),
        questions=made_study.write(folder / "asked", "questions", [question]),
        answers=(made_study.write(folder / "given", "answers", answers),),
    )
    return links(capsys, settings)["Dr Ito"], settings.out


@contextmanager
def serving(path: str, study: Path) -> Iterator[str]:
    server = Server(study)
    try:
        yield f"{server.base}{path}/item/1"
    finally:
        server.kill()


@pytest.fixture
def served(tmp_path, capsys) -> Iterator[tuple[str, Path]]:
    """The address of the item, and the study."""
    path, study = studied(tmp_path, capsys, NOTE, CITING)
    with serving(path, study) as address:
        yield address, study


@contextmanager
def opened(address: str, width: int) -> Iterator:
    """The page of the item; what its console says is an error."""
    with chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        yield page
        assert not problems
        assert page.title() != "taken"


def check_marked(page, number: int) -> None:
    """This sentence alone is marked, has the text of its number, and lies wholly in the window and in its pane."""
    marked = page.locator("[aria-current]")
    assert marked.count() == 1
    assert marked.text_content() == SENTENCES[number - 1].text
    check_in_sight(marked)
    assert look_of(page, number) == ("underline", True)
    for other in (number - 1, number + 1):
        if 1 <= other <= LAST:
            assert look_of(page, other) == ("none", False)
    assert page.locator("#cited").text_content() == f"Sentence {number} of the note: {SENTENCES[number - 1].text}"


def check_in_sight(one) -> None:
    """All of it is in the window, and nothing lies over its first or last line."""
    playwright.expect(one).to_be_in_viewport(ratio=1)
    assert one.evaluate(
        "(one) => { const lines = [...one.getClientRects()]; return [lines[0], lines.at(-1)].every((line) => "
        "document.elementFromPoint(line.x + line.width / 2, line.y + line.height / 2) === one); }"
    )


def look_of(page, number: int) -> tuple[str, bool]:
    """The line under a sentence, and True if an arrow stands before it: both are seen without colours."""
    line, before = page.locator(f'.sentence[data-number="{number}"]').evaluate(
        "(one) => [getComputedStyle(one).textDecorationLine, getComputedStyle(one, '::before').content]"
    )
    return line, "➤" in before


def cites(page, number: int):
    return page.get_by_role("button", name=f"Show sentence {number} of the note", exact=True)


@WIDTHS
def test_the_mouse_marks_the_cited_sentence_and_leads_back(served, width):
    address, _ = served
    with opened(address, width) as page:
        assert page.locator(".cite").all_text_contents() == [str(LAST), "1", "2", str(LAST - 1)]
        for number in (LAST, 1, 2, LAST - 1):
            cites(page, number).click()
            check_marked(page, number)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.get_by_role("button", name="Back to answer").click()
            assert page.locator("[aria-current], .back").count() == 0
            playwright.expect(cites(page, number)).to_be_focused()
            check_in_sight(cites(page, number))
        for number in (LAST, 2):  # without going back between
            cites(page, number).click()
            check_marked(page, number)


@WIDTHS
def test_keys_mark_the_cited_sentence_and_score_afterwards(served, width):
    address, study = served
    with opened(address, width) as page:
        answer = page.locator(".answer").filter(has=page.locator(".cite"))
        label = answer.get_attribute("id")
        if label == "B":
            page.keyboard.press("j")
        page.keyboard.press("Tab")
        for number, key in ((LAST, "Enter"), (1, "Space"), (2, "Enter")):
            page.keyboard.press("Tab")
            playwright.expect(cites(page, number)).to_be_focused()
            page.keyboard.press(key)
            check_marked(page, number)
            playwright.expect(cites(page, number)).to_be_focused()
        page.keyboard.press("Escape")
        assert page.locator("[aria-current], .back").count() == 0
        playwright.expect(cites(page, 2)).to_be_focused()
        check_in_sight(cites(page, 2))
        page.keyboard.press("Enter")
        for key in ("2", "4", "6"):
            page.keyboard.press(key)
        playwright.expect(answer).to_have_attribute("data-complete", "yes")
        check_marked(page, 2)
        # Words are marked at their places in the answer, with a citation before and inside them; the buttons stay.
        for key in ("m", *["ArrowRight"] * 5, "Shift+ArrowRight", "Enter", "2", "5", "Enter"):
            page.keyboard.press(key)
        playwright.expect(answer.locator("mark")).to_have_text(f"[{LAST}]. The")
        playwright.expect(answer.locator("mark .cite")).to_have_text(str(LAST))
        page.keyboard.press("j" if label == "A" else "k")
        page.keyboard.press("Escape")  # to the answer, since its citation was replaced
        assert page.locator("[aria-current], .back").count() == 0
        playwright.expect(answer).to_be_focused()
        cites(page, LAST).click()
        check_marked(page, LAST)
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        playwright.expect(answer).to_be_focused()
        page.locator("#saved", has_text="Saved").wait_for()
    with store.transaction(study / store.DATABASE) as db:
        drafts = {each.label: each.draft for each in store.items_of(db, 1)[0].answers}
    (span,) = drafts[label].spans
    assert CITING[span.start : span.end] == f"[{LAST}]. The"
    assert replace(drafts[label], spans=()) == Draft(True, "minor", "answered")


@WIDTHS
def test_search_and_citations_leave_each_other_alone(served, width):
    address, _ = served
    with opened(address, width) as page:
        cites(page, LAST).click()
        page.keyboard.press("/")
        page.keyboard.type("his weight was 50 kg")
        assert page.locator("#found").text_content() == "1 of 1"
        page.keyboard.press("Escape")  # closes the search, and not the mark
        assert page.locator("[aria-current]").count() == 1
        page.keyboard.press("Escape")
        playwright.expect(cites(page, LAST)).to_be_focused()
        page.keyboard.press("m")
        page.keyboard.press("Escape")
        playwright.expect(page.locator(".answer[data-active]")).to_be_focused()


def test_without_script_the_numbers_can_still_be_read(served):
    address, _ = served
    with chromium() as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(address)
        assert CITING in page.locator(".answer-text").all_text_contents()
        assert cites(page, 1).evaluate("(one) => getComputedStyle(one).borderStyle") == "none"


@WIDTHS
def test_a_sentence_longer_than_its_pane_is_shown_from_its_beginning(tmp_path, capsys, width):
    note = "\n".join(["He was well."] * 40 + ["Then " + "he was ill, and " * 200 + "died."])
    path, study = studied(tmp_path, capsys, note, "He died [41].")
    with serving(path, study) as address, opened(address, width) as page:
        cites(page, 41).click()
        sentence = page.locator("[aria-current]")
        assert sentence.bounding_box()["height"] > page.locator("#note").bounding_box()["height"]
        assert sentence.evaluate(
            "(one) => { const line = one.getClientRects()[0]; return line.y > 0 && line.bottom < innerHeight / 2 && "
            "document.elementFromPoint(line.x + line.width / 2, line.y + line.height / 2) === one; }"
        )
        page.keyboard.press("Escape")
        check_in_sight(cites(page, 41))


def test_forms_on_paper_have_the_numbers_that_answers_cite(tmp_path, capsys):
    _, study = studied(tmp_path, capsys, NOTE, CITING)
    paper.run(paper.PaperConfig(study, out=tmp_path / "forms.html"))
    text = (tmp_path / "forms.html").read_text(encoding="utf-8")
    assert f"<sup>{LAST}</sup>Metoprolol 25 mg twice daily." in text
    assert f"[{LAST}]. The 💊" in text
    assert "<sup>" not in text[text.index("DISCHARGE") : text.index("Admitted")].removesuffix("<sup>1</sup>")
