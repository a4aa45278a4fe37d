"""Scores of known answers: equal to nervaluate and rouge_score, right for a perfect model, honest about the rest."""

import csv
import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from nervaluate import Evaluator

from asclepius_jax.cli import PARTS
from asclepius_jax.evaluate.known_answers import scorers
from asclepius_jax.evaluate.known_answers.score import ScoreConfig, run, score, value_text
from asclepius_jax.evaluate.known_answers.scorers import SCORERS, Span, matches
from asclepius_jax.evaluate.questions import registry
from asclepius_jax.evaluate.questions.datasets import annotated_spans as spans
from asclepius_jax.evaluate.questions.datasets import brat
from asclepius_jax.evaluate.questions.datasets.brat import Entity
from asclepius_jax.evaluate.questions.datasets.references import dump, load
from asclepius_jax.evaluate.records import Answer, Question, read_records
from asclepius_jax.evaluate.report.tables import read_measured
from asclepius_jax.evaluate.statistics.estimates import Estimate
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from tests.helpers.places import shared

TYPES = ("symptom", "drug", "test")
CONFIG = ScoreConfig(Path(), Path())


def made_spans(random: np.random.Generator) -> list[Span]:
    """Some spans of one document, apart from one another."""
    starts = np.cumsum(random.integers(6, 14, random.integers(1, 12)))
    return [Span(str(random.choice(TYPES)), int(s), int(s + random.integers(1, 6))) for s in starts]


def moved(random: np.random.Generator, gold: list[Span]) -> list[Span]:
    """A model's version: some right, some shifted, some of another type, some left out, some invented."""
    kept = []
    for kind, start, end in gold:
        chance = random.random()
        shift = int(random.integers(-2, 3)) if chance < 0.5 else 0
        named = str(random.choice(TYPES)) if chance > 0.8 else kind
        if not 0.5 < chance < 0.6:
            kept.append(Span(named, start + shift, end + shift))
    # A prediction begins and ends where no other one lies, as those of nervaluate's documents do.
    return [*kept, Span("drug", 500, 505)] if random.random() < 0.5 else kept or [Span("drug", 500, 505)]


def for_nervaluate(documents: list[list[Span]]) -> list[list[dict]]:
    # Its ends are inclusive, ours are not.
    return [[{"label": kind, "start": start, "end": end - 1} for kind, start, end in spans] for spans in documents]


def test_entity_scores_equal_nervaluate():
    random = np.random.default_rng(0)
    gold = [made_spans(random) for _ in range(400)]
    predicted = [sorted(set(moved(random, document)), key=lambda span: span.start) for document in gold]
    theirs = Evaluator(for_nervaluate(gold), for_nervaluate(predicted), list(TYPES)).evaluate()["overall"]["strict"]
    strict = sum(matches(ours, known) for ours, known in zip(predicted, gold, strict=True))
    assert 500 < strict < 2_000
    assert (strict, sum(map(len, predicted)), sum(map(len, gold))) == (theirs.correct, theirs.actual, theirs.possible)
    f1 = 2 * strict / (theirs.actual + theirs.possible)
    assert f1 == pytest.approx(theirs.f1, abs=1e-6)
    # Relaxed: overlap within a type, which is nervaluate's "ent_type" of documents that hold one type.
    for kind in TYPES:
        known = [[span for span in document if span.type == kind] for document in gold]
        ours = [[span for span in document if span.type == kind] for document in predicted]
        both = [(o, k) for o, k in zip(ours, known, strict=True) if o or k]
        left, right = [k for _, k in both], [o for o, _ in both]
        if not left[0]:  # its loader looks at the first document alone
            left, right = [*left[1:], left[0]], [*right[1:], right[0]]
        result = Evaluator(for_nervaluate(left), for_nervaluate(right), [kind], "dict").evaluate()
        relaxed = sum(matches(o, k, relaxed=True) for o, k in zip(right, left, strict=True))
        assert relaxed == result["overall"]["ent_type"].correct
        assert relaxed > sum(matches(o, k) for o, k in zip(right, left, strict=True))


def test_an_overlap_with_another_type_is_no_match():
    gold = [Span("drug", 10, 20), Span("test", 30, 35)]
    assert matches([Span("test", 10, 20), Span("drug", 32, 40)], gold, relaxed=True) == 0
    assert matches([Span("drug", 5, 11), Span("drug", 12, 30)], gold, relaxed=True) == 1
    assert matches([Span("drug", 20, 25), Span("test", -1, -1)], gold, relaxed=True) == 0


def test_pairs_by_hand():
    reference = json.loads(dump("pairs", gold=[["40 mg", "aspirin"], ["left lung", "mass"], ["daily", "heparin"]]))
    answer = "40 mg -> aspirin\nlung -> the mass\ndaily -> insulin\ndaily -> insulin"
    sums = SCORERS["pairs"].sums(SCORERS["pairs"].read(answer, reference, ""), reference)
    assert sums["strict precision"] == sums["strict recall"] == (1, 3)
    assert sums["strict F1"] == (2, 6)
    assert sums["relaxed recall"] == (2, 3)


def test_rouge_is_that_of_the_library():
    from rouge_score.rouge_scorer import RougeScorer

    text, reference = "Chest pain for two days.\nNo fever.", "Two days of chest pains.\nNo cough, no fever."
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True).score(reference, text)
    sums = SCORERS["text"].sums(text, {"gold": reference})
    for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL"), ("ROUGE-Lsum", "rougeLsum")):
        assert sums[name] == (pytest.approx(theirs[key].fmeasure, abs=1e-6), 1.0)


def test_error_detection_by_hand():
    def sums(sentence: int | None, found: tuple | None) -> dict:
        reference = {"sentence": sentence, "corrected": "He was given aspirin."}
        return scorers.error_sums(None if found is None else scorers.Found(*found), reference)

    right = sums(2, (2, "He was given aspirin."))
    assert right["flag accuracy"] == right["sensitivity"] == right["sentence found"] == (1, 1)
    assert right["correction ROUGE-1"] == (pytest.approx(1), 1)
    assert right["specificity"] == (0, 0)
    elsewhere = sums(2, (1, ""))
    assert (elsewhere["sensitivity"], elsewhere["sentence found"]) == ((1, 1), (0, 1))
    assert sums(None, (None, ""))["specificity"] == (1, 1)
    assert sums(None, (1, ""))["specificity"] == sums(None, None)["specificity"] == (0, 1)


# ---------------------------------------------------------------- brat


TEXT = "Fever since May. CT showed a mass. The lesion (CT) was removed after the fever had gone."
ANNOTATION = """\
T1\tSign_symptom 0 5\tFever
T2\tDiagnostic_procedure 17 19\tCT
E1\tDiagnostic_procedure:T2 
T3\tSign_symptom 29 33\tmass
T4\tCoreference 39 45\tlesion
T5\tTherapeutic_procedure 55 62\tremoved
T6\tBiological_structure 0 5;73 78\tFever fever
R1\tIDENTICAL Arg1:T4 Arg2:T3\t
R2\tBEFORE Arg1:E1 Arg2:T5
*\tOVERLAP T3 T4
A1\tNegation T1
#1\tAnnotatorNotes T1\ta remark
"""


def brat_folder(folder: Path, annotation: str = ANNOTATION) -> Path:
    folder.mkdir()
    (folder / "d1.txt").write_text(TEXT)
    (folder / "d1.ann").write_text(annotation)
    return folder


def test_brat_files_are_read(tmp_path: Path):
    (document,) = brat.documents(brat_folder(tmp_path / "b"))
    assert [entity.type for entity in document.entities][:2] == ["Sign_symptom", "Diagnostic_procedure"]
    assert (document.entities[5].start, document.entities[5].end) == (0, 78)
    assert [(r.type, r.first.text, r.second.text) for r in document.relations] == [
        ("IDENTICAL", "lesion", "mass"),
        ("BEFORE", "CT", "removed"),
        ("OVERLAP", "mass", "lesion"),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("T9\tDrug 10 5000\tx", "d1.ann:13: not a line of brat"),
        ("T9\tDrug\tx", "d1.ann:13"),
        ("R9\tCAUSE Arg1:T1", "d1.ann:13"),
        ("R9\tCAUSE Arg1:T1 Arg2:T77", "T77, which is not annotated"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, line: str, told: str):
    with pytest.raises(UserError, match=told):
        list(brat.documents(brat_folder(tmp_path / "b", ANNOTATION + line + "\n")))


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path):
    (brat_folder(tmp_path / "b") / "d1.txt").write_bytes(TEXT.encode() + b"\xe9")
    with pytest.raises(UserError, match=r"d1.txt: not UTF-8 .* at byte 88"):
        list(brat.documents(tmp_path / "b"))


def test_chains_join_pairs():
    a, b, c, d, e = (Entity(f"T{i}", "x", i, i + 1, name) for i, name in enumerate("abcde"))
    assert spans.chains([(c, b), (e, d), (b, a), (a, c)]) == [[a, b, c], [d, e]]


def test_a_pair_that_is_turned_around_keeps_its_order():
    shown = set()
    for seed in range(20):
        base = Question("", "n", "", "one two three", "", "")
        question = spans.order_question(base, [("one", "before", "two"), ("three", "after", "two")], seed)
        assert question is not None
        pairs = [line.split(". ", 1)[1] for line in question.instruction.splitlines()[1:]]
        shown |= set(zip(pairs, load(question.reference)["gold"], strict=True))
    assert shown == {
        ('"one" and "two"', "before"),
        ('"two" and "one"', "after"),
        ('"three" and "two"', "after"),
        ('"two" and "three"', "before"),
    }


def test_pairs_that_are_annotated_both_ways_are_not_asked():
    base = Question("", "n", "", "one two three four four", "")
    pairs = [("one", "before", "two"), ("two", "after", "one"), ("two", "before", "three"), ("two", "after", "three")]
    asked = spans.order_question(base, [*pairs, ("one", "overlap", "four")], 0)
    assert asked is not None
    assert len(load(asked.reference)["gold"]) == 1  # and "four" stands in the note twice
    assert '"one" and "two"' in asked.instruction or '"two" and "one"' in asked.instruction


# ---------------------------------------------------------------- the commands


def perfect(question: Question) -> str:
    """The answer of a model that knows."""
    reference = load(question.reference)
    match reference["kind"]:
        case "entities":
            return "\n".join(f"- {kind}: {words}" for kind, _, _, words in reference["gold"])
        case "pairs":
            return json.dumps(reference["gold"])
        case "labels":
            return "\n".join(f"{number}. {label}" for number, label in enumerate(reference["gold"], 1))
        case "form":
            return reference["gold"][0]
        case "error":
            wrong = reference["sentence"] is not None
            return f"{reference['sentence']}: {reference['corrected']}" if wrong else "none"
    return reference["gold"]


def answered(questions: list[Question], model: str, write) -> list[Answer]:
    return [Answer(question.id, model, write(question), "stop") for question in questions]


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("maccrobat", "data/maccrobat", 700),
        ("medec", "data/medec_ms_validation.csv", 574),
        ("aci-bench", "data/aci_bench", 20),
        ("mts-dialog", "data/mts_dialog", 100),
    ],
)
def test_a_model_that_knows_is_perfect_on_the_real_sets(tmp_path: Path, name: str, source: str, count: int):
    registry.run(registry.SetConfig(name, shared(source), tmp_path / "q"))
    questions = list(read_records(tmp_path / "q", "questions", Question))
    assert len(questions) >= count
    for question in questions:
        reference = load(question.reference)
        if reference["kind"] == "entities":
            assert all(question.note[start:end] for _, start, end, _ in reference["gold"])
    answers = [*answered(questions, "knows", perfect), *answered(questions, "mute", lambda question: "")]
    answers += answered(questions, "repeats", lambda question: question.reference)  # the ceiling, by another way
    for part in score(questions, answers, CONFIG):
        if part.model == "mute":
            assert part.unparsable.value == 1
            assert all(figure.estimate.value is None for figure in part.figures.values())
            assert all(figure.with_unparsable_as_wrong in (0, None) for figure in part.figures.values())
            continue
        assert part.unparsable.value == 0
        for figure, result in part.figures.items():
            if result.estimate.value is not None:
                expected = 0 if figure == "not in the note" else 1
                assert result.estimate.value == pytest.approx(expected, abs=0.01), (part.task, figure)


def sense_table(path: Path, rows: list[list[str]], header: tuple[str, ...] = ("abbreviation", "sense", "text")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


SENSES = [
    ["MS", "multiple sclerosis|disseminated sclerosis", "MS since 2004, on interferon."],
    ["MS", "mitral stenosis", "Murmur of MS at the apex."],
    ["RA", "rheumatoid arthritis", "RA, on methotrexate."],
]


def test_sense_table_to_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = sense_table(tmp_path / "senses.csv", SENSES)
    registry.run(registry.SetConfig("abbreviations", source, tmp_path / "q"))
    questions = list(read_records(tmp_path / "q", "questions", Question))
    assert load(questions[0].reference)["others"] == ["mitral stenosis"]
    answers = answered(questions, "knows", perfect) + answered(questions, "guesses", lambda q: "multiple sclerosis")
    answers[0] = dataclasses.replace(answers[0], text="...")  # nothing to read
    answers[1] = dataclasses.replace(answers[1], text="9,000 prompt tokens leave no room", finish_reason="too_long")
    answers[4] = dataclasses.replace(answers[4], text="server error 500", finish_reason="error")
    for model in ("knows", "guesses"):  # as `asclepius evaluate answers` leaves them
        with writing_folder(tmp_path / "a" / model, "answers", {}) as writer:
            writer.add_shard([answer for answer in answers[:5] if answer.model == model], Answer)
    run(ScoreConfig(tmp_path / "q", tmp_path / "a", tmp_path / "f.json"))
    shown = capsys.readouterr().out
    assert "unparsable" in shown
    assert value_text(Estimate(1.0, None, None, 1, 1, 0, "one note")) == "1.000 [undefined]"
    assert "undefined" in shown  # rich would take it for a style, and show nothing
    of_report = read_measured(tmp_path / "f.json")  # what the report's --measured takes
    assert all(len(row) == len(of_report["columns"]) for row in of_report["table"])
    assert ["knows", "Abbreviation Expansion", "accuracy"] in [row[:3] for row in of_report["table"]]
    guesses, knows = json.loads((tmp_path / "f.json").read_text())["slices"]
    assert (knows["unparsable"]["count"], knows["unparsable"]["n"], knows["errors"]) == (1, 2, 1)
    accuracy = knows["figures"]["accuracy"]
    assert (accuracy["estimate"]["value"], accuracy["estimate"]["missing"]) == (1.0, 1)
    assert accuracy["with_unparsable_as_wrong"] == pytest.approx(1 / 2)
    assert (guesses["unanswered"], guesses["errors"]) == (1, 1)
    assert guesses["figures"]["accuracy"]["estimate"]["value"] == 1.0
    assert "1 cluster only" in guesses["figures"]["accuracy"]["estimate"]["undefined"]


def test_slices():
    questions = [
        Question("a", "n1", "Note Writing", "x", "y", "fever", note_type="plan"),
        Question("b", "n2", "Note Writing", "x", "y", "cough", note_type="exam"),
        Question("c", "n3", "Note Writing", "x", "y", "", note_type="exam"),
    ]
    answers = [Answer("a", "m", "fever", "stop"), Answer("b", "m", "pain", "length"), Answer("c", "m", "x", "stop")]
    slices = score(questions, answers, dataclasses.replace(CONFIG, by="note_type"))
    found = {part.slice: (part.figures["ROUGE-1"].estimate.value, part.cut, part.questions) for part in slices}
    assert found == {"": (0.5, 1, 2), "plan": (1, 0, 1), "exam": (0, 1, 1)}


def test_answers_that_do_not_belong_are_refused():
    questions = [Question("a", "n", "t", "x", "y", "z")]
    for asked, answers, told in (
        (questions, [Answer("b", "m", "", "stop")], "1 answers are to questions not in --questions, such as b"),
        (questions, [Answer("a", "m", "", "stop")] * 2, "m answers question a twice"),
        (questions * 2, [], "--questions contains a twice"),
        (questions, [], "no answers"),
        ([dataclasses.replace(questions[0], reference="")], [Answer("a", "m", "", "stop")], "use a judge"),
    ):
        with pytest.raises(UserError, match=told):
            score(asked, answers, CONFIG)


def test_bad_sets_are_refused_in_one_line(tmp_path: Path):
    def refused(name: str, source: Path, told: str) -> None:
        with pytest.raises(UserError, match=told) as caught:
            registry.run(registry.SetConfig(name, source, tmp_path / "out"))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    good = sense_table(tmp_path / "good.csv", SENSES)
    refused("medecs", good, "did you mean medec?")
    refused("medec", good, "lacks the columns Text ID, Sentences, .*; it has abbreviation, sense, text")
    refused("medec", tmp_path / "none.csv", "no such file")
    refused("maccrobat", tmp_path, "contains no .ann file")
    refused("abbreviations", sense_table(tmp_path / "e.csv", []), "yields no questions")
    refused(
        "abbreviations",
        sense_table(tmp_path / "f.csv", [["MS", "", "MS"]]),
        "record 1 is missing its abbreviation or sense",
    )
    refused("abbreviations", sense_table(tmp_path / "g.csv", [["MS", "x", "RA"]]), "does not contain .* 'MS'")
    refused("aci-bench", tmp_path, "neither a file nor a folder with valid.csv")
    (tmp_path / "i.csv").write_bytes("abbreviation,sense,text\nMS,x,MS in café\n".encode("latin-1"))
    refused("abbreviations", tmp_path / "i.csv", "i.csv:2: not UTF-8")
    refused("abbreviations", sense_table(tmp_path / "h.csv", [["MS", "x"]]), "h.csv:2: 2 fields under 3 columns")


def test_a_limit_keeps_whole_notes_and_repeats(tmp_path: Path):
    source = sense_table(tmp_path / "s.csv", SENSES * 10)
    kept = []
    for name in ("one", "two"):
        registry.run(registry.SetConfig("abbreviations", source, tmp_path / name, limit=4, seed=3))
        kept.append([question.id for question in read_records(tmp_path / name, "questions", Question)])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 4


@pytest.mark.parametrize("part", ["benchmark", "score"])
def test_the_command_line_finds_its_parts(part: str):
    module = importlib.import_module(PARTS[part].module)
    assert dataclasses.is_dataclass(getattr(module, PARTS[part].config))
    assert callable(getattr(module, PARTS[part].function))


def test_the_table_of_sets_names_functions_that_exist():
    for reader in registry.SETS.values():
        assert callable(getattr(importlib.import_module(reader.module), reader.function))
