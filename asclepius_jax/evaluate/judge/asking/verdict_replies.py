"""Replies of a judge: verdicts with evidence that is verified by rule, and scores of lists.

{"incorrect": "yes", "harm": "minor", "omitted": "nothing", "answerable": "yes", "recognised": "yes",
 "evidence": [{"fault": "incorrect", "quote": "aspirin 1000 mg", "why": "the note says 100 mg"}]}
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asclepius_jax.evaluate.judge.asking.orders import NO, OPTIONS, YES
from asclepius_jax.evaluate.judge.asking.prompts import FAULTS, letter
from asclepius_jax.evaluate.judge.rubric import HARMS, OMISSIONS, Verdict
from data_prep.clinical_text.words import EMPTY, stems
from data_prep.faithfulness.places import WORD, place_of_quote, plain
from data_prep.teachers.json_replies import json_in, json_so_far


@dataclass(frozen=True)
class Quotable:
    """Texts in which a judge's quotations must occur."""

    answer: str
    wanted: str  # the note and the required content: an omission is quoted from there


def read_verdict(text: str, quotable: Quotable) -> tuple[Verdict, str]:
    """Verdict in a reply, and its verified evidence as JSON.

    A reply that is cut off is read if the verdict and a quotation for each fault are complete. Raises ValueError with
    the reason if the verdict cannot be read, or if it and its evidence do not agree.
    """
    reply = object_in(text)
    if option_in(reply, "incorrect") == NO:
        reply.setdefault("harm", HARMS[0])
    read = {name: option_in(reply, name) for name in OPTIONS}
    incorrect = read["incorrect"] == YES
    if not incorrect and read["harm"] != HARMS[0]:
        raise ValueError(f"harm is {read['harm']}, but nothing is incorrect")
    verdict = Verdict(incorrect, read["omitted"], read["answerable"] == YES, read["recognised"] == YES, read["harm"])
    evidence = reply.get("evidence")
    items = [item for item in evidence if isinstance(item, dict)] if isinstance(evidence, list) else []
    verified = [item for item in items if is_quoted(item, quotable)]
    check_evidence(verdict, {item["fault"] for item in verified}, {str(item.get("fault")) for item in items}, quotable)
    return verdict, json.dumps(verified, ensure_ascii=False) if verified else ""


def object_in(text: str) -> dict[str, Any]:
    try:
        reply = json_in(text)
    except ValueError:
        reply = {}
    if not OPTIONS.keys() - {"harm"} <= reply.keys():
        # Cut off within its evidence, whose last whole item is then the last whole object.
        reply = json_so_far(text) or reply
    if not reply:
        raise ValueError("no JSON object")
    return reply


def option_in(reply: Mapping[str, Any], name: str) -> str:
    value = reply.get(name)
    word = {True: YES, False: NO}.get(value) if isinstance(value, bool) else str(value).strip().strip(".").lower()
    if word == "none" and name == "omitted":
        word = OMISSIONS[0]
    if word not in OPTIONS[name]:
        raise ValueError(f"{name} is {value!r}")
    return str(word)


def is_quoted(item: Mapping[str, Any], quotable: Quotable) -> bool:
    """Report whether the quotation of an item is where a fault of its kind is quoted from.

    One word like "the" would be found in every text, so that only a whole text of such words can be quoted by them.
    """
    fault, quote = item.get("fault"), str(item.get("quote") or "")
    if fault not in FAULTS:
        return False
    source = quotable.answer if fault == "incorrect" else quotable.wanted
    if not set(stems(quote)) - EMPTY and plain(quote) != plain(source):
        return False
    return place_of_quote(quote, source) is not None


def check_evidence(verdict: Verdict, verified: set[str], named: set[str], quotable: Quotable) -> None:
    """Raise ValueError if a fault has no verified quotation, or a quotation no fault.

    verified, named: the faults of items whose quotation is verified, and of all items.
    """
    # Without words there is nothing to quote.
    found = {"incorrect": verdict.incorrect, "omitted": verdict.omitted != OMISSIONS[0]}
    quoted = {"incorrect": bool(WORD.search(quotable.answer)), "omitted": bool(WORD.search(quotable.wanted))}
    if not (verdict.answerable and verdict.recognised):
        # What an answer omits that should not, or does not, answer is not asked.
        del found["omitted"]
    where = {"incorrect": "answer", "omitted": "note or the required content"}
    for fault, is_found in found.items():
        if is_found and quoted[fault] and fault not in verified:
            raise ValueError(f'a verdict of "{fault}" without a quotation that is in the {where[fault]}')
        if not is_found and fault in named:
            raise ValueError(f'evidence of "{fault}" that contradicts the verdict')


def read_scores(text: str, count: int) -> list[int]:
    """Scores of `count` answers in the order shown; 0 for scores that are missing or off the scale."""
    by_letter = {str(key).strip().upper().removeprefix("ANSWER").strip(): value for key, value in json_in(text).items()}
    scores = []
    for place in range(count):
        value = by_letter.get(letter(place))
        value = value.get("score") if isinstance(value, dict) else value
        digits = re.fullmatch(r"\s*([1-4])(?:\.0)?(?:\s*/\s*4)?\s*", str(value))
        scores.append(int(digits[1]) if digits else 0)
    return scores
