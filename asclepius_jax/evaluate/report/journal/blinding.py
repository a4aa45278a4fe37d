"""Test of the blinding: how often raters guess the model that wrote an answer, compared with chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.statistics.estimates import rate


def blinding_of(guesses: Sequence[Mapping[str, Any]], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Share of right guesses with a clustered interval; empty without guesses.

    guesses: as `clinicians.guesses.unblinded` writes them. Chance is one in the number of models to choose from,
    because the answers that a rater guesses at are of models drawn at random. The interval speaks of these raters.
    """
    known = [guess for guess in guesses if guess["question_id"] in questions]
    if not known:
        return {}
    chance = sum(1 / guess["choices"] for guess in known) / len(known)

    def share(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        hits = [float(guess["guess"] == guess["model"]) for guess in rows]
        return asdict(rate(hits, [questions[guess["question_id"]].cluster for guess in rows]))

    right = share(known)
    raters = sorted({guess["rater"] for guess in known})
    pairs = Counter((guess["model"], guess["guess"]) for guess in known)
    warning = ""
    if right["low"] is not None and right["low"] > chance:
        warning = (
            f"Blinding failed: raters named the model of {right['value']:.0%} of the answers that they guessed at; by "
            f"chance it would be {chance:.0%}."
        )
    elif right["low"] is None:
        warning = "Too few guesses to say whether blinding worked."
    return {
        "right": right,
        "chance": chance,
        "raters": {rater: share([guess for guess in known if guess["rater"] == rater]) for rater in raters},
        "guesses": [
            {"model": model, "guess": guess, "count": count} for (model, guess), count in sorted(pairs.items())
        ],
        "warning": warning,
    }
