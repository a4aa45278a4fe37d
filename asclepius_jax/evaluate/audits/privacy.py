"""Measure memorisation of training notes: canaries, a membership attack, and repeated runs of words.

    asclepius evaluate privacy --model models/mine --trained-on data/split/train --held-out data/split/held_out \\
        --canaries data/notes_with_canaries --questions evaluation/questions --answers evaluation/answers \\
        --out privacy.json

Exposure (Carlini et al., 2019, The Secret Sharer) is log2 of the number of secrets tried minus log2 of the rank of the
true secret among them by likelihood. A secret that is not memorised has 1.4 on average; a memorised one ranks first.
Membership is the area under the ROC curve with which the loss separates training notes from other notes: 0.5 is chance.
"""

import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from asclepius_jax.evaluate.answers.answers import read_answers
from asclepius_jax.evaluate.audits.canaries import DIGITS, FORMAT, Canary, read_canaries
from asclepius_jax.evaluate.audits.perplexity import Scorer
from asclepius_jax.evaluate.audits.realism import texts_of as texts_of_file
from asclepius_jax.evaluate.records import NO_ANSWER, Question, read_records
from asclepius_jax.evaluate.report.tables import estimate, keep
from asclepius_jax.evaluate.statistics.estimates import Estimate, mean, rate
from data_prep.clinical_text.near_duplicates import RUN_WORDS, runs, words_of
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.records import Example, Note, read_parquet, seeded_fraction

RESAMPLES = 1000
FEWEST = 10  # minimum number of notes per side; below it, the attack is meaningless


@dataclass(frozen=True)
class PrivacyConfig:
    model: Path
    """Hugging Face folder of the model."""

    trained_on: Path
    """Folder of notes or instructions on which the model was trained."""

    out: Path
    """JSON file to write."""

    held_out: Path | None = None
    """Folder of notes or instructions of the same kind on which the model was not trained, for the membership attack.
    """

    canaries: Path | None = None
    """Folder of notes from `asclepius evaluate canaries`, usually --trained-on itself; needed to measure canaries."""

    questions: Path | None = None
    """Folder of the questions of --answers; required with them."""

    answers: tuple[Path, ...] = ()
    """Folders of answers to search for runs of words from training notes of other patients."""

    reports: Path | None = None
    """File of the case reports from which the notes were made. With it, --answers are also searched for runs of words
    from other patients' reports."""

    sample: int = 200
    """Number of trained and of held-out notes in the membership attack; 0 takes all."""

    tried: int = 512
    """Number of random secrets among which the secret of each canary is ranked."""

    window: int = 1024
    """Context window in tokens."""

    seed: int = 0
    """Random seed for drawing notes, for the secrets tried and for intervals."""


def run(config: PrivacyConfig) -> dict[str, Any]:
    """Write and return the table of figures. Raises UserError for invalid options or input."""
    if bool(config.answers) != bool(config.questions):
        raise UserError("--answers and --questions must be given together")
    if config.tried < 2:
        raise UserError(f"--tried {config.tried}: must be at least 2")
    figures: dict[str, Any] = {}
    scorer = Scorer(config.model, config.window, config.window // 2) if config.canaries or config.held_out else None
    if config.canaries and scorer:
        figures["canaries"] = exposures(read_canaries(config.canaries), scorer, config)
    if config.held_out and scorer:
        figures["membership"] = membership(config, scorer)
    if config.questions:
        figures["repeated"] = repeated(config)
    if not figures:
        raise UserError("nothing to measure: give --held-out, --canaries, or --answers with --questions")
    table = as_table(figures, config)
    keep(table, config.out)
    return table


# ---------------------------------------------------------------- canaries


def exposures(canaries: Sequence[Canary], scorer: Scorer, config: PrivacyConfig) -> dict[str, Any]:
    """Mean exposure of the canaries and number of canaries that rank first, by number of repeats."""
    random = Random(config.seed)
    others = [str(random.randrange(10 ** (DIGITS - 1), 10**DIGITS)) for _ in range(config.tried - 1)]
    nats = sorted(scorer.score(FORMAT.format(secret)).nats for secret in others)
    by_repeats: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for canary in canaries:
        rank = 1 + int(np.searchsorted(nats, scorer.score(FORMAT.format(canary.secret)).nats))
        by_repeats[canary.repeats].append((math.log2(config.tried) - math.log2(rank), rank))
    return {
        str(repeats): {
            "canaries": len(found),
            "exposure": asdict(mean([exposure for exposure, _ in found], list(range(len(found))))),
            "most": math.log2(config.tried),
            "first": sum(rank == 1 for _, rank in found),
        }
        for repeats, found in sorted(by_repeats.items())
    }


# ---------------------------------------------------------------- membership


@dataclass(frozen=True)
class PatientText:
    patient: str  # the report or person that the text is about; its own id if that is unknown
    text: str


def texts_of(folder: Path) -> dict[str, PatientText]:
    """Distinct notes of a folder, by note id."""
    manifest = read_manifest(folder, "notes", "instructions")
    record_type: type[Note] | type[Example] = Note if manifest["kind"] == "notes" else Example
    found = {}
    for path in verified_files(folder, manifest):
        for record in read_parquet(path, record_type):
            name, text = (record.id, record.text) if isinstance(record, Note) else (record.note_id, record.note)
            found[name] = PatientText(record.report_id or name, text)
    return found


def drawn(texts: dict[str, PatientText], count: int, seed: int) -> list[PatientText]:
    names = sorted(texts, key=lambda name: seeded_fraction(seed, "privacy", name))
    return [texts[name] for name in names[: count or None]]


def membership(config: PrivacyConfig, scorer: Scorer) -> dict[str, Any]:
    """Two attacks: loss per token, and loss divided by the zlib-compressed size of the text (Carlini et al., 2021)."""
    assert config.held_out
    # Canaries would give their notes away, whether these were trained on or not.
    marked = {name for canary in (read_canaries(config.canaries) if config.canaries else ()) for name in canary.notes}
    trained, held_out = (texts_of(folder) for folder in (config.trained_on, config.held_out))
    # An attack cannot separate what is on both sides: a text, or a patient with notes on either side.
    texts = {each.text for each in trained.values()}
    patients = {each.patient for each in trained.values()}
    both = {name for name, each in held_out.items() if each.text in texts or each.patient in patients}
    shared = {held_out[name].text for name in both}
    inside = drawn({n: t for n, t in trained.items() if n not in marked and t.text not in shared}, *chosen(config))
    outside = drawn({n: t for n, t in held_out.items() if n not in marked | both}, *chosen(config))
    if min(len(inside), len(outside)) < FEWEST:
        without = f", without the {len(both)} whose patient or text is in both" if both else ""
        raise UserError(
            f"{len(inside)} notes in --trained-on and {len(outside)} in --held-out{without}: the attack needs at least "
            f"{FEWEST} of each"
        )
    sides = [[(scorer.score(each.text), each.text) for each in side] for side in (inside, outside)]
    patients_of = [[each.patient for each in side] for side in (inside, outside)]
    attacks = {
        "loss": [np.array([s.nats / max(1, s.tokens) for s, _ in side]) for side in sides],
        "loss over zlib": [
            np.array([s.nats / len(zlib.compress(text.encode())) for s, text in side]) for side in sides
        ],
    }
    figures: dict[str, Any] = {"inside": len(inside), "outside": len(outside), "in_both": len(both)}
    for name, losses in attacks.items():
        figures[name] = {
            "auc": asdict(auc(losses, patients_of, config.seed)),
            "at_1_percent": caught_at(losses[0], losses[1]),
        }
    return figures


def chosen(config: PrivacyConfig) -> tuple[int, int]:
    return config.sample, config.seed


def area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of pairs in which the training note has the lower loss (Mann and Whitney); ties count half."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside)))


def auc(losses: Sequence[np.ndarray], patients: Sequence[Sequence[str]], seed: int) -> Estimate:
    """The area for (inside, outside), with a bootstrap interval that resamples the patients of both sides."""
    random = np.random.default_rng(seed)
    groups = [by_patient(*side) for side in zip(losses, patients, strict=True)]

    def resampled(side: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([side[index] for index in random.integers(0, len(side), len(side))])

    drawn_areas = [area(*(resampled(side) for side in groups)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn_areas, [2.5, 97.5])
    clusters = sum(len(side) for side in groups)
    return Estimate(area(*losses), float(low), float(high), sum(map(len, losses)), clusters, 0)


def by_patient(losses: np.ndarray, patients: Sequence[str]) -> list[np.ndarray]:
    found: dict[str, list[float]] = defaultdict(list)
    for loss, patient in zip(losses, patients, strict=True):
        found[patient].append(loss)
    return [np.array(values) for values in found.values()]


def caught_at(inside: np.ndarray, outside: np.ndarray, false: float = 0.01) -> float:
    """Share of training notes found at the loss threshold below which lies a share `false` of the other notes."""
    return float((inside < np.quantile(outside, false)).mean())


# ---------------------------------------------------------------- repeated runs of words


def repeated(config: PrivacyConfig) -> dict[str, Any]:
    """Share of each model's answers that contain a run of words from another patient's training note or report."""
    assert config.questions
    questions = {q.id: q for q in read_records(config.questions, "questions", Question)}
    trained_on = texts_of(config.trained_on)
    holders: dict[int, set[str]] = defaultdict(set)  # patients whose texts contain a run of words
    for each in (*trained_on.values(), *reports_of(config)):
        for run_hash in hashes(each.text):
            holders[run_hash].add(each.patient)

    def patient_of(question: Question) -> str:
        same_note = trained_on.get(question.note_id)
        return question.report_id or (same_note.patient if same_note else question.note_id)

    figures = {}
    for model, by_question in read_answers(config.answers, config.questions).items():
        given = [(by_question[name], question) for name, question in questions.items()]
        found = [
            None if answer.finish_reason in NO_ANSWER else foreign(answer.text, question, patient_of(question), holders)
            for answer, question in given
        ]
        first = next((run for run in found if run), "")
        answered = rate([None if run is None else bool(run) for run in found])
        figures[model] = {"answers": asdict(answered), "example": first}
    return figures


def reports_of(config: PrivacyConfig) -> Iterator[PatientText]:
    for name, _, text in texts_of_file(config.reports) if config.reports else ():
        yield PatientText(name, text)


def hashes(text: str) -> Iterable[int]:
    words = words_of(text)
    return {hash(run) for run in runs(words, RUN_WORDS)} if len(words) >= RUN_WORDS else ()


def foreign(answer: str, question: Question, patient: str, holders: dict[int, set[str]]) -> str:
    """First run of words in an answer that occurs in another patient's text but not in its own note or instruction."""
    words = words_of(answer)
    own = set(hashes(question.note)) | set(hashes(question.instruction))
    candidates = runs(words, RUN_WORDS) if len(words) >= RUN_WORDS else iter(())

    def others(run: str) -> bool:
        return bool(holders.get(hash(run), set()) - {patient})

    return next((run for run in candidates if hash(run) not in own and others(run)), "")


# ---------------------------------------------------------------- the table


def as_table(figures: dict[str, Any], config: PrivacyConfig) -> dict[str, Any]:
    rows = [
        [
            f"exposure of canaries in {repeats} notes",
            f"{estimate(group['exposure'])} of {group['most']:.0f} bits; "
            f"{group['first']} of {group['canaries']} rank first",
        ]
        for repeats, group in figures.get("canaries", {}).items()
    ]
    for name in ("loss", "loss over zlib"):
        if attack := figures.get("membership", {}).get(name):
            rows.append([f"membership by {name}, AUC", estimate(attack["auc"])])
            rows.append([f"membership by {name}, found at 1 % false alarms", f"{attack['at_1_percent']:.1%}"])
    for model, found in figures.get("repeated", {}).items():
        label = f"answers of {model} with {RUN_WORDS} consecutive words of another patient's text"
        rows.append([label, f"{found['answers']['count']} of {found['answers']['n']}"])
    return {
        "title": "Memorisation of training notes",
        "about": f"{config.model.name}. Without memorisation, a secret has an exposure of 1.4 bits on average and "
        "membership an AUC of 0.5. Memorisation that these attacks do not find may still exist.",
        "columns": ["measure", "figure"],
        "table": rows,
        "figures": figures,
    }
