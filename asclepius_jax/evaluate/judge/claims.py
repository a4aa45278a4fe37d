"""Check answers claim by claim: a chat model splits each answer into claims and compares each claim with the note.

    asclepius evaluate claims --questions evaluation/questions --answers evaluation/answers \\
        --out evaluation/claims --model gpt-4o

A chat model recognises paraphrases and conclusions, which the rules of `faithfulness` do not, but makes other errors.
The report shows both. There are two readings. Strict: only claims that the note states are supported. Inference-aware:
claims that follow from the note are supported as well.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from asclepius_jax.evaluate.answers.answers import answers_hash, check_may_send, content_of_questions, read_answers
from asclepius_jax.evaluate.judge.asking.prompts import MATERIAL, SYSTEM, enclosed, fields_of, mark_of, messages
from asclepius_jax.evaluate.judge.judge import Item, items_of
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, read_records
from asclepius_jax.evaluate.statistics.estimates import SHARE, mean, rate
from data_prep.contract.errors import UserError
from data_prep.contract.records import text_hash
from data_prep.execution.progress import say
from data_prep.execution.shards import ShardsConfig, check_shards
from data_prep.synthesize.second_reader.verdicts import MisquoteError, evidence_in, items_in
from data_prep.synthesize.stage import Stage, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling
from data_prep.teachers.json_replies import ask_until_read

# Each verdict, and whether it counts only with a quotation from the note.
VERDICTS = {"stated": True, "follows": False, "contradicted": True, "absent": False}
PROMPT = (
    """\
Below are a clinical note, an instruction about it, and an answer. """
    + MATERIAL.replace("{mark}", "\0m")
    + """ Split the answer into claims, the smallest \
statements about the patient that can each be true or false on their own. Skip text that only repeats the instruction \
or says that the note does not state something. For each claim, choose how the note relates to it:

- stated: the note says it, in the same or in other words
- follows: the note does not say it, but a clinician can conclude it from the note alone
- contradicted: the note says the opposite or something incompatible
- absent: none of these

Reply with one JSON object and nothing else:
{"claims": [{"claim": "...", "note": "stated, follows, contradicted or absent", "quote": "the note's words, or empty"}]}

\0n

\0i

\0a

JSON:"""
)
HASH = text_hash(SYSTEM, PROMPT)


@dataclass(frozen=True)
class Claim:
    question_id: str
    model: str
    claim: str
    verdict: str  # one of VERDICTS; empty if it could not be read or verified, or the answer makes no claim
    quote: str = ""
    problem: str = ""  # why there is no verdict; empty if there is one, or no claim


@dataclass(frozen=True)
class ClaimsConfig:
    questions: Path
    """Finished folder of questions."""

    answers: tuple[Path, ...]
    """Folders of answers, or folders that contain such folders."""

    out: Path
    """Output folder for the claims."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(
        default_factory=lambda: TeacherConfig(teacher="openai", temperature=0.0)
    )
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    allow_remote: str = ""
    """Host name of an endpoint inside your institution to which real (restricted) notes may be sent; empty sends
    them nowhere."""

    seed: int = 0
    """Random seed sent with the requests."""


@dataclass(frozen=True)
class CheckClaims:
    """Asynchronous task that checks one answer."""

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
        name = f"{question.id} {text_hash(answer.text)}"
        mark = mark_of((question.note, question.instruction, answer.text), f"{self.seed} {name}")
        fields = fields_of(question.note, question.instruction, None, mark)
        fields |= {"\0a": enclosed("answer", answer.text, mark), "\0m": mark}
        seed = request_seed(self.seed, "claims", name)
        request = Request("claims", name, messages(PROMPT, fields), seed=seed, prompt_hash=HASH)
        claims, problem = await ask_until_read(
            teacher, request, 1, lambda text: read_claims(text, missing, question.note)
        )
        if claims is None:
            return [replace(missing, problem=problem)]
        return claims or [missing]


def read_claims(text: str, blank: Claim, note: str) -> list[Claim]:
    """Claims in a reply, as copies of `blank`; a claim with a quotation that is not in the note has no verdict.

    Raises ValueError with the reason if the reply cannot be read.
    """
    claims = []
    for item in items_in(text, "claims"):
        claim = str(item.get("claim") or "").strip() if isinstance(item, dict) else ""
        if not claim:
            raise ValueError(f"invalid claim {json.dumps(item, ensure_ascii=False)[:100]}")
        try:
            evidence = evidence_in(item, "note", VERDICTS, note)
            claims.append(replace(blank, claim=claim, verdict=evidence.verdict, quote=evidence.quote))
        except MisquoteError as error:
            claims.append(replace(blank, claim=claim, problem=str(error)))
    return claims


def run(config: ClaimsConfig) -> dict[str, Any]:
    """Write the folder of claims and return its manifest. Raises UserError for invalid options or unusable replies."""
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
    settings = "evaluate claims", config
    stage = Stage("claims", Claim, config.out, teacher, config.shards, inputs, facts, total, settings=settings)
    problems: list[str] = []
    misquoted: list[str] = []

    def count(claim: Any) -> None:
        if claim.problem:
            (misquoted if claim.claim else problems).append(claim.problem)

    items: Any = items_of(questions, answers, together=False)
    manifest = run_stage(stage, work, items, count)
    if problems:
        summary = f"{len(problems)} of {total} answers could not be checked; the first reason was: {problems[0]}"
        if len(problems) == total:
            raise UserError(f"claims: {summary}; choose another model")
        say(f"claims: {summary}")
    if misquoted:
        say(f"claims: {len(misquoted)} claims have no verdict; the first reason was: {misquoted[0]}")
    return manifest


# ---------------------------------------------------------------- figures


def figures_of(claims: Iterable[Claim], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Number of claims by verdict, and the mean share of an answer's claims that are unsupported, for each model."""
    by_model: dict[str, dict[str, list[Claim]]] = {}
    for claim in claims:
        if claim.question_id not in questions:
            raise UserError(f"--claims contains {claim.question_id}, which is not among the questions")
        by_model.setdefault(claim.model, {}).setdefault(claim.question_id, []).append(claim)
    return {model: model_figures(by_question, questions) for model, by_question in by_model.items()}


def model_figures(by_question: Mapping[str, Sequence[Claim]], questions: Mapping[str, Question]) -> dict[str, Any]:
    units = [questions[name].cluster for name in by_question]

    def share(*wrong: str) -> list[float | None]:
        """Share of each answer's claims with these verdicts; None if it has no claims or could not be read."""
        shares = []
        for claims in by_question.values():
            verdicts = [claim.verdict for claim in claims if claim.verdict]
            shares.append(sum(v in wrong for v in verdicts) / len(verdicts) if verdicts else None)
        return shares

    every = [claim for claims in by_question.values() for claim in claims]
    unsupported = share("contradicted", "absent")
    return {
        "answers": len(by_question),
        "missing": sum(bool(claim.problem and not claim.claim) for claim in every),
        "misquoted": sum(bool(claim.problem and claim.claim) for claim in every),
        "verdicts": {verdict: sum(claim.verdict == verdict for claim in every) for verdict in VERDICTS},
        "strict": asdict(mean(share("follows", "contradicted", "absent"), units, SHARE)),
        "inference_aware": asdict(mean(unsupported, units, SHARE)),
        "answers_with_unsupported": asdict(rate([None if v is None else v > 0 for v in unsupported], units)),
        "examples": [
            {"question_id": claim.question_id, "claim": claim.claim, "verdict": claim.verdict, "quote": claim.quote}
            for claim in every
            if claim.verdict in ("contradicted", "absent") and not questions[claim.question_id].restricted
        ][:3],
    }
