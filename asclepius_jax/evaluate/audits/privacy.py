"""What a model has kept of its training notes: canaries, a membership attack, and runs of words that it repeats.

    asclepius evaluate privacy --model models/mine --trained-on data/split/train --held-out data/split/held_out \\
        --canaries data/notes_with_canaries --questions evaluation/questions --answers evaluation/answers \\
        --out privacy.json

Exposure (Carlini et al., 2019, The Secret Sharer): log2 of the number of secrets tried, less log2 of the rank of the
true one among them by likelihood. One that is not remembered has 1.4 on average, one that is ranks first. Membership:
how well the loss tells notes that were trained on from those that were not, as the area under the ROC curve: 0.5 is
not at all.
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
FEWEST = 10  # notes of each side, below which an attack says nothing


@dataclass(frozen=True)
class PrivacyConfig:
    model: Path
    """The model, a Hugging Face folder."""

    trained_on: Path
    """The folder of notes or instructions that it was trained on."""

    out: Path
    """The JSON file to write."""

    held_out: Path | None = None
    """A folder of notes or instructions of the same kind that it never saw."""

    canaries: Path | None = None
    """The folder of notes that asclepius evaluate canaries wrote and the model was trained on."""

    questions: Path | None = None
    """With --answers: their questions."""

    answers: tuple[Path, ...] = ()
    """Folders of answers: runs of words in them that stand in training notes other than their own."""

    reports: Path | None = None
    """With --answers: the file of case reports that the notes were made from; runs of words of other patients' reports
    count too."""

    sample: int = 200
    """Notes of each side in the membership attack; 0 takes all."""

    tried: int = 512
    """Secrets that a canary is ranked among."""

    window: int = 1024
    """Tokens that the model sees at once."""

    seed: int = 0


def run(config: PrivacyConfig) -> dict[str, Any]:
    """Write the figures; they are returned too. UserError for what the caller can mend."""
    if bool(config.answers) != bool(config.questions):
        raise UserError("--answers and --questions belong together")
    if config.tried < 2:
        raise UserError(f"--tried {config.tried}: it must be at least 2")
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
    made = as_table(figures, config)
    keep(made, config.out)
    return made


# ---------------------------------------------------------------- canaries


def exposures(canaries: Sequence[Canary], scorer: Scorer, config: PrivacyConfig) -> dict[str, Any]:
    """Of the canaries of each number of repeats: the mean exposure and how many rank first."""
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


def texts_of(folder: Path) -> dict[str, str]:
    """The notes of a folder, each once, by id."""
    manifest = read_manifest(folder, "notes", "instructions")
    record_type = Note if manifest["kind"] == "notes" else Example
    found = {}
    for path in verified_files(folder, manifest):
        for record in read_parquet(path, record_type):
            found.update({record.id: record.text} if isinstance(record, Note) else {record.note_id: record.note})
    return found


def drawn(texts: dict[str, str], count: int, seed: int) -> list[str]:
    names = sorted(texts, key=lambda name: seeded_fraction(seed, "privacy", name))
    return [texts[name] for name in names[: count or None]]


def membership(config: PrivacyConfig, scorer: Scorer) -> dict[str, Any]:
    """Two attacks: the loss a token, and the loss over what zlib needs for the text (Carlini et al., 2021)."""
    assert config.held_out
    # A note with a canary differs from the others by it, whether it was trained on or not.
    marked = {name for canary in (read_canaries(config.canaries) if config.canaries else ()) for name in canary.notes}
    folders = [texts_of(folder) for folder in (config.trained_on, config.held_out)]
    both = set(folders[0].values()) & set(folders[1].values())  # told apart by nothing
    inside, outside = (
        drawn(
            {n: text for n, text in texts.items() if n not in marked and text not in both}, config.sample, config.seed
        )
        for texts in folders
    )
    if min(len(inside), len(outside)) < FEWEST:
        shared = f", {len(both)} that stand in both left out" if both else ""
        raise UserError(
            f"{len(inside)} notes inside and {len(outside)} outside{shared}: the attack needs {FEWEST} of each"
        )
    scored = [[(scorer.score(text), text) for text in texts] for texts in (inside, outside)]
    attacks = {
        "loss": [np.array([s.nats / max(1, s.tokens) for s, _ in side]) for side in scored],
        "loss over zlib": [
            np.array([s.nats / len(zlib.compress(text.encode())) for s, text in side]) for side in scored
        ],
    }
    figures: dict[str, Any] = {"inside": len(inside), "outside": len(outside), "in_both": len(both)}
    for name, (ours, theirs) in attacks.items():
        figures[name] = {"auc": asdict(auc(ours, theirs, config.seed)), "at_1_percent": caught_at(ours, theirs)}
    return figures


def area(inside: np.ndarray, outside: np.ndarray) -> float:
    """The share of pairs in which the trained-on one has the lower loss (Mann and Whitney); ties count half."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside)))


def auc(inside: np.ndarray, outside: np.ndarray, seed: int) -> Estimate:
    random = np.random.default_rng(seed)
    drawn_areas = [
        area(random.choice(inside, len(inside)), random.choice(outside, len(outside))) for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn_areas, [2.5, 97.5])
    count = len(inside) + len(outside)
    return Estimate(area(inside, outside), float(low), float(high), count, count, 0)


def caught_at(inside: np.ndarray, outside: np.ndarray, false: float = 0.01) -> float:
    """The share of trained-on notes found where at most this share of the others is taken for such."""
    return float((inside < np.quantile(outside, false)).mean())


# ---------------------------------------------------------------- repeated runs of words


def repeated(config: PrivacyConfig) -> dict[str, Any]:
    """For each model: answers that hold a run of words of a training note or a report that they are not about."""
    assert config.questions
    questions = {q.id: q for q in read_records(config.questions, "questions", Question)}
    holders: dict[int, set[str]] = defaultdict(set)
    for name, text in (*texts_of(config.trained_on).items(), *reports_of(config)):
        for run_hash in hashes(text):
            holders[run_hash].add(name)
    figures = {}
    for model, mine in read_answers(config.answers, config.questions).items():
        found = [
            None if mine[name].finish_reason in NO_ANSWER else foreign(mine[name].text, questions[name], holders)
            for name in questions
        ]
        first = next((run for run in found if run), "")
        answered = rate([None if run is None else bool(run) for run in found])
        figures[model] = {"answers": asdict(answered), "example": first}
    return figures


def reports_of(config: PrivacyConfig) -> Iterator[tuple[str, str]]:
    for name, _, text in texts_of_file(config.reports) if config.reports else ():
        yield name, text


def is_own(holder: str, note_id: str) -> bool:
    """Whether a text is the note itself, or the report that it was made from: a note's id begins with its report's."""
    return note_id == holder or note_id.startswith(f"{holder}-")


def hashes(text: str) -> Iterable[int]:
    words = words_of(text)
    return {hash(run) for run in runs(words, RUN_WORDS)} if len(words) >= RUN_WORDS else ()


def foreign(answer: str, question: Question, holders: dict[int, set[str]]) -> str:
    """The first run of an answer's words that another patient's text holds, and neither its own nor its instruction."""
    words = words_of(answer)
    own = set(hashes(question.note)) | set(hashes(question.instruction))
    candidates = runs(words, RUN_WORDS) if len(words) >= RUN_WORDS else iter(())

    def others(run: str) -> bool:
        return any(not is_own(holder, question.note_id) for holder in holders.get(hash(run), ()))

    return next((run for run in candidates if hash(run) not in own and others(run)), "")


# ---------------------------------------------------------------- the table


def as_table(figures: dict[str, Any], config: PrivacyConfig) -> dict[str, Any]:
    rows = [
        [
            f"exposure of canaries in {repeats} notes",
            f"{estimate(told['exposure'])} of {told['most']:.0f} bits; "
            f"{told['first']} of {told['canaries']} rank first",
        ]
        for repeats, told in figures.get("canaries", {}).items()
    ]
    for name in ("loss", "loss over zlib"):
        if told := figures.get("membership", {}).get(name):
            rows.append([f"membership by {name}, AUC", estimate(told["auc"])])
            rows.append([f"membership by {name}, found at 1 % false alarms", f"{told['at_1_percent']:.1%}"])
    for model, told in figures.get("repeated", {}).items():
        row = f"answers of {model} with {RUN_WORDS} words in a row of another patient's text"
        rows.append([row, f"{told['answers']['count']} of {told['answers']['n']}"])
    return {
        "title": "What the model has kept of its training notes",
        "about": f"{config.model.name}. A secret that is not remembered has an exposure of 1.4 bits on average, and "
        "membership an AUC of 0.5; what these attacks do not find is not shown to be absent.",
        "columns": ["measure", "figure"],
        "table": rows,
        "figures": figures,
    }
