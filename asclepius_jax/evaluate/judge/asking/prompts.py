"""Prompts for a judge, and parsers of its replies.

Pointwise: one answer at a time, without its model's name, and questions whose options change their order with each
vote. Listwise: the answers of all models, labelled with letters, each of which gets a score, as in the paper.
"""

import json
import re
from collections.abc import Mapping, Sequence

from asclepius_jax.evaluate.judge.rubric import MEANINGS, OMISSIONS, SCORES, Verdict
from data_prep.contract.errors import UserError
from data_prep.contract.records import text_hash
from data_prep.teachers.json_replies import json_in

SYSTEM = (
    "You are an experienced clinician who checks answers against a clinical note. Judge the content of an answer, not "
    "its style, and accept nothing that the note does not state."
)
POINTWISE = """\
Below are a clinical note, an instruction about it, and an answer. Check the answer against the note.

First collect evidence. Quote word for word every statement of the answer that the note does not support or that is \
irrelevant to the instruction, and every statement of the note that the answer should have included. Then answer these \
questions.

1. incorrect: does the answer say anything that is incorrect according to the note, or irrelevant to the instruction? \
{incorrect}
2. omitted: does the answer leave out anything that the note contains and the instruction asks for? {omitted}
   "minor" omissions change nothing for the reader; "significant" ones do, and so do several minor ones together.
3. answerable: does the note contain what the instruction asks for? {answerable}
4. recognised: does the answer act accordingly, that is, answer if the note contains it, and say so if it does not? \
{recognised}

Reply with one JSON object and nothing else:
{{"evidence": [{{"quote": "...", "from": "note or answer", "shows": "..."}}], "incorrect": "...", "omitted": "...", \
"answerable": "...", "recognised": "..."}}

Note:
{note}

Instruction:
{instruction}

Answer:
{answer}

JSON:"""
LISTWISE = """\
Below are a clinical note, an instruction about it, and {count} answers. Give each answer a score.

{scale}

Judge each answer on its own against the note. Reply with one JSON object that contains the score of every answer and \
nothing else, for example {example}.

Note:
{note}

Instruction:
{instruction}

{answers}

JSON:"""
YES, NO = "yes", "no"
OPTIONS: dict[str, tuple[str, ...]] = {
    "incorrect": (NO, YES),
    "omitted": OMISSIONS,
    "answerable": (YES, NO),
    "recognised": (YES, NO),
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["evidence", *OPTIONS],
    "properties": {
        "evidence": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["quote", "from", "shows"],
                "properties": {name: {"type": "string"} for name in ("quote", "from", "shows")},
            },
        },
        **{name: {"type": "string", "enum": list(options)} for name, options in OPTIONS.items()},
    },
}
HASH = text_hash(SYSTEM, POINTWISE, LISTWISE, json.dumps(SCHEMA))


def pointwise_messages(note: str, instruction: str, answer: str, vote: int) -> tuple[dict[str, str], ...]:
    """Prompt for one answer.

    Odd votes list the options in reverse order, so that a judge that always takes the first contradicts itself."""
    shown = {
        name: "One of: " + ", ".join(options if vote % 2 == 0 else options[::-1]) + "."
        for name, options in OPTIONS.items()
    }
    # format() fills in the options only, because a note may contain braces.
    text = POINTWISE.format(note="\0n", instruction="\0i", answer="\0a", **shown)
    fields = {"\0n": note.strip(), "\0i": instruction.strip(), "\0a": answer.strip() or "(the answer is empty)"}
    return messages(text, fields)


def listwise_messages(note: str, instruction: str, answers: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Prompt for several answers, which are labelled A, B, ... in the given order. Raises UserError for over 26."""
    if len(answers) > 26:
        raise UserError(f"{len(answers)} models: --mode listwise allows at most 26")
    scale = "\n".join(f"{number}: {name}; {MEANINGS[number]}." for number, name in sorted(SCORES.items()))
    example = json.dumps({letter(place): 3 for place in range(len(answers))})
    text = LISTWISE.format(
        count=len(answers), scale=scale, example=example, note="\0n", instruction="\0i", answers="\0a"
    )
    listed = "\n\n".join(f"Answer {letter(n)}:\n{answer.strip() or '(empty)'}" for n, answer in enumerate(answers))
    return messages(text, {"\0n": note.strip(), "\0i": instruction.strip(), "\0a": listed})


def messages(text: str, fields: Mapping[str, str]) -> tuple[dict[str, str], ...]:
    parts = re.split("(\0[nia])", text)
    user = "".join(fields.get(part, part) for part in parts)
    return {"role": "system", "content": SYSTEM}, {"role": "user", "content": user}


def letter(place: int) -> str:
    return chr(ord("A") + place)


# ---------------------------------------------------------------- replies


def read_verdict(text: str) -> tuple[Verdict, str]:
    """Verdict in a reply, and its evidence as JSON. Raises ValueError with the reason if it cannot be read."""
    reply = json_in(text)
    read: dict[str, str] = {}
    for name, options in OPTIONS.items():
        value = reply.get(name)
        word = {True: YES, False: NO}.get(value) if isinstance(value, bool) else str(value).strip().strip(".").lower()
        if word == "none" and name == "omitted":
            word = OMISSIONS[0]
        if word not in options:
            raise ValueError(f"{name} is {value!r}")
        read[name] = str(word)
    evidence = reply.get("evidence")
    verdict = Verdict(read["incorrect"] == YES, read["omitted"], read["answerable"] == YES, read["recognised"] == YES)
    return verdict, json.dumps(evidence, ensure_ascii=False) if evidence else ""


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
