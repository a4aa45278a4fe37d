"""Compare notes with real ones: perplexity, a classifier that tries to distinguish them, length, abbreviations.

    asclepius evaluate realism --scorer models/SmolLM2 --out realism.json --real "real discharge summaries" \\
        --sources "case reports=reports.jsonl" "our notes=data/notes" \\
        "real discharge summaries=mtsamples.jsonl#Discharge Summary"

A source is a folder of notes or a file of texts. `#WORD` selects the texts whose type contains the word.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asclepius_jax.evaluate.audits.perplexity import Scored, Scorer, bits_a_byte, perplexity, perplexity_a_text
from asclepius_jax.evaluate.questions.datasets.tables import SURROGATE
from asclepius_jax.evaluate.report.tables import estimate, keep
from asclepius_jax.evaluate.statistics.estimates import mean, rate, ratio_of_sums
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
FEWEST_FOR_MAUVE = 50  # texts per side of a draw
DRAWS = 20
FEWEST = 20  # minimum number of texts per side; below it, a classifier is meaningless


@dataclass(frozen=True)
class RealismConfig:
    scorer: Path
    """Hugging Face folder of the scoring model. Figures are comparable only with the same scorer."""

    sources: tuple[str, ...]
    """Sources as NAME=PATH, where PATH is a folder of notes or a .csv, .json, .jsonl, .parquet or .txt file of texts,
    or as "NAME=PATH#TYPE" for notes of one type."""

    out: Path
    """JSON file to write."""

    real: str = ""
    """NAME in --sources of the real notes. The others are compared with them by a classifier and by MAUVE (a distance
    between two sets of texts, arXiv 2102.01454); empty skips both."""

    sample: int = 200
    """Number of texts drawn per source; 0 takes all."""

    window: int = 1024
    """Context window of the scoring model in tokens."""

    stride: int = 512
    """Number of tokens by which the window is shifted."""

    seed: int = 0
    """Random seed for drawing texts, for the classifier's folds and for MAUVE."""


@dataclass(frozen=True)
class Source:
    name: str
    texts: list[str]
    cases: list[str]  # case of each text; a report and the note made from it have the same case


def run(config: RealismConfig) -> dict[str, Any]:
    """Write and return the table of figures. Raises UserError for invalid options or input."""
    sources = [read_source(text, config) for text in config.sources]
    named = {source.name: source for source in sources}
    if len(named) < len(sources) or not sources:
        raise UserError(f"--sources {' '.join(config.sources)}: give at least one source; names must be unique")
    if config.real and config.real not in named:
        raise UserError(f"--real {config.real!r}: no such source; choose one of {', '.join(named)}")
    scorer = Scorer(config.scorer, config.window, config.stride)
    scored = {source.name: scored_texts(source, scorer) for source in sources}
    figures = {source.name: source_figures(source, scored[source.name]) for source in sources}
    for source in sources if config.real else ():
        if source.name != config.real:
            figures[source.name]["told_apart"] = told_apart(source, named[config.real], config.seed)
            ours, real = (features_by_case(each, scored[each.name]) for each in (source, named[config.real]))
            figures[source.name]["mauve"] = mauve_of(ours, real, config.seed)
    table = as_table(figures, config, scorer)
    keep(table, config.out)
    return table


def read_source(text: str, config: RealismConfig) -> Source:
    name, equals, place = text.partition("=")
    place, _, wanted = place.partition("#")
    path = Path(place)
    if not name or not equals or not path.exists():
        raise UserError(f"--sources {text}: must be NAME=PATH or NAME=PATH#TYPE, and the path must exist")
    found = [(case, body) for case, kind, body in texts_of(path) if wanted.lower() in kind.lower()]
    if not found:
        kind = f" of type {wanted}" if wanted else ""
        raise UserError(
            f"--sources {text}: no text{kind} in {path}; a table needs a column {' or '.join(TEXT_COLUMNS)}"
        )
    found.sort(key=lambda item: seeded_fraction(config.seed, "realism", *item))
    found = found[: config.sample or None]
    return Source(name, [body for _, body in found], [case for case, _ in found])


def texts_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """(case, type, text) of every text. Texts stored as one line are split so that headings begin lines."""
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
        say(f"{path}: skipped {len(unreadable)} rows that cannot be read, the first at {unreadable[0]}")


def scored_texts(source: Source, scorer: Scorer) -> list[Scored]:
    scored: list[Scored] = []
    for number, text in enumerate(source.texts):
        scored.append(scorer.score(text))
        if (number + 1) % 50 == 0:
            say(f"realism: {number + 1} of {len(source.texts)} {source.name}")
    return scored


def source_figures(source: Source, scored: list[Scored]) -> dict[str, Any]:
    words, cases = [len(text.split()) for text in source.texts], source.cases
    short_forms = [100 * len(ABBREVIATION.findall(text)) for text in source.texts]
    return {
        "texts": len(source.texts),
        "cases": len(set(cases)),
        "tokens": sum(s.tokens for s in scored),
        "perplexity": asdict(perplexity(scored, cases)),
        "bits_a_byte": asdict(bits_a_byte(scored, cases)),
        "perplexity_a_text": asdict(perplexity_a_text(scored, cases)),
        "words": statistics.quantiles(words, n=4, method="inclusive") if len(words) > 1 else words * 3,
        "abbreviations": asdict(ratio_of_sums(short_forms, words, cases)),
        "headings": asdict(mean([len(set(headings_of(text))) for text in source.texts], cases)),
    }


def told_apart(source: Source, real: Source, seed: int) -> dict[str, Any]:
    """Classifier two-sample test (Lopez-Paz and Oquab, 2017): accuracy of recognising real texts; 0.5 is chance.

    The classifier is a logistic regression over words and word pairs, tested on cases that it has not seen. All texts
    of a case are in one fold, because a classifier trained on a real report would take its note for real too."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    count = min(len(source.texts), len(real.texts))
    if count < FEWEST:
        return {"value": None, "undefined": f"{count} texts: a classifier needs {FEWEST} per side"}
    both = [*source.texts[:count], *real.texts[:count]]
    cases = [*source.cases[:count], *real.cases[:count]]
    labels = [0] * count + [1] * count
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, both, labels, groups=cases, cv=folds)
    return asdict(rate([bool(guess == label) for guess, label in zip(predicted, labels, strict=True)], cases))


def features_by_case(source: Source, scored: list[Scored]) -> dict[str, list[np.ndarray]]:
    """The scoring model's last hidden state of each text, by case; texts without tokens are left out."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for case, each in zip(source.cases, scored, strict=True):
        if each.tokens:
            found[case].append(each.last)
    return found


Features = Mapping[str, Sequence[np.ndarray]]


def mauve_of(ours: Features, real: Features, seed: int) -> dict[str, Any]:
    """MAUVE (Pillutla et al., 2021) of hidden states, and that of one half of the real notes against the other half.

    MAUVE depends on the number of texts, so that only the real notes' own figure at the same number says what is
    high. Both are means over draws of half of the real cases, with the percentiles of the draws. Undefined, with the
    reason, for too few texts or without its library (`pip install mauve-text faiss-cpu`)."""
    texts = sum(map(len, real.values())) // 2
    size = min(texts, sum(map(len, ours.values())))
    undefined = {"value": None, "ceiling": None}
    if size < FEWEST_FOR_MAUVE or len(real) < FEWEST:
        return {
            **undefined,
            "undefined": f"{size} texts per side and {len(real)} real cases: MAUVE needs {FEWEST_FOR_MAUVE} (and twice "
            f"as many real ones) and {FEWEST}",
        }
    try:
        import mauve
    except ModuleNotFoundError:
        return {**undefined, "undefined": "mauve-text is not installed"}
    random = np.random.default_rng(seed)

    def of(features: Features, cases: Sequence[str]) -> np.ndarray:
        rows = np.stack([row for case in cases for row in features[case]])
        return random.permutation(rows)[:size]

    draws = []
    for draw in range(DRAWS):
        order = [str(case) for case in random.permutation(sorted(real))]
        middle = int(np.searchsorted(np.cumsum([len(real[case]) for case in order]), texts)) + 1
        half, other = of(real, order[:middle]), of(real, order[middle:])
        # The sides of one comparison have the same number of texts.
        pairs = [(of(ours, sorted(ours)), half), (other, half[: len(other)])]
        draws.append([float(mauve.compute_mauve(p, q, verbose=False, seed=seed + draw).mauve) for p, q in pairs])
    figures = [
        {
            "value": float(np.mean(found)),
            "low": float(np.percentile(found, 2.5)),
            "high": float(np.percentile(found, 97.5)),
        }
        for found in zip(*draws, strict=True)
    ]
    method = f"percentiles of {DRAWS} draws of {size} texts per side"
    return {**figures[0], "ceiling": figures[1], "n": size, "method": method}


def as_table(figures: dict[str, Any], config: RealismConfig, scorer: Scorer) -> dict[str, Any]:
    rows = [
        [
            name,
            f"{source['texts']}",
            estimate(source["perplexity"]),
            estimate(source["perplexity_a_text"]),
            estimate(source["bits_a_byte"], 3),
            " / ".join(f"{words:.0f}" for words in source["words"]),
            estimate(source["abbreviations"], 1),
            estimate(source["headings"], 1),
            estimate(source["told_apart"]) if "told_apart" in source else "–",
            estimate(source["mauve"]) if "mauve" in source else "–",
            estimate(source["mauve"]["ceiling"]) if "mauve" in source else "–",
        ]
        for name, source in figures.items()
    ]
    return {
        "title": "Realism of notes",
        "about": f"Scored by {config.scorer.name}: BOS, windows of {scorer.window} tokens shifted by {scorer.stride}, "
        "each token scored once. “Classifier accuracy” is that of a classifier that tries to distinguish a source's "
        f"texts from {config.real or 'real ones'}. Indistinguishable texts have an accuracy of 0.5, and the MAUVE "
        "(of the scorer's hidden states) of one half of the real texts against the other half.",
        "columns": ["texts of", "n", "perplexity per token", "mean of texts", "bits per byte", "words, quartiles",
                    "abbreviations per 100 words", "headings", "classifier accuracy", "MAUVE", "MAUVE, real halves"],
        "table": rows,
        "chart": {
            "description": "Perplexity per token, with 95 % intervals",
            "rows": {name: source["perplexity"] for name, source in figures.items()},
        },
        "figures": figures,
    }  # fmt: skip
