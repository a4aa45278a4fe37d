"""Answers claim by claim: a chat model splits each into what can be true or false, and says what the note says to it.

    asclepius evaluate claims --questions evaluation/questions --answers evaluation/answers \\
        --out evaluation/claims --model gpt-4o

It sees paraphrase and conclusion, which the rules of `faithfulness` do not, and errs in other ways: the report shows
both.
Two readings: strict, in which only what the note states is supported, and inference-aware, in which what follows from
it is too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from asclepius_jax.evaluate.answers.answers import answers_hash, check_may_send, content_of_questions, read_answers
from asclepius_jax.evaluate.judge.judge import Item, ask_until_read, items_of
from asclepius_jax.evaluate.judge.prompts import SYSTEM, json_in, messages
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, read_records
from asclepius_jax.evaluate.statistics.estimates import mean, rate
from data_prep.contract.errors import UserError
from data_prep.contract.records import text_hash
from data_prep.execution.progress import say
from data_prep.synthesize.stage import ShardsConfig, Stage, check_shards, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling

VERDICTS = ("stated", "follows", "contradicted", "absent")
PROMPT = """\
Below are a clinical note, an instruction about it, and an answer. Split the answer into its claims: the smallest \
statements about the patient that can each be true or false by themselves. Leave out what only repeats the \
instruction, and what says that the note is silent. For each claim say what the note says to it:

- stated: the note says it, in these or in other words
- follows: the note does not say it, and a clinician can conclude it from the note alone
- contradicted: the note says otherwise
- absent: neither

Reply with one JSON object and nothing else:
{"claims": [{"claim": "...", "note": "stated, follows, contradicted or absent", "quote": "the note's words, or empty"}]}

Note:
\0n

Instruction:
\0i

Answer:
\0a

JSON:"""
HASH = text_hash(SYSTEM, PROMPT)


@dataclass(frozen=True)
class Claim:
    question_id: str
    model: str
    claim: str
    verdict: str  # one of VERDICTS; empty where the reply could not be read, or the answer makes no claim
    quote: str = ""
    problem: str = ""  # why it could not be read


@dataclass(frozen=True)
class ClaimsConfig:
    questions: Path
    """A finished folder of questions."""

    answers: tuple[Path, ...]
    """Folders of answers, or folders of such folders."""

    out: Path
    """The folder of claims to write."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(
        default_factory=lambda: TeacherConfig(teacher="openai", temperature=0.0)
    )
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    allow_remote: str = ""
    """With questions on real notes: the endpoint's host, which must be one of your own."""

    seed: int = 0


@dataclass(frozen=True)
class CheckClaims:
    """The work on one answer."""

    seed: int

    async def __call__(self, item: Item, teacher: Teacher) -> list[Any]:
        (answer,) = item.answers
        return await self.claims(item.question, answer, teacher)

    async def claims(self, question: Question, answer: Answer, teacher: Teacher) -> list[Claim]:
        missing = Claim(question.id, answer.model, "", "")
        if answer.finish_reason in NO_ANSWER:
            return [replace(missing, problem=f"no answer: {answer.text[:200]}")]
        if not answer.text.strip():
            return [missing]
        fields = {"\0n": question.note.strip(), "\0i": question.instruction.strip(), "\0a": answer.text.strip()}
        name = f"{question.id} {text_hash(answer.text)}"
        seed = request_seed(self.seed, "claims", name)
        request = Request("claims", name, messages(PROMPT, fields), seed=seed, prompt_hash=HASH)
        told, problem = await ask_until_read(teacher, request, 1, lambda text: read_claims(text, missing))
        if told is None:
            return [replace(missing, problem=problem)]
        return told or [missing]


def read_claims(text: str, of: Claim) -> list[Claim]:
    """The claims in a reply; ValueError with the reason where it cannot be read."""
    told = json_in(text).get("claims")
    if not isinstance(told, list):
        raise ValueError("no list of claims")
    claims = []
    for item in told:
        verdict = str(item.get("note", "")).strip().strip(".").lower() if isinstance(item, dict) else ""
        if verdict not in VERDICTS or not str(item.get("claim", "")).strip():
            raise ValueError(f"a claim is {json.dumps(item, ensure_ascii=False)[:100]}")
        claims.append(
            replace(of, claim=str(item["claim"]).strip(), verdict=verdict, quote=str(item.get("quote") or ""))
        )
    return claims


def run(config: ClaimsConfig) -> dict[str, Any]:
    """Write the folder of claims; its manifest. UserError for what the caller can mend."""
    check_shards(config.shards)
    teacher = replace(config.teacher, teacher="openai")
    questions = list(read_records(config.questions, "questions", Question))
    check_may_send(questions, teacher, config.allow_remote)
    check_teacher(teacher)
    answers = read_answers(config.answers, config.questions)
    inputs = {str(config.questions): content_of_questions(config.questions), "answers": answers_hash(answers)}
    facts = {"checker": teacher.model, "prompt": HASH, "teacher": sampling(teacher), "models": sorted(answers)}
    work: Any = CheckClaims(config.seed)
    total = len(questions) * len(answers)
    stage = Stage("claims", Claim, config.out, teacher, config.shards, inputs, facts, total)
    problems: list[str] = []

    def count(claim: Any) -> None:
        if claim.problem:
            problems.append(claim.problem)

    items: Any = items_of(questions, answers, together=False)
    made = run_stage(stage, work, items, count)
    if problems:
        told = f"{len(problems)} of {total} answers were not read, the first one since: {problems[0]}"
        if len(problems) == total:
            raise UserError(f"claims: {told}; choose another model")
        say(f"claims: {told}")
    return made


# ---------------------------------------------------------------- figures


def figures_of(claims: Iterable[Claim], questions: Mapping[str, Question]) -> dict[str, Any]:
    """For each model: the claims by verdict, and the mean share of an answer's claims that are not supported."""
    of_model: dict[str, dict[str, list[Claim]]] = {}
    for claim in claims:
        if claim.question_id not in questions:
            raise UserError(f"claims of an answer to {claim.question_id}, which is not among the questions")
        of_model.setdefault(claim.model, {}).setdefault(claim.question_id, []).append(claim)
    return {model: of_answers(mine, questions) for model, mine in of_model.items()}


def of_answers(mine: Mapping[str, Sequence[Claim]], questions: Mapping[str, Question]) -> dict[str, Any]:
    notes = [questions[name].note_id for name in mine]

    def share(*wrong: str) -> list[float | None]:
        """Of each answer's claims; None where there is none, or it could not be read."""
        shares = []
        for claims in mine.values():
            verdicts = [claim.verdict for claim in claims if claim.verdict]
            shares.append(sum(v in wrong for v in verdicts) / len(verdicts) if verdicts else None)
        return shares

    every = [claim for claims in mine.values() for claim in claims]
    unsupported = share("contradicted", "absent")
    return {
        "answers": len(mine),
        "missing": sum(bool(claim.problem) for claim in every),
        "verdicts": {verdict: sum(claim.verdict == verdict for claim in every) for verdict in VERDICTS},
        "strict": asdict(mean(share("follows", "contradicted", "absent"), notes)),
        "inference_aware": asdict(mean(unsupported, notes)),
        "answers_with_unsupported": asdict(rate([None if value is None else value > 0 for value in unsupported])),
        "examples": [
            {"question_id": claim.question_id, "claim": claim.claim, "verdict": claim.verdict, "quote": claim.quote}
            for claim in every
            if claim.verdict in ("contradicted", "absent")
        ][:3],
    }
