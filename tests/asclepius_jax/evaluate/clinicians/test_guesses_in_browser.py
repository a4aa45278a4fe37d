"""The page of guesses in a real browser: closed and filled in by the keyboard alone."""

import json
import re
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.clinicians import store
from tests.asclepius_jax.evaluate.clinicians.test_page_in_browser import CHROMIUM, Server, chromium
from tests.helpers.evaluation import made_study
from tests.helpers.evaluation.made_study import MODELS, links

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def test_a_rater_guesses_by_the_keyboard_alone(tmp_path, capsys):
    settings = replace(made_study.config(tmp_path, 12), guesses=True)
    paths = links(capsys, settings)
    with store.transaction(settings.out / store.DATABASE, write=True) as db:
        draft = {"incorrect": False, "omitted": "nothing", "treatment": "answered"}
        db.execute("UPDATE shown SET draft = ?", (json.dumps(draft),))
    server = Server(settings.out)
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.goto(server.base + paths["Dr Ito"])
            page.locator("#go").focus()
            page.keyboard.press("Enter")
            page.wait_for_url(re.compile("/guess$"))
            for key in "1221121212":
                page.keyboard.press(key)
            page.keyboard.press("Enter")
            page.get_by_text("10 of 10 saved").wait_for()
            assert page.title() == "Which system? 10 of 10 guessed"
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        server.kill()
    with store.transaction(settings.out / store.DATABASE) as db:
        found = [row["guess"] for row in db.execute("SELECT guess FROM guesses WHERE guess != '' ORDER BY position")]
    assert found == [sorted(MODELS)[int(key) - 1] for key in "1221121212"]
