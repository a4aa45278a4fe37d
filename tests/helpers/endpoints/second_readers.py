"""Second readers behind a fake endpoint: one that knows the right verdicts, one that guesses, one that talks."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.helpers.endpoints.fake_endpoint import Answer, FakeEndpoint, completion

Verdict = tuple[str, str]  # verdict, quote
Reader = Callable[[str, str], Verdict]  # from source and sentence


def is_reading(body: Mapping[str, Any]) -> bool:
    return "numbered sentences of" in body["messages"][1]["content"]


def asked(body: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The source and the sentences of a request to a second reader."""
    found = re.search(
        r"\n\nSource:\n(.*?)\n\n(?:The sentences answer .*?\n\n)?Sentences:\n(.*)\n\nJSON:$",
        body["messages"][1]["content"],
        re.DOTALL,
    )
    assert found
    return found[1], [line.partition(". ")[2] for line in found[2].split("\n")]


def reply_of(verdicts: list[Verdict]) -> str:
    items = [{"number": n, "verdict": v, "quote": quote} for n, (v, quote) in enumerate(verdicts, 1)]
    return "Here they are:\n" + json.dumps({"sentences": items})


def reads(reader: Reader) -> Callable[[Mapping[str, Any]], Answer]:
    def answer(body: Mapping[str, Any]) -> Answer:
        source, sentences = asked(body)
        return completion(reply_of([reader(source, sentence) for sentence in sentences]))

    return answer


def knows(truths: Mapping[str, Verdict]) -> Reader:
    """Knows these sentences; of any other, whether the source has it word for word."""

    def verdict(source: str, sentence: str) -> Verdict:
        return truths.get(sentence) or (("supported", sentence) if sentence in source else ("not stated", ""))

    return verdict


def guesses(source: str, sentence: str) -> Verdict:
    chosen = hashlib.sha256(sentence.encode()).digest()[0] % 3
    return ("supported", "contradicted", "not stated")[chosen], " ".join(source.split()[:5])


def talks(body: Mapping[str, Any]) -> Answer:
    return completion("These sentences look plausible to me.")


def readings(endpoint: FakeEndpoint) -> list[list[str]]:
    """The sentences of each request to the reader so far."""
    return [asked(body)[1] for body in endpoint.requests if is_reading(body)]
