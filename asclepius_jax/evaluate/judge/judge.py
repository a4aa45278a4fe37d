"""Judge answers with a model behind an endpoint, with one or several votes, or with the rules of `faithfulness`.

    asclepius evaluate judge --questions evaluation/questions --answers evaluation/answers \\
        --out evaluation/judged/gpt --name gpt --base-url https://api.openai.com/v1 --model gpt-4o --votes 3

The ledger OUT.ledger.sqlite stores each request and reply. A request whose reply cannot be read is retried once. If
that fails too, the verdict is missing, which is counted and never a score.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from asclepius_jax.evaluate.answers.answers import (
    answers_hash,
    check_may_send,
    content_of_questions,
    found_folders,
    read_answers,
)
from asclepius_jax.evaluate.judge import prompts
from asclepius_jax.evaluate.judge.by_rule import RULES, by_rules
from asclepius_jax.evaluate.judge.rubric import score
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Judgement, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import seeded_fraction, text_hash
from data_prep.execution.progress import say
from data_prep.synthesize.stage import ShardsConfig, Stage, check_shards, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling
from data_prep.teachers.json_replies import ATTEMPTS, ask_until_read, is_dry_run, usable


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
    """Number of verdicts per answer; the median of their scores counts. The options of each question (in listwise
    mode: the answers) change their order with each vote."""

    mode: Literal["pointwise", "listwise"] = "pointwise"
    """Protocol of the judge. pointwise: questions about one answer at a time. listwise: scores for all answers to a
    question at once, in balanced orders, as in the Asclepius paper."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(
        default_factory=lambda: TeacherConfig(teacher="openai", temperature=0.0, max_tokens=1024)
    )
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    allow_remote: str = ""
    """Host name of an endpoint inside your institution to which real (restricted) notes may be sent; empty sends
    them nowhere."""

    seed: int = 0
    """Random seed sent with the requests, also used for the order of answers in listwise mode."""


@dataclass(frozen=True)
class Item:
    """A question with the answers that are judged together, either one or all."""

    id: str
    question: Question
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class JudgePointwise:
    """Asynchronous task that judges one answer."""

    judge: str
    votes: int
    seed: int
    structured: bool

    async def __call__(self, item: Item, teacher: Teacher) -> list[Any]:
        (answer,) = item.answers
        return [await self.vote(item.question, answer, vote, teacher) for vote in range(self.votes)]

    async def vote(self, question: Question, answer: Answer, vote: int, teacher: Teacher) -> Judgement:
        missing = Judgement(question.id, answer.model, self.judge, vote, score=0)
        if answer.finish_reason in NO_ANSWER:
            return replace(missing, problem=f"no answer: {answer.text[:200]}")
        messages = prompts.pointwise_messages(question.note, question.instruction, answer.text, vote)
        # The name contains the answer's text, not its model, so that identical answers are judged once and alike.
        name = f"{question.id} {text_hash(answer.text)}"
        seed = request_seed(self.seed, f"judge {vote}", name)
        request = Request("judge", name, messages, seed=seed, prompt_hash=prompts.HASH, sample=vote)
        if self.structured:
            request = replace(request, schema=prompts.SCHEMA)
        read, problem = await ask_until_read(teacher, request, self.votes, prompts.read_verdict)
        if read is None:
            return replace(missing, problem=problem)
        verdict, evidence = read
        return replace(missing, score=score(verdict), **asdict(verdict), evidence=evidence)


@dataclass(frozen=True)
class JudgeListwise:
    """Asynchronous task that judges all answers to one question.

    The answers start in a seeded order and are rotated by one position with each vote."""

    judge: str
    votes: int
    seed: int

    async def __call__(self, item: Item, teacher: Teacher) -> list[Any]:
        given = tuple(answer for answer in item.answers if answer.finish_reason not in NO_ANSWER)
        missing = [
            Judgement(item.question.id, answer.model, self.judge, vote, 0, problem=f"no answer: {answer.text[:200]}")
            for vote in range(self.votes)
            for answer in item.answers
            if answer not in given
        ]
        votes = range(self.votes if given else 0)
        judged = [j for vote in votes for j in await self.vote(replace(item, answers=given), vote, teacher)]
        return judged + missing

    async def vote(self, item: Item, vote: int, teacher: Teacher) -> list[Judgement]:
        count = len(item.answers)
        start = int(seeded_fraction(self.seed, "order", item.question.id) * count) + vote
        order = [(start + place) % count for place in range(count)]
        texts = [item.answers[place].text for place in order]
        messages = prompts.listwise_messages(item.question.note, item.question.instruction, texts)
        seed = request_seed(self.seed, f"judge {vote}", item.id)
        request = Request("judge", item.id, messages, seed=seed, prompt_hash=prompts.HASH, sample=vote)
        scores, problem = [0] * count, ""
        for attempt in range(ATTEMPTS):
            reply = await teacher.ask(replace(request, seed=seed + attempt, sample=vote + self.votes * attempt))
            try:
                scores = prompts.read_scores(usable(reply), count)
                problem = "" if all(scores) else f"no score from 1 to 4: {reply.text[:200]}"
            except ValueError as error:
                problem = f"{error}: {reply.text[:200]}"
            if not problem or is_dry_run(reply):
                break
        return [
            Judgement(
                question_id=item.question.id,
                model=item.answers[place].model,
                judge=self.judge,
                vote=vote,
                score=given,
                incorrect=given == 1,
                problem="" if given else problem,
            )
            for place, given in zip(order, scores, strict=True)
        ]


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
    warnings = [] if rules else kinship(teacher.model, places_of(config.answers, answers))
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
    items: Any = items_of(questions, answers, together=rules or config.mode == "listwise")
    total = len(questions) * (1 if rules or config.mode == "listwise" else len(answers))
    stage = Stage("judgements", Judgement, config.out, teacher, config.shards, inputs, facts, total)
    tally: Counter[str] = Counter()
    first_problem: list[str] = []

    def count(judgement: Any) -> None:
        tally["missing" if judgement.problem else "read"] += 1
        if judgement.problem and not first_problem:
            first_problem.append(judgement.problem)

    manifest = run_stage(stage, work, items, count)
    if tally["missing"]:
        summary = (
            f"{tally['missing']} of {tally.total()} verdicts are missing; the first reason was: {first_problem[0]}"
        )
        if not tally["read"]:
            remedy = "check the answers" if first_problem[0].startswith("no answer") else "choose another judge"
            raise UserError(f"judge {name}: {summary}; no verdict could be read: {remedy}")
        say(f"judge {name}: {summary}")
    return manifest


def items_of(questions: list[Question], answers: dict[str, dict[str, Answer]], together: bool) -> Iterator[Item]:
    for question in questions:
        given = tuple(answers[model][question.id] for model in sorted(answers))
        if together:
            yield Item(question.id, question, given)
        else:
            yield from (Item(f"{question.id} {answer.model}", question, (answer,)) for answer in given)


# Names with another meaning in tables.
RESERVED = {"clinicians": "the raters", "jury": "all judges together"}
FAMILIES = ("gpt", "claude", "gemini", "gemma", "llama", "mistral", "mixtral", "qwen", "deepseek", "phi", "smollm")


def family(name: str) -> str:
    return next((known for known in FAMILIES if re.search(known, name, re.IGNORECASE)), "")


def places_of(folders: Iterable[Path], models: Iterable[str]) -> dict[str, str]:
    """Origin of each model by its name in the evaluation: its name at the endpoint or its folder's name."""
    places = dict.fromkeys(models, "")
    for folder in found_folders(list(folders)):
        spec = read_manifest(folder, "answers").get("model")
        if isinstance(spec, dict) and spec["name"] in places:
            places[spec["name"]] = Path(spec["place"]).name
    return places


def kinship(judge: str, models: Mapping[str, str]) -> list[str]:
    """Warning if names or origins show that the judge belongs to the family of a judged model, which it may favour."""
    own = family(judge)
    kin = [model for model, place in models.items() if own and own in (family(model), family(place))]
    return [f"{judge} is of the same family as {', '.join(kin)}, and judges favour their own family"] if kin else []
