"""Mutations of valid files, for readers of foreign bytes.

ASCLEPIUS_MUTATIONS sets the number of mutations of each file; `-m slow` tries thousands.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MUTATIONS = int(os.environ.get("ASCLEPIUS_MUTATIONS", "60"))
OFTEN = pytest.param(4000, marks=pytest.mark.slow)
# Values at which readers stumble: other types, limits of integers and floats, names of other files, halves of pairs.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e-5, 2**31, 2**63, 2**64, 10**18, 10**400),
    *("", "</s>", "<s>", "a\nb", "\x00", "\ud800", "../config.json", "/etc/passwd", ".", "..", "x" * 5000, "é", "BPE"),
    *([], {}, [[]], [None], {"": None}, [0, 0], [2, 7, 9], {"content": 3}, [10**18], {"type": "Unigram"}),
)


def trying(mutations: int) -> Callable[[Callable[[st.DataObject], None]], Callable[[], None]]:
    """Decorator for a function of one drawn mutation, with the same mutations in every run."""

    def decorate(function: Callable[[st.DataObject], None]) -> Callable[[], None]:
        quiet = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": [*HealthCheck]}
        return settings(max_examples=mutations, **quiet)(given(data=st.data())(function))

    return decorate


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; of long ones the first 30 entries."""
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, entry in entries[:30]:
        yield value, key
        if isinstance(entry, dict | list):
            yield from nodes(entry)


def changed_json(content: bytes, data: st.DataObject) -> bytes:
    """The content with one to three values replaced, removed, renamed or repeated."""
    raw = json.loads(content)
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(nodes(raw))
        if not places:
            break
        holder, key = data.draw(st.sampled_from(places))
        action = data.draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if action == "remove":
            del holder[key]
        elif action == "rename" and isinstance(holder, dict):
            holder[str(data.draw(st.sampled_from(HOSTILE)))[:50]] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(data.draw(st.sampled_from(HOSTILE)))
    text = json.dumps(raw)
    if data.draw(st.integers(0, 9)) == 0:
        text = text.replace("{", '{"twice": 1, "twice": 2, ', 1)
    return text.encode()


def changed_bytes(content: bytes, data: st.DataObject) -> bytes:
    """The content cut, or with a few bytes of its first kilobytes changed or inserted."""
    action = data.draw(st.sampled_from(["change", "change", "insert", "cut", "mark", "wide"]))
    if action == "cut":
        return content[: data.draw(st.integers(0, len(content)))]
    if action == "mark":
        return b"\xef\xbb\xbf" + content
    if action == "wide":
        return content.decode("latin-1").encode("utf-16")
    place = data.draw(st.integers(0, min(len(content), 4000)))
    added = data.draw(st.binary(min_size=1, max_size=8))
    return content[:place] + added + content[place + (len(added) if action == "change" else 0) :]
