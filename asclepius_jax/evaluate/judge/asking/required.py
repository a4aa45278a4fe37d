"""Content that a complete answer must contain, from a question's reference answer.

Sentences of the reference that the rules of `faithfulness` find unsupported by the note are left out, as in the
certificate that was written with the answer: a judge must not ask for the reference's own errors.
"""

from functools import lru_cache

from asclepius_jax.evaluate.judge.by_rule import declines
from asclepius_jax.evaluate.records import Question
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.faithfulness.certificate import check
from data_prep.faithfulness.places import places_of_sentences

MOST_ITEMS = 12


def required_content(question: Question) -> list[str] | None:
    """Statements of the reference answer that the note supports, in one line each.

    Empty if the reference says that the note has no answer; None without a reference, or if nothing of it is left.
    """
    if not question.reference.strip():
        return None
    if declines(question.reference):
        return []
    return list(supported_sentences(question.reference, question.note))[:MOST_ITEMS] or None


@lru_cache(maxsize=256)  # the answers of all models to one question are judged one after another
def supported_sentences(reference: str, note: str) -> tuple[str, ...]:
    reference = without_citations(reference)
    wrong = [finding for finding in check(reference, note) if not finding.supported]
    return tuple(
        " ".join(reference[start:end].split())
        for start, end in places_of_sentences(reference)
        if not any(finding.start < end and start < finding.end for finding in wrong)
    )
