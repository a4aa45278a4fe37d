"""Judge answers with a model behind an endpoint, with one or several votes, or with the rules of `faithfulness`.

    asclepius evaluate judge --questions evaluation/questions --answers evaluation/answers \\
        --out evaluation/judged/gpt --name gpt --base-url https://api.openai.com/v1 --model gpt-4o --votes 3

The ledger OUT.ledger.sqlite stores each request and reply. A request whose reply cannot be read, or whose evidence
cannot be found in note and answer, is retried once, with more room if the reply was cut off. If that fails too, the
verdict is missing, which is counted and never a score.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from asclepius_jax.evaluate.answers.answers import (
    answers_hash,
    check_may_send,
    content_of_questions,
    read_answers,
)
from asclepius_jax.evaluate.judge.asking import prompts
from asclepius_jax.evaluate.judge.asking.orders import answer_orders, option_orders, turns_of
from asclepius_jax.evaluate.judge.asking.required import required_content
from asclepius_jax.evaluate.judge.asking.verdict_replies import Quotable, read_scores, read_verdict
from asclepius_jax.evaluate.judge.by_rule import RULES, by_rules
from asclepius_jax.evaluate.judge.kinship import kinship, origins_of, teachers_of
from asclepius_jax.evaluate.judge.position_bias import position_bias
from asclepius_jax.evaluate.judge.rubric import score
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Judgement, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.contract.records import text_hash
from data_prep.execution.progress import say
from data_prep.execution.shards import ShardsConfig, check_shards
from data_prep.synthesize.stage import Stage, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling
from data_prep.teachers.json_replies import ask_until_read


@dataclass(frozen=True)
class JudgeConfig:
    questions: Path
    """Finished folder of questions."""

    answers: tuple[Path, ...]
    """Folders of answers, or folders that contain such folders."""

    out: Path
    """Output folder for the judgements. Use one folder per judge."""

    name: str = ""
    """Name of the judge in tables; empty for that of --model. --model rules judges by rule, without a chat model."""

    votes: int = 1
    """Number of verdicts per answer; the mean of their scores and the majority of their flags count. The options of
    each question (in listwise mode: the answers) change their order with each vote."""

    mode: Literal["pointwise", "listwise"] = "pointwise"
    """Protocol of the judge. pointwise: questions about one answer at a time. listwise: scores for all answers to a
    question at once, in balanced orders, as in the Asclepius paper."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(
        default_factory=lambda: TeacherConfig(teacher="openai", temperature=0.0, max_tokens=2048)
    )
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    allow_remote: str = ""
    """Host name of an endpoint inside your institution to which real (restricted) notes may be sent; empty sends
    them nowhere."""

    seed: int = 0
    """Random seed sent with the requests, also used for the orders of options and answers."""


@dataclass(frozen=True)
class Item:
    """A question with the answers that are judged together, either one or all."""

    id: str
    question: Question
    answers: tuple[Answer, ...]
    turn: int = 0  # where the question's orders of options or answers start, see `turns_of`


@dataclass(frozen=True)
class JudgePointwise:
    """Asynchronous task that judges one answer.

    All answers to a question are judged with the options in the same orders, so that these do not favour a model."""

    judge: str
    votes: int
    seed: int
    structured: bool

    async def __call__(self, item: Item, teacher: Teacher) -> list[Any]:
        (answer,) = item.answers
        required = required_content(item.question)
        return [await self.vote(item, answer, vote, required, teacher) for vote in range(self.votes)]

    async def vote(
        self, item: Item, answer: Answer, vote: int, required: list[str] | None, teacher: Teacher
    ) -> Judgement:
        question, orders = item.question, option_orders(item.turn, vote)
        missing = Judgement(question.id, answer.model, self.judge, vote, score=0, order=json.dumps(orders))
        missing = replace(missing, seed=answer.seed, variant_of=answer.variant_of)
        if answer.finish_reason in NO_ANSWER:
            return replace(missing, problem=f"no answer: {answer.text[:200]}")
        # The name contains the answer's text, not its model, so that identical answers are judged once and alike.
        name = f"{question.id} {text_hash(answer.text)}"
        key = f"{self.seed} {vote} {name}"
        messages = prompts.pointwise_messages(question, answer.text, orders, required, key)
        seed = request_seed(self.seed, f"judge {vote}", name)
        request = Request("judge", name, messages, seed=seed, prompt_hash=prompts.HASH, sample=vote)
        if self.structured:
            request = replace(request, schema=prompts.SCHEMA)
        quotable = Quotable(answer.text, "\n".join([question.note, *(required or ())]))
        read, problem = await ask_until_read(teacher, request, self.votes, lambda text: read_verdict(text, quotable))
        if read is None:
            return replace(missing, problem=problem)
        verdict, evidence = read
        return replace(missing, score=score(verdict), **asdict(verdict), evidence=evidence)


@dataclass(frozen=True)
class JudgeListwise:
    """Asynchronous task that judges all answers to one question, in another of their `answer_orders` with each vote."""

    judge: str
    votes: int
    seed: int

    async def __call__(self, item: Item, teacher: Teacher) -> list[Any]:
        given = given_answers(item.answers)
        missing = [
            Judgement(item.question.id, answer.model, self.judge, vote, 0, problem=f"no answer: {answer.text[:200]}")
            for vote in range(self.votes)
            for answer in item.answers
            if answer not in given
        ]
        required = required_content(item.question)
        votes = range(self.votes if given else 0)
        judged = [j for vote in votes for j in await self.vote(replace(item, answers=given), vote, required, teacher)]
        return judged + missing

    async def vote(self, item: Item, vote: int, required: list[str] | None, teacher: Teacher) -> list[Judgement]:
        count, question = len(item.answers), item.question
        orders = answer_orders(count)
        ordered = [item.answers[place] for place in orders[(item.turn * self.votes + vote) % len(orders)]]
        texts = [answer.text for answer in ordered]
        key = f"{self.seed} {vote} {item.id}"
        messages = prompts.listwise_messages(question, texts, required, key)
        seed = request_seed(self.seed, f"judge {vote}", item.id)
        request = Request("judge", item.id, messages, seed=seed, prompt_hash=prompts.HASH, sample=vote)
        scores = [0] * count

        def read(text: str) -> None:
            scores[:] = read_scores(text, count)  # some are of use, also if the retry does not give all
            if not all(scores):
                raise ValueError("an answer has no score from 1 to 4")

        _, problem = await ask_until_read(teacher, request, self.votes, read)
        order = json.dumps([answer.model for answer in ordered], ensure_ascii=False)
        return [
            Judgement(
                question_id=question.id,
                model=answer.model,
                judge=self.judge,
                vote=vote,
                score=given,
                incorrect=given == 1,
                problem="" if given else problem,
                order=order,
            )
            for answer, given in zip(ordered, scores, strict=True)
        ]


def given_answers(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    return tuple(answer for answer in answers if answer.finish_reason not in NO_ANSWER)


@dataclass(frozen=True)
class JudgeByRules:
    judge: str

    async def __call__(self, item: Item, teacher: Teacher) -> list[Any]:
        return [by_rules(item.question, answer, self.judge) for answer in item.answers]


# ---------------------------------------------------------------- the run


def run(config: JudgeConfig) -> dict[str, Any]:
    """Write the folder of judgements and return its manifest. Raises UserError for invalid options or no verdicts."""
    if config.votes < 1:
        raise UserError(f"--votes {config.votes}: must be at least 1")
    check_shards(config.shards)
    rules = config.teacher.model == RULES
    teacher = replace(config.teacher, teacher="offline" if rules else "openai")
    if not teacher.model:
        raise UserError("--model is missing: give the judge's model name at the endpoint, or --model rules")
    name = config.name or teacher.model
    if name in RESERVED:
        raise UserError(f"--name {name}: tables use this name for {RESERVED[name]}; choose another")
    questions = list(read_records(config.questions, "questions", Question))
    check_may_send(questions, teacher, config.allow_remote)
    check_teacher(teacher)
    answers = read_answers(config.answers, config.questions)
    further = next((a.model for given in answers.values() for a in given.values() if a.variant_of), "")
    if further and config.mode == "listwise" and not rules:
        raise UserError(
            f"--mode listwise: {further} is a further sample of a model, and a list compares models; give --answers "
            "folders of one seed, or judge pointwise"
        )
    warnings = [] if rules else kinship(teacher.model, origins_of(config.answers, answers), teachers_of(questions))
    for warning in warnings:
        say(f"judge {name}: {warning}")
    work: Any
    if rules:
        work = JudgeByRules(name)
    elif config.mode == "pointwise":
        work = JudgePointwise(name, config.votes, config.seed, teacher.structured)
    else:
        work = JudgeListwise(name, config.votes, config.seed)
    inputs = {
        str(config.questions): content_of_questions(config.questions),
        "answers": answers_hash(answers),
    }
    facts = {
        "judge": name,
        "mode": "rules" if rules else config.mode,
        "votes": 1 if rules else config.votes,
        "prompt": "" if rules else prompts.HASH,
        "teacher": sampling(teacher),
        "models": sorted(answers),
        "warnings": warnings,
    }
    items: Any = items_of(questions, answers, rules or config.mode == "listwise", config.seed)
    total = len(questions) * (1 if rules or config.mode == "listwise" else len(answers))
    settings = "evaluate judge", config
    stage = Stage("judgements", Judgement, config.out, teacher, config.shards, inputs, facts, total, settings=settings)
    judged: list[Judgement] = []
    manifest = run_stage(stage, work, items, judged.append)
    if config.shards.part:
        return manifest  # the join sees all verdicts
    check_verdicts(name, judged)
    bias = position_bias(judged, {question.id: question.cluster for question in questions})
    if bias["warning"]:
        say(f"judge {bias['warning']}")
    return manifest


def check_verdicts(name: str, judged: Iterable[Judgement]) -> None:
    """Print how many verdicts are missing. Raises UserError if all are."""
    problems = [judgement.problem for judgement in judged]
    missing = [problem for problem in problems if problem]
    if not missing:
        return
    summary = f"{len(missing)} of {len(problems)} verdicts are missing; the first reason was: {missing[0]}"
    if len(missing) == len(problems):
        remedy = "check the answers" if missing[0].startswith("no answer") else "choose another judge"
        raise UserError(f"judge {name}: {summary}; no verdict could be read: {remedy}")
    say(f"judge {name}: {summary}")


def items_of(
    questions: list[Question], answers: dict[str, dict[str, Answer]], together: bool, seed: int = 0
) -> Iterator[Item]:
    """The questions with their answers, without citations.

    A judge sees the note without numbers. It would take them for facts, or prefer the answers that have some.
    """
    lists = {
        question.id: tuple(plain(answers[model][question.id]) for model in sorted(answers)) for question in questions
    }
    # Lists of different models have orders of their own, which are balanced among these lists.
    groups = {name: tuple(answer.model for answer in given_answers(lists[name])) if together else () for name in lists}
    turns = turns_of(groups.items(), seed)
    for question in questions:
        turn = turns[question.id]
        if together:
            yield Item(question.id, question, lists[question.id], turn)
        else:
            for answer in lists[question.id]:
                yield Item(f"{question.id} {answer.model}", question, (answer,), turn)


def plain(answer: Answer) -> Answer:
    return answer if answer.finish_reason in NO_ANSWER else replace(answer, text=without_citations(answer.text))


# Names with another meaning in tables.
RESERVED = {"clinicians": "the raters", "jury": "all judges together"}
