"""A second reader is measured on planted errors of the run's own sources, and a killed run asks nothing twice."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from asclepius_jax.evaluate.statistics import estimates
from data_prep.clinical_text.sentences import split_sentences
from data_prep.faithfulness.places import plain
from data_prep.synthesize import notes
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.second_reader.calibration import PLANTERS, draw_cases, wilson
from data_prep.synthesize.second_reader.reader import Sentence, passages
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.endpoints.second_readers import guesses, is_reading, knows, readings, reads, talks
from tests.helpers.places import ROOT
from tests.helpers.text_stages import api, folder_content, read_notes

DEMO = ROOT / "data_prep/ingest/demo_reports.jsonl"
NOTE = "The patient was pleasant to talk to, and everybody on the ward was glad to have met such a person that week."


def demo() -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in DEMO.read_text(encoding="utf-8").splitlines()]
    return [(row["id"], row["text"]) for row in rows]


# ---------------------------------------------------------------- the sentences


def test_half_of_the_sentences_hold_one_error_and_half_none():
    cases = draw_cases(demo(), 40, seed=1)
    sentences = [(case.source, text, error) for case in cases for text, error in case.sentences]
    assert Counter(bool(error) for _, _, error in sentences) == {True: 40, False: 40}
    for source, text, error in sentences:
        assert (plain(text) in plain(source)) == (not error), text
    errors = Counter(error for _, _, error in sentences if error)
    assert set(errors) == set(PLANTERS)
    assert max(errors.values()) <= 2, "classes take turns"
    for case in cases:
        texts = [text for text, _ in case.sentences]
        assert len(set(texts)) == len(texts)


def test_the_seed_draws_the_same_from_any_order():
    first = draw_cases(demo(), 5, seed=1)
    assert draw_cases(reversed(demo()), 5, seed=1) == first
    assert draw_cases(demo(), 5, seed=2) != first
    assert draw_cases(demo(), 0, seed=1) == []
    assert draw_cases([("a", "Nothing.")], 5, seed=1) == []


def test_wilson_is_that_of_the_evaluation():
    for flags in ([True] * 3 + [False], [False] * 9, [True, None], [True, False, None, None]):
        rate = estimates.rate(flags)
        told = wilson(flags)
        assert [told[name] for name in ("count", "n", "missing")] == [rate.count, rate.n, rate.missing]
        assert [told[name] for name in ("value", "low", "high")] == pytest.approx([rate.value, rate.low, rate.high])
    assert wilson([None])["value"] is None


# ---------------------------------------------------------------- the manifest


def write(body):
    """A note of the report's first sentence and of one that no report holds."""
    report = body["messages"][1]["content"].partition("Case report:\n")[2]
    return completion(f"{split_sentences(report)[0]} {NOTE}")


def calibrated(tmp_path, read, count=20):
    """What `notes` on the fictional reports says of a reader, on standard error and in its manifest."""
    with FakeEndpoint(lambda body, n: read(body) if is_reading(body) else write(body)) as endpoint:
        gate = GateConfig("keep", second_reader="r", calibrate=count)
        config = NotesConfig(str(DEMO), tmp_path / "out", teacher=api(endpoint), gate=gate, seed=3)
        told = notes.run(config)["faithfulness"]["second_reader"]
    return told, endpoint, read_notes(tmp_path / "out")[0]


def test_a_reader_that_knows_finds_every_planted_error(tmp_path, capsys):
    told, endpoint, made = calibrated(tmp_path, reads(knows({})))
    figures = told["calibration"]
    assert (figures["planted"], figures["untouched"]) == (20, 20)
    assert (figures["reader"]["recall"]["count"], figures["reader"]["false_alarms"]["count"]) == (20, 0)
    assert figures["both"]["recall"]["count"] == 20
    assert 0 < figures["rules"]["recall"]["count"] <= 20
    assert figures["reader"]["recall"]["low"] == pytest.approx(estimates.rate([True] * 20).low)
    assert "warning" not in figures
    assert sum(rate["n"] for rate in figures["classes"].values()) == 20
    assert "second reader r: flags 20 of 20 sentences with planted errors and 0 of 20" in capsys.readouterr().err
    assert sum(map(len, readings(endpoint))) == 40 + told["not_stated"]
    assert told["not_stated"] == sum(note.certificate.reader.not_stated for note in made) == len(made) == 24
    assert told["not_asked"] == 24, "the first sentence of each report"


def test_a_reader_that_guesses_is_named(tmp_path, capsys):
    told, _, made = calibrated(tmp_path, reads(guesses))
    figures = told["calibration"]["reader"]
    assert figures["recall"]["missing"] == figures["false_alarms"]["missing"] == 0
    assert 0.3 < figures["false_alarms"]["value"] < 1
    assert told["calibration"]["warning"] == "the reader is not shown to be better than guessing"
    assert "not shown to be better than guessing" in capsys.readouterr().err
    assert {name: told[name] for name in ("supported", "contradicted", "not_stated")} == {
        name: sum(getattr(note.certificate.reader, name) for note in made)
        for name in ("supported", "contradicted", "not_stated")
    }


def test_a_reader_that_cannot_be_read_is_named(tmp_path):
    told, endpoint, made = calibrated(tmp_path, talks)
    figures = told["calibration"]
    assert (figures["reader"]["recall"]["n"], figures["reader"]["recall"]["missing"]) == (0, 20)
    assert figures["both"]["recall"] == figures["rules"]["recall"]
    assert figures["warning"] == "no verdict of the reader could be read"
    assert told["unread"] == sum(note.certificate.reader.unread for note in made) == len(made)
    assert len({json.dumps(body) for body in endpoint.requests}) == len(endpoint.requests)


# ---------------------------------------------------------------- a killed run

SCRIPT = """
import sys
from pathlib import Path
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.notes import NotesConfig, run
from data_prep.execution.shards import ShardsConfig
from data_prep.teachers.base import TeacherConfig
source, out, url = sys.argv[1:]
teacher = TeacherConfig("openai", url, "m", concurrency=1)
gate = GateConfig("keep", second_reader="r", calibrate=3)
run(NotesConfig(source, Path(out), teacher=teacher, gate=gate, shards=ShardsConfig(limit=3)))
"""


def test_a_run_that_is_killed_twice_asks_nothing_twice(tmp_path: Path):
    """One request is in flight at a time, and at each kill it is one that was not answered."""
    answered: Counter[str] = Counter()
    kills = [1, 7]  # in the calibration, and between two notes
    running: list[subprocess.Popen[bytes]] = []

    def answer(body, n):
        if kills and n == kills[0]:
            kills.pop(0)
            os.kill(running[0].pid, signal.SIGKILL)
            running[0].wait()
            return completion("Nobody reads this.")
        answered[json.dumps(body)] += 1
        return reads(knows({}))(body) if is_reading(body) else write(body)

    def started(out: Path) -> int:
        arguments = [sys.executable, "-c", SCRIPT, str(DEMO), str(out), endpoint.url]
        running[:] = [subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL)]
        return running[0].wait()

    with FakeEndpoint(answer) as endpoint:
        assert [started(tmp_path / "out") for _ in range(3)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert set(answered.values()) == {1}
    assert sum(map(is_reading, map(json.loads, answered))) == 3 + 3
    assert len(answered) == 3 + 3 + 3
    killed = folder_content(tmp_path / "out")
    with FakeEndpoint(answer) as endpoint:
        assert started(tmp_path / "whole") == 0
    whole = folder_content(tmp_path / "whole")
    assert {name for name in killed if killed[name] != whole[name]} <= {"manifest.json", "README.md"}


def test_passages_of_a_short_source_are_the_source():
    assert passages(" All of it. ", [Sentence("All.")]) == "All of it."
