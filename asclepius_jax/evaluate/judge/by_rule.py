"""The judge that works by rule: what an answer says that its note does not, and what it lacks of the known answer.

It costs nothing and never changes its mind. It sees the atoms of `faithfulness`
(numbers, doses, dates, sides, negations,
drugs, findings) and words, nothing of what they mean together; `asclepius evaluate report` shows what it misses.
"""

import re
from dataclasses import asdict, replace

from asclepius_jax.evaluate.judge.rubric import Verdict, score
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Judgement, Question
from data_prep.clinical_text.words import EMPTY, stems
from data_prep.faithfulness.certificate import check

RULES = "rules"
# Share of the known answer's content that may be lacking: less than the first is nothing, less than the second minor.
LEAST_MINOR, LEAST_SIGNIFICANT = 0.15, 0.5
# Share of an answer's words that must stand in the note, the instruction or the known answer: below it, the answer is
# about something else, or no language at all.
LEAST_FAMILIAR = 0.3
SAYS_ABSENT = re.compile(
    r"\b(?:not (?:stated|mentioned|recorded|documented|specified|described|given|say|state|mention)|no information|"
    r"cannot be (?:determined|answered)|does not (?:say|state|mention|specify|contain|provide))\b",
    re.IGNORECASE,
)


def by_rules(question: Question, answer: Answer, judge: str) -> Judgement:
    missing = Judgement(question.id, answer.model, judge, 0, score=0)
    if answer.finish_reason in NO_ANSWER:
        return replace(missing, problem=f"no answer: {answer.text[:200]}")
    verdict, evidence = judge_answer(question, answer.text)
    return replace(missing, score=score(verdict), **asdict(verdict), evidence=evidence)


def judge_answer(question: Question, answer: str) -> tuple[Verdict, str]:
    source = f"{question.note}\n{question.instruction}"
    wrong = [finding for finding in check(answer, question.note) if not finding.supported]
    silent = bool(SAYS_ABSENT.search(answer)) and len(answer.split()) < 40
    strange = 0.0 if silent else 1 - familiar(answer, f"{source}\n{question.reference}")
    evidence = "; ".join(f"{f.atom.kind} “{f.atom.text}” ({f.verdict.rule}): {f.sentence[:200]}" for f in wrong)
    if strange > 1 - LEAST_FAMILIAR:
        evidence = "; ".join(
            filter(None, [evidence, f"{strange:.0%} of its words stand in neither note nor instruction"])
        )
    answerable = not (question.reference and SAYS_ABSENT.search(question.reference))
    verdict = Verdict(
        incorrect=bool(evidence),
        omitted=omitted(question.reference, answer),
        answerable=answerable,
        recognised=silent != answerable,
    )
    return verdict, evidence


def content(text: str) -> set[str]:
    """The stems that carry meaning, numbers among them."""
    return {stem for stem in stems(text) if (len(stem) > 2 or stem.isdigit()) and stem not in EMPTY}


def familiar(answer: str, source: str) -> float:
    """The share of an answer's words that its source has; an empty answer has none."""
    ours = content(answer)
    return len(ours & content(source)) / len(ours) if ours else 0.0


def omitted(reference: str, answer: str) -> str:
    if not reference:
        return "nothing" if answer.strip() else "significant"
    wanted = content(reference)
    lacking = len(wanted - content(answer)) / len(wanted) if wanted else 0.0
    if lacking < LEAST_MINOR:
        return "nothing"
    return "minor" if lacking < LEAST_SIGNIFICANT else "significant"
