"""Examples in the report: a citation leads to its sentence of the note, without script, and never into a real note."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.judge.claims import Claim
from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.report.report import ReportConfig, run
from data_prep.contract.manifests import writing_folder
from data_prep.contract.prompt.cited_sentences import numbered_sentences
from tests.asclepius_jax.evaluate.clinicians.test_page_in_browser import CHROMIUM, chromium
from tests.helpers.evaluation.made_evaluation import question, write, write_answers

playwright = pytest.importorskip("playwright.sync_api")
SCRIPT = "<script>document.title = 'taken'</script>"
NOTE = "\n".join(
    [
        "SUMMARY",
        f"Seen on 3 May. {SCRIPT}",
        *(f"On day {day} he walked {day} km." for day in range(1, 60)),
        "He took aspirin.",
    ]
)
LAST = len(numbered_sentences(NOTE))
ANSWERS = {"citing": f"He took 900 mg of heparin [2, {LAST}, {LAST + 1}].", "plain": "He took 800 mg of heparin."}


def report(folder: Path, restricted: bool) -> Path:
    asked = [replace(question(0), note=NOTE, restricted=restricted)]
    questions = write(folder / "questions", "questions", Question, asked)
    answers = [write_answers(folder / "answers" / model, model, {"q0": text}) for model, text in ANSWERS.items()]
    claims = (write_claims(folder / "claims"),)
    run(ReportConfig(questions, folder / "report", answers=tuple(answers), claims=claims))
    return folder / "report/report.html"


def write_claims(folder: Path) -> Path:
    claim = Claim("q0", "plain", "He took 800 mg of heparin.", "contradicted", "He took aspirin.")
    with writing_folder(folder, "claims", {}) as writer:
        writer.facts = {"checker": "checker"}
        writer.add_shard([claim], Claim)
    return folder


def test_nothing_of_a_restricted_note_is_quoted(tmp_path):
    page = report(tmp_path / "real", restricted=True)
    for file in page.parent.iterdir():
        for text in ("he walked", "heparin", "aspirin"):
            assert text not in file.read_text(), file
    page = report(tmp_path / "made", restricted=False)
    for text in ("he walked", "heparin [<a", "the note: “He took aspirin.”"):
        assert text in page.read_text()
    assert "he walked" not in (page.parent / "report.json").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_citation_leads_to_its_sentence_and_back(tmp_path, width):
    path = report(tmp_path, restricted=False)
    with chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto(path.as_uri())
        page.get_by_text("Examples", exact=True).click()
        # Of three examples of one sentence, each has its own note; the answer without citations has none.
        assert page.locator(".note").count() == len(re.findall(r"heparin \[<a", path.read_text())) > 0
        for number, press in ((LAST, "click"), (2, "Enter")):
            link = page.get_by_role("link", name=f"Sentence {number} of the note", exact=True).first
            if press == "click":
                link.click()
            else:
                link.focus()
                page.keyboard.press(press)
            marked = page.locator(":target")
            wanted = numbered_sentences(NOTE)[number - 1].text
            playwright.expect(marked).to_have_text(f"{number} {wanted}")
            playwright.expect(marked).to_be_in_viewport(ratio=1)
            assert marked.evaluate("(one) => getComputedStyle(one).textDecorationLine") == "underline"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("link", name="Back to the answer").first.click()
        playwright.expect(page.locator("blockquote:target")).to_be_in_viewport(ratio=1)
        assert page.get_by_role("link", name=f"Sentence {LAST + 1} of").count() == 0
        assert page.title() == "Evaluation"
        assert not problems
