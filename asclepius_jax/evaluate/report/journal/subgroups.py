"""Subgroups of patients by age, sex and specialty, with tests of model × subgroup.

Age and sex are read from the note by the rules of `faithfulness`; a specialty is the one with most cue words. All three
are the note's own words about its patient and not a record's fields, and "unknown" is a group of its own.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.report.model_comparisons import Pairs, score_column
from asclepius_jax.evaluate.report.results import Joined
from asclepius_jax.evaluate.statistics.comparisons import Interaction, by_holm, interaction
from asclepius_jax.evaluate.statistics.estimates import SCALE, mean
from asclepius_jax.evaluate.statistics.intervals import FEWEST_CLUSTERS
from data_prep.clinical_text.statuses.scopes import scopes
from data_prep.faithfulness.certificate import source_of
from data_prep.faithfulness.dimensions.whole import sex_of

UNKNOWN = "unknown"
AGES = ((18, "under 18"), (45, "18 to 44"), (65, "45 to 64"), (200, "65 and over"))  # years, exclusive
YEARS = {"day": 1 / 365.25, "week": 7 / 365.25, "month": 1 / 12, "year": 1.0}
RELATIVE = re.compile(
    r"\b(?:mother|father|parents?|brother|sister|siblings?|son|daughter|wife|husband|aunt|uncle|cousin|grand\w+)\b",
    re.IGNORECASE,
)
FEWEST_CUES = 2  # and more than of any other specialty


def age_group(note: str) -> str:
    """Group of the first age that is not a relative's."""
    for reading in source_of(note).readings:
        of_others = [scope for scope in scopes(reading.text) if scope.status.startswith("of:")]
        for atom in reading.atoms:
            is_others = any(scope.start <= atom.start < scope.end for scope in of_others)
            before = reading.text[: atom.start]
            if atom.kind == "age" and not is_others and not RELATIVE.search(before):
                unit = str(atom.value[1])
                years = atom.amount * YEARS.get(unit, 1.0)
                return next((name for limit, name in AGES if years < limit), UNKNOWN)
    return UNKNOWN


@lru_cache(maxsize=1)
def cues() -> list[tuple[str, re.Pattern[str]]]:
    lines = (Path(__file__).parent / "specialties.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    return [(name, re.compile(rf"\b(?:{'|'.join(words.split())})\w*", re.IGNORECASE)) for name, words in rows]


def specialty(note: str) -> str:
    """Specialty with most different cue words; unknown if another has as many."""
    found = Counter({name: len({m[0].lower() for m in pattern.finditer(note)}) for name, pattern in cues()})
    (best, most), (_, second) = found.most_common(2)
    return best if most >= FEWEST_CUES and most > second else UNKNOWN


WAYS: dict[str, Callable[[str], str]] = {
    "age group": age_group,
    "sex": lambda note: sex_of(note) or UNKNOWN,
    "specialty": specialty,
}


def subgroups_of(
    by_model: Mapping[str, Mapping[str, Joined]],
    questions: Mapping[str, Question],
    pairs: Pairs,
) -> dict[str, Any]:
    """Mean scores by group, and for each pair of models how its difference differs from that in all other groups.

    All tests are exploratory, and one family for Holm's method, until `confirm_subgroups` makes two of it. A group of
    fewer than five clusters is suppressed: its figures would say something about single patients.
    """
    figures: dict[str, Any] = {}
    by_note: dict[str, str] = {question.note_id: question.note for question in questions.values()}
    for way, read in WAYS.items():
        of_note = {note_id: read(note) for note_id, note in by_note.items()}
        groups: dict[str, list[str]] = defaultdict(list)
        for name, question in questions.items():
            groups[of_note[question.note_id]].append(name)
        order = [name for _, name in AGES] if way == "age group" else sorted(groups)
        names = sorted(groups, key=lambda name: (name == UNKNOWN, order.index(name) if name in order else 0))
        # Of two groups, one against the rest is the other against the rest.
        tested = [] if len(groups) < 2 else names[:1] if len(groups) == 2 else names
        figures[way] = {
            "exploratory": True,
            "groups": {
                name: group_figures(groups[name], by_model, questions, pairs if name in tested else {})
                for name in names
            },
        }
    adjust([way["groups"] for way in figures.values()])
    return figures


def confirm_subgroups(figures: Mapping[str, dict[str, Any]], planned: Collection[str]) -> None:
    """Mark the prespecified ways as confirmatory, and adjust their tests and the exploratory ones as two families."""
    for way, found in figures.items():
        found["exploratory"] = way not in planned
    for exploratory in (False, True):
        adjust([way["groups"] for way in figures.values() if way["exploratory"] is exploratory])


def group_figures(
    names: list[str],
    by_model: Mapping[str, Mapping[str, Joined]],
    questions: Mapping[str, Question],
    pairs: Pairs,
) -> dict[str, Any]:
    inside, clusters = set(names), [questions[name].cluster for name in names]
    found: dict[str, Any] = {"questions": len(names), "clusters": len(set(clusters)), "suppressed": ""}
    if found["clusters"] < FEWEST_CLUSTERS:
        return {**found, "suppressed": f"fewer than {FEWEST_CLUSTERS} clusters", "models": {}, "interactions": {}}
    rest = [name for name in questions if name not in inside]
    found["models"] = {
        model: asdict(mean(score_column(by_question, names), clusters, SCALE))
        for model, by_question in by_model.items()
    }
    found["interactions"] = {
        pair: {**asdict(interaction_of(by_model, models, questions, (names, rest))), "p_holm": None}
        for pair, models in pairs.items()
        if set(models) <= by_model.keys()
    }
    return found


def interaction_of(
    by_model: Mapping[str, Mapping[str, Joined]],
    models: tuple[str, str],
    questions: Mapping[str, Question],
    sides: tuple[list[str], list[str]],
) -> Interaction:
    """How the difference of two models differs between the questions of one side and of the other."""
    first, second = (by_model[model] for model in models)
    differences = [score_column(first, names) - score_column(second, names) for names in sides]
    clusters = [[questions[name].cluster for name in names] for names in sides]
    return interaction(differences[0], clusters[0], differences[1], clusters[1])


def adjust(families: list[dict[str, Any]]) -> None:
    """Write Holm's adjusted p values of all interaction tests of one family."""
    tests = [row for groups in families for group in groups.values() for row in group["interactions"].values()]
    for number, p in by_holm({number: row["test"]["p"] for number, row in enumerate(tests)}).items():
        tests[number]["p_holm"] = p
