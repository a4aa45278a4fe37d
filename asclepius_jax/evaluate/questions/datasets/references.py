"""The right answer of a gold question, as the JSON that stands in its `reference`.

    {"kind": "entities", "types": ["drug", "test"], "gold": [["drug", 31, 38, "aspirin"], ...]}
    {"kind": "pairs", "gold": [["85/50 mmHg", "blood pressure"], ...]}
    {"kind": "labels", "options": ["before", "after", "overlap"], "gold": ["before", "overlap"]}
    {"kind": "form", "gold": ["multiple sclerosis"], "others": ["mitral stenosis"]}     any of gold, none of others
    {"kind": "error", "sentence": 5, "corrected": "..."}          sentence is null where the text has no error

A reference that is no such JSON is a text, which an answer is compared with as a whole: kind "text".
"""

import json
import re
from typing import Any

KINDS = ("entities", "pairs", "labels", "form", "error", "text")
# Articles and the marks around a mention are nobody's finding.
EDGES = re.compile(r"^(?:(?:the|a|an)\s|[^\w+<>])+|[^\w+%>]+$")


def dump(kind: str, **values: Any) -> str:
    assert kind in KINDS, kind
    return json.dumps({"kind": kind, **values}, ensure_ascii=False)


def load(reference: str) -> dict[str, Any]:
    """The reference by its kind; {"kind": "text", "gold": reference} where it is a plain text."""
    if reference.startswith('{"kind"'):
        try:
            value = json.loads(reference)
        except ValueError:
            value = {}
        if value.get("kind") in KINDS:
            return value
    return {"kind": "text", "gold": reference}


def normal(text: str) -> str:
    """A mention as it is compared: lower case, single spaces, no article before it and no punctuation around it."""
    return EDGES.sub("", re.sub(r"\s+", " ", text).strip().casefold())
