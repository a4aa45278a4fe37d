"""Whether notes read like real ones: perplexity, a classifier that tries to tell them apart, length, abbreviations.

    asclepius evaluate realism --scorer models/SmolLM2 --out realism.json --real "real discharge summaries" \\
        --sources "case reports=reports.jsonl" "our notes=data/notes" \\
        "real discharge summaries=mtsamples.jsonl#Discharge Summary"

A source is a folder of notes or a file of texts; `#` and a word that its type must hold choose among them.
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asclepius_jax.evaluate.audits.perplexity import Scored, Scorer, bits_a_byte, perplexity, perplexity_a_text
from asclepius_jax.evaluate.questions.datasets.tables import SURROGATE
from asclepius_jax.evaluate.report.tables import estimate, keep
from asclepius_jax.evaluate.statistics.estimates import rate
from data_prep.clinical_text.headings import ABBREVIATION, as_lines, headings_of
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, read_manifest, verified_files
from data_prep.contract.records import Note, read_parquet, seeded_fraction
from data_prep.contract.tables import files_of, rows_of
from data_prep.execution.progress import say

TYPE_COLUMNS = ("note_type", "types", "type", "category")
CASE_COLUMNS = ("id", "patient_uid", "patient_id")
TEXT_COLUMNS = ("text", "patient", "note")
FOLDS = 5
FEWEST = 20  # texts of each side, below which a classifier says nothing


@dataclass(frozen=True)
class RealismConfig:
    scorer: Path
    """The scoring model, a Hugging Face folder; the same for all figures that are compared."""

    sources: tuple[str, ...]
    """NAME=PATH or NAME=PATH#TYPE: folders of notes, or .csv, .json, .jsonl, .parquet or .txt files of texts."""

    out: Path
    """The JSON file to write."""

    real: str = ""
    """The name of the source that is real: a classifier tries to tell each of the others from it."""

    sample: int = 200
    """Texts drawn of each source; 0 takes all."""

    window: int = 1024
    """Tokens that the scoring model sees at once."""

    stride: int = 512
    """Tokens by which the window moves on."""

    seed: int = 0


@dataclass(frozen=True)
class Source:
    name: str
    texts: list[str]
    cases: list[str]  # of each text: what it tells of, so that a report and the note made from it are known as one


def run(config: RealismConfig) -> dict[str, Any]:
    """Write the figures; they are returned too. UserError for what the caller can mend."""
    sources = [read_source(text, config) for text in config.sources]
    named = {source.name: source for source in sources}
    if len(named) < len(sources) or not sources:
        raise UserError("--sources: name at least one source, and each name once")
    if config.real and config.real not in named:
        raise UserError(f"--real {config.real!r}: no such source; one of {', '.join(named)}")
    scorer = Scorer(config.scorer, config.window, config.stride)
    scored = {source.name: scored_texts(source, scorer) for source in sources}
    figures = {source.name: of_source(source, scored[source.name]) for source in sources}
    for source in sources if config.real else ():
        if source.name != config.real:
            figures[source.name]["told_apart"] = told_apart(source, named[config.real], config.seed)
            figures[source.name]["mauve"] = mauve_of(scored[source.name], scored[config.real], config.seed)
    made = as_table(figures, config, scorer)
    keep(made, config.out)
    return made


def read_source(text: str, config: RealismConfig) -> Source:
    name, equals, place = text.partition("=")
    place, _, wanted = place.partition("#")
    path = Path(place)
    if not name or not equals or not path.exists():
        raise UserError(f"--sources {text}: it must be NAME=PATH or NAME=PATH#TYPE, and the path must exist")
    found = [(case, body) for case, kind, body in texts_of(path) if wanted.lower() in kind.lower()]
    if not found:
        kind = f" of type {wanted}" if wanted else ""
        raise UserError(f"--sources {text}: no text{kind} in {path}; a table has it in {' or '.join(TEXT_COLUMNS)}")
    found.sort(key=lambda item: seeded_fraction(config.seed, "realism", *item))
    found = found[: config.sample or None]
    return Source(name, [body for _, body in found], [case for case, _ in found])


def texts_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """(case, type, text) of every text; what came as one line has its headings at the beginnings of lines."""
    if (path / MANIFEST).is_file():
        for file in verified_files(path, read_manifest(path, "notes")):
            for note in read_parquet(file, Note):
                yield note.report_id, note.note_type, note.text
        return
    unreadable: list[str] = []
    for row in rows_of(files_of(path)):
        values = row.values or {}
        body = next((str(values[name]) for name in TEXT_COLUMNS if values.get(name)), "")
        kind = next((str(values[name]) for name in TYPE_COLUMNS if values.get(name)), "")
        if row.values is None or SURROGATE.search(body):
            unreadable.append(row.place)
        elif body.strip():
            case = next((str(values[name]) for name in CASE_COLUMNS if values.get(name)), row.place)
            yield case, kind, as_lines(body)
    if unreadable:
        say(f"{path}: left out since they cannot be read: {len(unreadable)} rows, first {unreadable[0]}")


def scored_texts(source: Source, scorer: Scorer) -> list[Scored]:
    scored: list[Scored] = []
    for number, text in enumerate(source.texts):
        scored.append(scorer.score(text))
        if (number + 1) % 50 == 0:
            say(f"realism: {number + 1} of {len(source.texts)} {source.name}")
    return scored


def of_source(source: Source, scored: list[Scored]) -> dict[str, Any]:
    words = [len(text.split()) for text in source.texts]
    return {
        "texts": len(source.texts),
        "tokens": sum(s.tokens for s in scored),
        "perplexity": asdict(perplexity(scored)),
        "bits_a_byte": asdict(bits_a_byte(scored)),
        "perplexity_a_text": asdict(perplexity_a_text(scored)),
        "words": statistics.quantiles(words, n=4, method="inclusive") if len(words) > 1 else words * 3,
        "abbreviations": 100 * sum(len(ABBREVIATION.findall(text)) for text in source.texts) / max(1, sum(words)),
        "headings": statistics.mean(len(set(headings_of(text))) for text in source.texts),
    }


def told_apart(source: Source, real: Source, seed: int) -> dict[str, Any]:
    """A classifier two-sample test (Lopez-Paz and Oquab, 2017): how often logistic regression over words and pairs of
    words, on texts of cases that it has not seen, knows which are real. A half is as good as indistinguishable.

    All texts of a case fall into one fold: one that learned a report as real would take its note for real too."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    count = min(len(source.texts), len(real.texts))
    if count < FEWEST:
        return {"value": None, "undefined": f"{count} texts: a classifier needs {FEWEST} of each side"}
    both = [*source.texts[:count], *real.texts[:count]]
    cases = [*source.cases[:count], *real.cases[:count]]
    labels = [0] * count + [1] * count
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, both, labels, groups=cases, cv=folds)
    return asdict(rate([bool(guess == label) for guess, label in zip(predicted, labels, strict=True)]))


def mauve_of(scored: list[Scored], real: list[Scored], seed: int) -> float | None:
    """MAUVE (Pillutla et al., 2021) of the scoring model's last hidden states: 1 is the same distribution. None where
    its library is not installed (`pip install mauve-text faiss-cpu`), or there are too few texts."""
    sides = [np.stack([s.last for s in side if s.tokens]) for side in (scored, real)]
    if min(map(len, sides)) < FEWEST:
        return None
    try:
        import mauve
    except ModuleNotFoundError:
        return None
    return float(mauve.compute_mauve(p_features=sides[0], q_features=sides[1], verbose=False, seed=seed).mauve)


def as_table(figures: dict[str, Any], config: RealismConfig, scorer: Scorer) -> dict[str, Any]:
    rows = [
        [
            name,
            f"{told['texts']}",
            estimate(told["perplexity"]),
            estimate(told["perplexity_a_text"]),
            estimate(told["bits_a_byte"], 3),
            " / ".join(f"{words:.0f}" for words in told["words"]),
            f"{told['abbreviations']:.1f}",
            f"{told['headings']:.1f}",
            estimate(told["told_apart"]) if "told_apart" in told else "–",
            f"{told['mauve']:.2f}" if told.get("mauve") is not None else "–",
        ]
        for name, told in figures.items()
    ]
    return {
        "title": "Whether notes read like real ones",
        "about": f"Scored by {config.scorer.name}: BOS, windows of {scorer.window} tokens that move on by "
        f"{scorer.stride}, each token once. “Told apart” is the accuracy of a classifier that tries to tell a source's "
        f"texts from {config.real or 'real ones'}: 0.5 is indistinguishable; of MAUVE, over the scorer's "
        "hidden states, 1 is.",
        "columns": ["texts of", "n", "perplexity a token", "mean of texts", "bits a byte", "words, quartiles",
                    "abbreviations a 100 words", "headings", "told apart", "MAUVE"],
        "table": rows,
        "chart": {
            "description": "Perplexity a token, with 95 % intervals",
            "rows": {name: told["perplexity"] for name, told in figures.items()},
        },
        "figures": figures,
    }  # fmt: skip
