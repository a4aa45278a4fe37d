"""Right answers of gold questions, stored as JSON in the field `reference`.

    {"kind": "entities", "types": ["drug", "test"], "gold": [["drug", 31, 38, "aspirin"], ...]}
    {"kind": "pairs", "gold": [["85/50 mmHg", "blood pressure"], ...]}
    {"kind": "labels", "options": ["before", "after", "overlap"], "gold": ["before", "overlap"]}
    {"kind": "form", "gold": ["multiple sclerosis"], "others": ["mitral stenosis"]}     any of gold, none of others
    {"kind": "error", "sentence": 5, "corrected": "..."}          sentence is null if the text has no error

Any other reference is a plain text of kind "text", with which an answer is compared as a whole.
"""

import json
import re
from typing import Any

KINDS = ("entities", "pairs", "labels", "form", "error", "text")
# Articles and punctuation around a mention, which do not count in comparisons.
EDGES = re.compile(r"^(?:(?:the|a|an)\s|[^\w+<>])+|[^\w+%>]+$")


def dump(kind: str, **values: Any) -> str:
    assert kind in KINDS, kind
    return json.dumps({"kind": kind, **values}, ensure_ascii=False)


def load(reference: str) -> dict[str, Any]:
    """Parsed reference; {"kind": "text", "gold": reference} for a plain text."""
    if reference.startswith('{"kind"'):
        try:
            value = json.loads(reference)
        except ValueError:
            value = {}
        if value.get("kind") in KINDS:
            return value
    return {"kind": "text", "gold": reference}


def normal(text: str) -> str:
    """Mention normalised for comparison: lower case, single spaces, without leading article or outer punctuation."""
    return EDGES.sub("", re.sub(r"\s+", " ", text).strip().casefold())
