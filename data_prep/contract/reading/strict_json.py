"""JSON objects of foreign files, read strictly: what readers take in different ways is refused.

`json` alone accepts NaN, which is no JSON, and keeps the last of two equal keys, of which none can be the right one.
"""

import json
import reprlib
from collections import Counter
from typing import Any


def shown_name(name: str) -> str:
    """A foreign name for a message, quoted only where it has characters that would break the line."""
    return name if name.isprintable() and len(name) <= 100 else reprlib.repr(name)


def strict_object(content: bytes, subject: str = "it") -> dict[str, Any]:
    """Parse a JSON object in UTF-8 without a mark. Raises ValueError, whose message calls the content `subject`."""
    try:
        raw = json.loads(content.decode(), object_pairs_hook=unique_keys, parse_constant=no_constant)
    except RecursionError:
        raise ValueError(f"{subject} is nested too deeply") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{subject} is not a JSON object")
    return raw


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{shown_name(twice)} occurs twice")
    return found


def no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
