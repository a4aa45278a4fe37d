"""Subgroups come from the note, small ones are suppressed, and interactions of equal groups are rarely found."""

import numpy as np
import pytest

from asclepius_jax.evaluate.records import Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.journal.blinding import blinding_of
from asclepius_jax.evaluate.report.journal.subgroups import age_group, specialty, subgroups_of
from asclepius_jax.evaluate.report.results import Joined, Results
from asclepius_jax.evaluate.statistics.comparisons import interaction
from tests.helpers.evaluation.made_evaluation import question


@pytest.mark.parametrize(
    ("note", "group"),
    [
        ("A 6-month-old girl was seen with her 34-year-old mother.", "under 18"),
        ("Her mother died aged 71. The patient, aged 45, had pain.", "45 to 64"),
        ("Pt is a 72 y/o F.", "65 and over"),
        ("A 17-year-old boy.", "under 18"),
        ("An 18-year-old man.", "18 to 44"),
        ("The patient had fever for 3 years.", "unknown"),
    ],
)
def test_the_age_is_the_patients(note, group):
    assert age_group(note) == group


def test_a_specialty_has_most_cues_and_a_tie_is_unknown():
    assert specialty("Atrial fibrillation, a coronary stent and a murmur; no fracture.") == "cardiology"
    assert specialty("Fracture of the femur after a stroke with seizure.") == "unknown"
    assert specialty("The patient was seen.") == "unknown"


def test_equal_groups_seldom_differ_and_different_ones_are_found():
    random, false, inside = np.random.default_rng(0), 0, 0
    for _ in range(400):
        sides = []
        for count, shift in ((12, 0.0), (40, 0.0)):
            cluster = np.repeat(np.arange(count), random.integers(1, 6, count))
            sides += [
                shift + random.normal(0, 0.6, count)[cluster] + random.normal(0, 0.8, len(cluster)),
                list(cluster),
            ]
        found = interaction(sides[0], sides[1], sides[2], [1000 + each for each in sides[3]])
        false += found.test.p < 0.05
        inside += found.difference.low <= 0 <= found.difference.high
    assert false / 400 <= 0.06
    assert inside / 400 >= 0.94
    assert interaction([2.0, 2.1] * 10, range(20), [0.0, 0.1] * 10, range(20, 40)).test.p < 0.001
    assert "4 clusters only" in interaction([1.0] * 4, range(4), [0.0, 0.1] * 10, range(20, 40)).test.undefined


def verdict(score: float) -> Joined:
    return Joined(score, float(score == 1), tuple(float(score == each) for each in (1, 2, 3, 4)))


def test_a_model_that_fails_on_women_is_found_and_a_small_group_is_suppressed():
    notes = {True: "A 50-year-old woman was seen.", False: "A 50-year-old man was seen.", None: "The patient was seen."}
    kinds = [True] * 20 + [False] * 20 + [None] * 3
    questions = {f"q{n}": question(n, note_id=f"n{n}", note=notes[kind]) for n, kind in enumerate(kinds)}
    random = np.random.default_rng(1)
    by_model = {
        "fair": {name: verdict(float(random.integers(3, 5))) for name in questions},
        "biased": {f"q{n}": verdict(float(random.integers(*((1, 3) if k else (3, 5))))) for n, k in enumerate(kinds)},
    }
    found = subgroups_of(by_model, questions, {"biased": ("biased", "fair")})
    groups = found["sex"]["groups"]
    assert list(groups) == ["female", "male", "unknown"]
    assert groups["unknown"]["suppressed"] == "fewer than 5 clusters"
    assert groups["unknown"]["models"] == {}
    row = groups["female"]["interactions"]["biased"]
    assert row["difference"]["value"] < -1.5
    assert row["test"]["p"] < row["p_holm"] < 0.001
    assert all(way["exploratory"] for way in found.values())


def test_recognised_models_are_a_warning_and_guesses_at_chance_are_none():
    questions = {f"q{n}": question(n, note_id=f"n{n}") for n in range(20)}
    random = np.random.default_rng(2)
    models = [str(random.choice(["a", "b", "c"])) for _ in range(40)]

    def guesses(hit):
        return [
            {"rater": "rs"[n % 2], "question_id": f"q{n % 20}", "model": m, "guess": m if hit(n) else "a", "choices": 3}
            for n, m in enumerate(models)
        ]

    knowing = blinding_of(guesses(lambda n: n % 5 > 0), questions)
    assert knowing["warning"].startswith("Blinding failed: raters named the model of ")
    assert knowing["right"]["clusters"] == 20
    assert knowing["chance"] == pytest.approx(1 / 3)
    assert sum(row["count"] for row in knowing["guesses"]) == 40
    assert blinding_of(guesses(lambda n: False), questions)["warning"] == ""
    assert "Too few guesses" in blinding_of(guesses(lambda n: True)[:3], questions)["warning"]


def test_the_rater_model_of_the_page_leaves_repeats_out():
    questions = {f"q{n}": question(n, note_id=f"n{n}") for n in range(8)}
    random = np.random.default_rng(3)
    first = [Rating(r, f"q{n}", m, int(random.integers(1, 5))) for r in "rst" for n in range(8) for m in "ab"]
    again = [Rating(r, f"q{n}", "a", 1, repeat=1) for r in "rst" for n in range(8)]
    found = figures_of(Results(questions, [], first + again), "a", 0.3)["rater_model"]
    assert (found["n"], found["baseline"], set(found["effects"])) == (48, "a", {"b"})
