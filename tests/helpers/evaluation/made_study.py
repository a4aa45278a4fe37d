"""A small study of our own making: notes, an instruction on each, and the answers of two models."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.clinicians import study
from asclepius_jax.evaluate.clinicians.study import StudyConfig
from asclepius_jax.evaluate.records import Answer, Question, Rating
from data_prep.contract.manifests import writing_folder

MODELS = ("zebrafish-7b", "quokka-13b")
SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
NOTE = """\
DISCHARGE SUMMARY

Admitted on 3 May with chest pain. Dr. Adams found no ST elevation.
Medications:
  - metoprolol   25 mg
  - aspirin      75 mg
He was discharged well. Number {number}."""


def questions(count: int) -> list[Question]:
    made = [
        Question(f"q{n}", f"n{n}", "Question Answering", NOTE.format(number=n), f"Which drugs, number {n}?")
        for n in range(count)
    ]
    return [replace(made[0], note=made[0].note + "\n" + SCRIPT, instruction=SCRIPT), *made[1:]]


def answer_text(question: str, model: str) -> str:
    return f"Text {MODELS.index(model)} on {question}: metoprolol 25 mg 💊 and {SCRIPT} warfarin."


def answers(count: int) -> list[Answer]:
    return [Answer(f"q{n}", model, answer_text(f"q{n}", model), "stop") for n in range(count) for model in MODELS]


def write(folder: Path, kind: str, records: Sequence[Question | Answer | Rating]) -> Path:
    with writing_folder(folder, kind, {}) as writer:
        writer.add_shard(records, type(records[0]))  # type: ignore[arg-type]
    return folder


def config(folder: Path, count: int = 6, raters: tuple[str, ...] = ("Dr Ito", "Dr Weiss")) -> StudyConfig:
    return StudyConfig(
        write(folder / "questions", "questions", questions(count)),
        (write(folder / "answers", "answers", answers(count)),),
        raters,
        folder / "study",
        guesses=False,
    )


def links(capsys: pytest.CaptureFixture[str], settings: StudyConfig) -> dict[str, str]:
    """Make the study; the paths of its personal links by name."""
    capsys.readouterr()
    study.run(settings)
    found = re.findall(r"^  (\S.*?) +http://127\.0\.0\.1:8000(/\S+)$", capsys.readouterr().out, re.MULTILINE)
    return dict(found)
