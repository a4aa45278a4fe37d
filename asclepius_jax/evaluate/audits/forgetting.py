"""What a model has forgotten: its loss on general text before and after training, on the same texts.

    asclepius evaluate forgetting --before models/Llama-2-7b-hf --after models/mine --texts general.jsonl \\
        --out forgetting.json

Bits a byte do not depend on the tokenizer, so that a model whose vocabulary was changed can be compared too. Benchmarks
of general ability run on the exported folder with lm-evaluation-harness:
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
from data_prep.contract.errors import UserError
from data_prep.contract.records import seeded_fraction
from data_prep.execution.progress import say


@dataclass(frozen=True)
class ForgettingConfig:
    before: Path
    """The model before training, a Hugging Face folder."""

    after: Path
    """The model after it."""

    texts: Path
    """General texts that neither was trained on: a .csv, .json, .jsonl, .parquet or .txt file, or a folder of these."""

    out: Path
    """The JSON file to write."""

    sample: int = 200
    """Texts drawn; 0 takes all."""

    window: int = 1024
    """Tokens that a model sees at once."""

    seed: int = 0


def run(config: ForgettingConfig) -> dict[str, Any]:
    """Write the figures; they are returned too. UserError for what the caller can mend."""
    if not config.texts.exists():
        raise UserError(f"--texts {config.texts}: no such file or folder")
    found = [(where, text) for where, _, text in texts_of(config.texts)]
    if len(found) < 2:
        raise UserError(f"--texts {config.texts} holds {len(found)} texts: a comparison needs two")
    found.sort(key=lambda item: seeded_fraction(config.seed, "forgetting", *item))
    texts = [text for _, text in found[: config.sample or None]]
    scored = {}
    # Both see as much of a text as the shorter-sighted one can.
    window = min(config.window, *(longest_of(folder) for folder in (config.before, config.after)))
    for name, folder in (("before", config.before), ("after", config.after)):
        scorer = Scorer(folder, window, window // 2)
        scored[name] = [scorer.score(text) for text in texts]
        say(f"forgetting: {len(texts)} texts scored {name}")
    figures: dict[str, Any] = {name: asdict(bits_a_byte(each)) for name, each in scored.items()}
    difference = compare(bits(scored["after"]), bits(scored["before"]), list(range(len(texts))))
    figures["difference"] = asdict(difference.difference)
    figures["p"] = difference.sign_flip.p
    made = as_table(figures, config, len(texts))
    keep(made, config.out)
    return made


def bits(scored: list[Scored]) -> list[float | None]:
    """A byte, of each text."""
    return [s.nats / math.log(2) / s.bytes if s.tokens else None for s in scored]


def as_table(figures: dict[str, Any], config: ForgettingConfig, count: int) -> dict[str, Any]:
    return {
        "title": "What was forgotten",
        "about": f"Bits a byte on {count} general texts, {config.before.name} before and {config.after.name} after "
        "training. The difference is the mean over texts, with the p value of a permutation of signs.",
        "columns": ["general text", "bits a byte"],
        "table": [
            ["before", estimate(figures["before"], 4)],
            ["after", estimate(figures["after"], 4)],
            ["difference, a text", f"{estimate(figures['difference'], 4, '+')}, p {p_value(figures['p'])}"],
        ],
        "figures": figures,
    }
