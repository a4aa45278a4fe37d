"""Measure forgetting: a model's loss on the same general texts before and after training.

    asclepius evaluate forgetting --before models/Llama-2-7b-hf --after models/mine --texts general.jsonl \\
        --out forgetting.json

Bits per byte do not depend on the tokenizer, so models with different vocabularies can be compared. For benchmarks of
general ability, run lm-evaluation-harness on the exported folder:
`lm_eval --model hf --model_args pretrained=FOLDER --tasks ...`.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.audits.perplexity import Scored, Scorer, bits_a_byte, longest_of
from asclepius_jax.evaluate.audits.realism import texts_of
from asclepius_jax.evaluate.report.tables import estimate, keep, p_value
from asclepius_jax.evaluate.statistics.comparisons import compare
from asclepius_jax.evaluate.statistics.estimates import ratio_of_sums
from data_prep.contract.errors import UserError
from data_prep.contract.records import seeded_fraction
from data_prep.execution.progress import say


@dataclass(frozen=True)
class ForgettingConfig:
    before: Path
    """Hugging Face folder of the model before training."""

    after: Path
    """Hugging Face folder of the model after training."""

    texts: Path
    """General texts on which neither model was trained: a .csv, .json, .jsonl, .parquet or .txt file, or a folder of
    these."""

    out: Path
    """JSON file to write."""

    sample: int = 200
    """Number of texts drawn; 0 takes all."""

    window: int = 1024
    """Context window in tokens, at most that of either model."""

    seed: int = 0
    """Random seed for drawing texts."""


def run(config: ForgettingConfig) -> dict[str, Any]:
    """Write and return the table of figures. Raises UserError for invalid options or input."""
    if not config.texts.exists():
        raise UserError(f"--texts {config.texts}: no such file or folder")
    found = [(case, text) for case, _, text in texts_of(config.texts)]
    if len(found) < 2:
        raise UserError(f"--texts {config.texts} contains {len(found)} texts: a comparison needs at least two")
    found.sort(key=lambda item: seeded_fraction(config.seed, "forgetting", *item))
    found = found[: config.sample or None]
    cases = [case for case, _ in found]
    scored = {}
    # Both models get the same window, at most the shorter of their context lengths.
    window = min(config.window, *(longest_of(folder) for folder in (config.before, config.after)))
    for name, folder in (("before", config.before), ("after", config.after)):
        scorer = Scorer(folder, window, window // 2)
        scored[name] = [scorer.score(text) for _, text in found]
        say(f"forgetting: {len(found)} texts scored {name}")
    figures: dict[str, Any] = {name: asdict(bits_a_byte(each, cases)) for name, each in scored.items()}
    figures |= difference(scored["before"], scored["after"], cases)
    table = as_table(figures, config, len(found))
    keep(table, config.out)
    return table


def difference(before: list[Scored], after: list[Scored], cases: list[str]) -> dict[str, Any]:
    """Bits per byte of the corpus after minus before, and the p value of a sign permutation test of the texts' bits.

    A text without tokens for one of the tokenizers is missing."""
    bits = [
        (a.nats - b.nats) / math.log(2) if a.tokens and b.tokens else None for b, a in zip(before, after, strict=True)
    ]
    estimate = ratio_of_sums(bits, [s.bytes for s in before], cases)
    return {"difference": asdict(estimate), "p": compare(bits, [0.0] * len(bits), cases).sign_flip.p}


def as_table(figures: dict[str, Any], config: ForgettingConfig, count: int) -> dict[str, Any]:
    return {
        "title": "Forgetting",
        "about": f"Bits per byte on {count} general texts, {config.before.name} before and {config.after.name} after "
        "training, all of the whole corpus. p is that of a sign permutation test.",
        "columns": ["general text", "bits per byte"],
        "table": [
            ["before", estimate(figures["before"], 4)],
            ["after", estimate(figures["after"], 4)],
            ["difference", f"{estimate(figures['difference'], 4, '+')}, p {p_value(figures['p'])}"],
        ],
        "figures": figures,
    }
