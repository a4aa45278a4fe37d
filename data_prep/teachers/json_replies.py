"""Replies that contain one JSON object, which are requested once more if they cannot be read."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from data_prep.teachers.base import Request, Teacher
from data_prep.teachers.endpoint.dry_run import PLACEHOLDER
from data_prep.teachers.endpoint.replies import Reply

ATTEMPTS = 2  # largest number of requests per reply

Read = TypeVar("Read")


async def ask_until_read(
    teacher: Teacher, request: Request, sample_offset: int, read: Callable[[str], Read]
) -> tuple[Read | None, str]:
    """Result of `read` on the reply, or None and the reason if neither the reply nor that of a retry can be read.

    `read` raises ValueError for an unreadable reply. The retry's sample number is higher by `sample_offset`."""
    problem = ""
    for attempt in range(ATTEMPTS):
        again = replace(request, seed=request.seed + attempt, sample=request.sample + sample_offset * attempt)
        reply = await teacher.ask(again)
        try:
            return read(usable(reply)), ""
        except ValueError as error:
            problem = f"{error}: {reply.text[:200]}"
        if is_dry_run(reply):
            break
    return None, problem


def is_dry_run(reply: Reply) -> bool:
    """Report whether nothing was asked: an estimate assumes that the first reply can be read."""
    return reply.text == PLACEHOLDER


def usable(reply: Reply) -> str:
    """Text of a reply. Raises ValueError if the request failed.

    A reply cut at the length limit is returned, because it may still contain the whole verdict."""
    if reply.finish_reason in ("error", "refusal", "content_filter"):
        raise ValueError(reply.finish_reason)
    return reply.text


def json_in(text: str) -> dict[str, Any]:
    """Last JSON object in a reply. Raises ValueError if there is none.

    It may be in a code fence or after other text, because a model may repeat the example or think aloud first."""
    decoder, found, place = json.JSONDecoder(), None, text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except ValueError:
            end = place + 1
        except RecursionError as error:  # brackets nested by the thousand
            raise ValueError("no JSON object that could be read") from error
        else:
            found = value if isinstance(value, dict) else found
        place = text.find("{", end)
    if found is None:
        raise ValueError("no JSON object")
    return found
