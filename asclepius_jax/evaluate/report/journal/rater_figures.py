"""The rater-by-item model of the clinicians' scores, for the report."""

from typing import Any

from asclepius_jax.evaluate.report.results import Results
from asclepius_jax.evaluate.statistics.mixed_model import rater_item_model


def rater_model_of(results: Results, baseline: str) -> dict[str, Any]:
    """Figures of `rater_item_model`, from first ratings; empty without ratings."""
    ratings = [rating for rating in results.first_ratings if rating.score]
    if not ratings:
        return {}
    return rater_item_model(
        [rating.score for rating in ratings],
        [rating.rater for rating in ratings],
        [rating.model for rating in ratings],
        [rating.question_id for rating in ratings],
        [results.questions[rating.question_id].cluster for rating in ratings],
        baseline,
    )
