"""Verdicts of a chat model on statements, each with a quotation from the source, which is verified by rule.

{"sentences": [{"number": 1, "verdict": "contradicted", "quote": "no chest pain"}]}
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.clinical_text.words import EMPTY, stems
from data_prep.faithfulness.places import place_of_quote
from data_prep.teachers.json_replies import json_in

# Statements about the source, that it does not mention something: no quotation can prove these.
SAYS_ABSENT = re.compile(
    r"\b(?:not (?:stated|mentioned|recorded|documented|specified|described|given|say|state|mention)|no information|"
    r"cannot be (?:determined|answered)|does not (?:say|state|mention|specify|contain|provide))\b",
    re.IGNORECASE,
)


class MisquoteError(ValueError):
    """A quotation that the source does not contain."""


@dataclass(frozen=True)
class Evidence:
    """A verdict and its quotation, with its place in the source; -1 if the source contains no quotation."""

    verdict: str
    quote: str = ""
    quote_start: int = -1
    quote_end: int = -1


def items_in(reply: str, name: str) -> list[Any]:
    """The list `name` of the JSON object in a reply. Raises ValueError if there is none."""
    items = json_in(reply).get(name)
    if not isinstance(items, list):
        raise ValueError(f"no list of {name}")
    return items


def evidence_in(item: Any, field: str, needs_quote: Mapping[str, bool], source: str) -> Evidence:
    """The verdict of an item, in its field `field`, with the quotation verified.

    `needs_quote` has every verdict, and whether it counts only with a quotation. Raises MisquoteError if a quotation
    that counts is not in the source, and ValueError if there is no verdict.
    """
    verdict = str(item.get(field, "")).strip().strip(".").lower() if isinstance(item, dict) else ""
    if verdict not in needs_quote:
        raise ValueError(f"no verdict in {json.dumps(item, ensure_ascii=False)[:100]}")
    quote = str(item.get("quote") or "").strip()
    # One word like "the" would be found in every source.
    place = place_of_quote(quote, source) if set(stems(quote)) - EMPTY else None
    if place is None and needs_quote[verdict]:
        raise MisquoteError(f"the quote is not in the source: {quote[:100]!r}")
    return Evidence(verdict, quote, *place) if place else Evidence(verdict)
