"""Answers by rule with their citations, and questions whose answers can be cited.

A question is drawn again if its answer cannot be cited without doubt: a note that gives the age in its header and again
in its first sentence has two sentences for one statement.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.faithfulness.certificate import check
from data_prep.faithfulness.citations import NoteSentences, add_citations, ambiguous_citations, check_citations

# Questions to try; with more, the ones with a sure citation would crowd out the other forms.
TRIES = 6


@lru_cache(maxsize=64)
def cited_answer(note: str, question: str, answer: str) -> str:
    return add_citations(note, answer, question)


@lru_cache(maxsize=64)
def certainty(note: str, question: str, answer: str) -> int:
    """How surely an answer can be cited.

    0: not at all, or the note says it elsewhere too. 1: surely. 2: the rules of `faithfulness` alone also find each
    cited sentence unsupported in the rest of the note.
    """
    shown, source = cited_answer(note, question, answer), NoteSentences.of(note)
    found = check_citations(note, shown)
    if any(each.problem for each in found) or ambiguous_citations(note, shown):
        return 0
    without = ((without_citations(each.sentence), source.rest(each.cited)) for each in found if each.cited)
    return 2 if all(any(not f.supported for f in check(plain, rest)) for plain, rest in without) else 1


def first_citable(note: str, questions: Iterable[str], answer: Callable[[str], str]) -> str:
    """The question with the most certain citation, the first of equals; "" if there are no questions."""
    tried: dict[str, int] = {}
    for question in questions:
        if not question or question in tried:
            continue
        tried[question] = certainty(note, question, answer(question))
        if tried[question] == 2 or len(tried) == TRIES:
            break
    return max(tried, key=lambda question: tried[question], default="")
