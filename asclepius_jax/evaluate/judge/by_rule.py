"""Rule-based judge: finds facts that the note does not support and parts of the reference answer that are missing.

The judge is free and deterministic. It checks words and the atoms of `faithfulness` (numbers, doses, dates, sides,
negations, drugs, findings), but not their combined meaning. `asclepius evaluate report` shows what it misses.
"""

from dataclasses import asdict, replace

from asclepius_jax.evaluate.judge.rubric import Verdict, score
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Judgement, Question
from data_prep.clinical_text.words import EMPTY, stems
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.faithfulness.certificate import check
from data_prep.synthesize.second_reader.verdicts import SAYS_ABSENT

RULES = "rules"
# An omission is minor, or significant, from these shares of the reference answer's content that are missing.
LEAST_MINOR, LEAST_SIGNIFICANT = 0.15, 0.5
# Share of an answer's words that must occur in the note, the instruction or the reference answer. Below it, the answer
# is about something else or is not language.
LEAST_FAMILIAR = 0.3
LONGEST_REFUSAL = 40  # words; a longer text that says what the note does not state also says something else


def by_rules(question: Question, answer: Answer, judge: str) -> Judgement:
    missing = Judgement(question.id, answer.model, judge, 0, 0, seed=answer.seed, variant_of=answer.variant_of)
    if answer.finish_reason in NO_ANSWER:
        return replace(missing, problem=f"no answer: {answer.text[:200]}")
    verdict, evidence = judge_answer(question, answer.text)
    return replace(missing, score=score(verdict), **asdict(verdict), evidence=evidence)


def judge_answer(question: Question, answer: str) -> tuple[Verdict, str]:
    # The numbers of cited sentences are no facts, and no words of the answer.
    answer, reference = without_citations(answer), without_citations(question.reference)
    source = f"{question.note}\n{question.instruction}"
    wrong = [finding for finding in check(answer, question.note) if not finding.supported]
    silent = declines(answer)
    strange = 0.0 if silent else 1 - familiar(answer, f"{source}\n{reference}")
    evidence = "; ".join(f"{f.atom.kind} “{f.atom.text}” ({f.verdict.rule}): {f.sentence[:200]}" for f in wrong)
    if strange > 1 - LEAST_FAMILIAR:
        evidence = "; ".join(
            filter(None, [evidence, f"{strange:.0%} of its words occur in neither note nor instruction"])
        )
    answerable = not (question.reference and SAYS_ABSENT.search(question.reference))
    verdict = Verdict(
        incorrect=bool(evidence),
        omitted=omitted(reference, answer),
        answerable=answerable,
        recognised=silent != answerable,
    )
    return verdict, evidence


def declines(text: str) -> bool:
    """Report whether an answer does no more than to say that the note does not contain what is asked."""
    return bool(SAYS_ABSENT.search(text)) and len(text.split()) < LONGEST_REFUSAL


def content(text: str) -> set[str]:
    """Stems of the words that carry meaning, including numbers."""
    return {stem for stem in stems(text) if (len(stem) > 2 or stem.isdigit()) and stem not in EMPTY}


def familiar(answer: str, source: str) -> float:
    """Share of an answer's content words that occur in the source; 0 for an empty answer."""
    words = content(answer)
    return len(words & content(source)) / len(words) if words else 0.0


def omitted(reference: str, answer: str) -> str:
    if not reference:
        return "nothing" if answer.strip() else "significant"
    wanted = content(reference)
    missing = len(wanted - content(answer)) / len(wanted) if wanted else 0.0
    if missing < LEAST_MINOR:
        return "nothing"
    return "minor" if missing < LEAST_SIGNIFICANT else "significant"
