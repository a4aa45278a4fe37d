"""Replies that contain one JSON object, which are requested once more if they cannot be read."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from data_prep.teachers.base import Request, Teacher
from data_prep.teachers.endpoint.dry_run import PLACEHOLDER
from data_prep.teachers.endpoint.replies import Reply

ATTEMPTS = 2  # largest number of requests per reply
MOST_ROOM = 4  # a reply that was cut off is requested again with this many times the tokens
MOST_REPEATED = 1_000  # characters of an unusable reply that the next request quotes

FAILED = ("error", "refusal", "content_filter")  # finish reasons of replies without a usable text

Read = TypeVar("Read")


async def ask_until_read(
    teacher: Teacher, request: Request, sample_offset: int, read: Callable[[str], Read]
) -> tuple[Read | None, str]:
    """Result of `read` on the reply, or None and the reason if neither the reply nor that of a retry can be read.

    `read` raises ValueError for an unreadable reply. The retry's sample number is higher by `sample_offset`."""
    problem = ""
    for _ in range(ATTEMPTS):
        reply = await teacher.ask(request)
        try:
            return read(usable(reply)), ""
        except ValueError as error:
            problem = f"{error}: {reply.text[:200]}"
            request = asked_again(request, reply, str(error), sample_offset)
        if is_dry_run(reply):
            break
    return None, problem


def asked_again(request: Request, reply: Reply, reason: str, sample_offset: int) -> Request:
    """The request to repeat after a reply that cannot be used.

    At temperature 0, the same request would give the same reply: a reply that was cut off gets more room, and another
    one is quoted with the reason.
    """
    again = replace(request, seed=request.seed + 1, sample=request.sample + sample_offset)
    if reply.finish_reason == "length":
        return replace(again, room=MOST_ROOM * request.room)
    if reply.finish_reason in FAILED or not reply.text:
        return again
    why = f"This reply cannot be used: {reason}. Reply again as asked, with the JSON object alone."
    told = ({"role": "assistant", "content": reply.text[:MOST_REPEATED]}, {"role": "user", "content": why})
    return replace(again, messages=(*request.messages, *told))


def is_dry_run(reply: Reply) -> bool:
    """Report whether nothing was asked: an estimate assumes that the first reply can be read."""
    return reply.text == PLACEHOLDER


def usable(reply: Reply) -> str:
    """Text of a reply. Raises ValueError if the request failed.

    A reply cut at the length limit is returned, because it may still contain the whole verdict."""
    if reply.finish_reason in FAILED:
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


def json_so_far(text: str) -> dict[str, Any] | None:
    """The first JSON object in a reply that was cut off, without the value in which it ends; None if there is none.

    {"a": 1, "b": [{"c": 2}, {"c": "and so    ->    {"a": 1, "b": [{"c": 2}]}
    """
    start = text.find("{")
    closers: list[str] = []
    end, closing = 0, ""  # the longest beginning that ends after a complete value, and what closes it
    is_quoted = is_escaped = False
    for place, character in enumerate(text[start:], start) if start >= 0 else ():
        if is_quoted:
            is_quoted = is_escaped or character != '"'
            is_escaped = character == "\\" and not is_escaped
        elif character == '"':
            is_quoted = True
        elif character in "{[":
            closers.append("}" if character == "{" else "]")
        elif character == "," or character in "}]":
            if character != "," and closers:
                closers.pop()
            end, closing = place + (character != ","), "".join(reversed(closers))
            if not closers:
                break
    try:
        value = json.loads(text[start:end] + closing)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
