"""Every model's answers to every question; each model's in a folder of its own.

    asclepius evaluate answers --questions evaluation/questions --out evaluation/answers \\
        --models ours=hf:models/mine base=hf:models/base gpt=endpoint:gpt-4o rules=offline:

What was answered is kept at once: of a local model in OUT/NAME.partial.jsonl, of an endpoint in its ledger. A run that
is started again goes on where it ended; a model whose folder is finished is not asked again, unless its weights, the
questions or the settings are others, or requests failed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from asclepius_jax.evaluate.answers.models import Decoding, ModelSpec, content_of, load_model, parse_spec
from asclepius_jax.evaluate.questions.prompt_formats import CHAT, as_messages, as_text, check_format
from asclepius_jax.evaluate.records import Answer, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, read_manifest, writing_folder
from data_prep.contract.records import TASKS, text_hash
from data_prep.execution.progress import say
from data_prep.synthesize.stage import ShardsConfig, Stage, check_shards, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling
from data_prep.teachers.endpoint.allowed_hosts import why_not_send


@dataclass(frozen=True)
class AnswersConfig:
    questions: Path
    """A finished folder of questions."""

    models: tuple[str, ...]
    """NAME=hf:FOLDER, NAME=checkpoint:RUN, NAME=untrained:FOLDER, NAME=endpoint:MODEL, NAME=offline: or
    NAME=reference:, as many as are compared."""

    out: Path
    """The folder in which each model gets a folder NAME; one that stands there finished is left as it is."""

    decoding: Decoding = field(default_factory=Decoding)
    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(default_factory=TeacherConfig)
    """Where endpoint models are; --teacher and --model follow from --models."""
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    allow_remote: str = ""
    """With questions on real notes: the endpoint's host, which must be one of your own."""


def run(config: AnswersConfig) -> None:
    """UserError for what the caller can mend."""
    specs = [parse_spec(text) for text in config.models]
    twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
    if twice:
        raise UserError(f"--models names {twice[0]} twice")
    if config.decoding.batch < 1 or config.decoding.max_new_tokens < 1 or config.decoding.temperature < 0:
        raise UserError("--decoding.batch and --decoding.max-new-tokens must be above 0, the temperature not below it")
    check_format(config.decoding.prompt_format)
    check_shards(config.shards)
    questions = list(read_records(config.questions, "questions", Question))[: config.shards.limit or None]
    content = content_of_questions(config.questions)
    teachers = {spec.name: teacher_of(config, spec) for spec in specs if spec.kind in ("endpoint", "offline")}
    for asked in teachers.values():
        check_may_send(questions, asked, config.allow_remote)
        check_teacher(asked)
    for spec in specs:
        out, teacher = config.out / spec.name, teachers.get(spec.name)
        facts = {"model": asdict(spec), "weights": content_of(spec), "decoding": asdict(config.decoding)}
        if teacher:
            facts["teacher"] = sampling(teacher)
        if (out / MANIFEST).is_file() and is_same(read_manifest(out, "answers"), content, facts, len(questions)):
            say(f"answers of {spec.name}: finished before -> {out}")
        elif teacher:
            ask_teacher(config, spec, teacher, questions, (content, facts))
        else:
            ask_local(config, spec, questions, (content, facts))


def content_of_questions(folder: Path) -> str:
    return text_hash(*(file["sha256"] for file in read_manifest(folder, "questions")["files"]))


def is_same(manifest: dict[str, Any], content: str, facts: dict[str, Any], count: int) -> bool:
    failed = "error" in manifest.get("finish_reasons", {})
    same = list(manifest["inputs"].values()) == [content] and all(manifest.get(k) == v for k, v in facts.items())
    return same and manifest["out"] == count and not failed


def check_may_send(questions: Sequence[Question], teacher: TeacherConfig, allow_remote: str) -> None:
    """Before anything is sent: UserError for a question on a real note that may not go to the endpoint."""
    restricted = next((question.id for question in questions if question.restricted), None)
    if restricted and teacher.teacher != "offline" and (why := why_not_send(teacher.base_url, allow_remote)):
        raise UserError(f"question {restricted} stands on a real note: {why}")


# ---------------------------------------------------------------- endpoints, and the teacher that works by rule


@dataclass(frozen=True)
class Ask:
    """The work on one question."""

    model: str
    prompt_format: str
    seed: int

    async def __call__(self, question: Question, teacher: Teacher) -> list[Any]:
        if self.prompt_format == CHAT:
            messages = tuple(as_messages(question.note, question.instruction))
        else:
            text = as_text(self.prompt_format, question.note, question.instruction)
            messages = ({"role": "user", "content": text},)
        task = question.task if question.task in TASKS else "Question Answering"
        inputs = {"note": question.note, "task": task, "question": question.instruction}
        seed = request_seed(self.seed, "evaluated answer", question.id)
        # Not extended: a longer answer than those of the other models would be judged.
        reply = await teacher.ask(Request("answer", question.id, messages, inputs, seed, extend=False))
        return [Answer(question.id, self.model, reply.text.strip(), reply.finish_reason, self.prompt_format)]


def teacher_of(config: AnswersConfig, spec: ModelSpec) -> TeacherConfig:
    return replace(
        config.teacher,
        teacher="offline" if spec.kind == "offline" else "openai",
        model=spec.place,
        temperature=config.decoding.temperature,
        max_tokens=config.decoding.max_new_tokens,
        ledger=config.teacher.ledger or str(config.out / f"{spec.name}.ledger.sqlite"),
    )


def ask_teacher(
    config: AnswersConfig,
    spec: ModelSpec,
    teacher: TeacherConfig,
    questions: Sequence[Question],
    of: tuple[str, dict[str, Any]],
) -> None:
    content, facts = of
    reasons: Counter[str] = Counter()

    def count(answer: Any) -> None:
        reasons[answer.finish_reason] += 1
        if reasons["error"] == len(questions):
            raise UserError(f"answers of {spec.name}: every request failed, the last one with: {answer.text[:300]}")

    work = Ask(spec.name, config.decoding.prompt_format or CHAT, config.decoding.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    # The counts are full by the time the manifest is written.
    facts = {**facts, "finish_reasons": reasons}
    inputs = {str(config.questions): content}
    stage = Stage("answers", Answer, config.out / spec.name, teacher, config.shards, inputs, facts, len(questions))
    records: Any = iter(questions)
    run_stage(stage, work, records, count)
    if reasons["error"]:
        say(f"answers of {spec.name}: {reasons['error']} requests failed; run this again to ask them once more")


# ---------------------------------------------------------------- models that this process runs


class Kept:
    """The answers of a local model so far, a line each; a line that a kill cut short is not there."""

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = path, identity
        self.answers: dict[str, Answer] = {}
        # Bytes: a kill may cut a character in two, and a text may hold what str.splitlines takes for an end of line.
        for line in path.read_bytes().split(b"\n") if path.is_file() else ():
            try:
                kept = json.loads(line)
                if kept.pop("identity") == identity:
                    self.answers[kept["question_id"]] = Answer(**kept)
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, answers: Sequence[Answer]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            # A new line first: the last one may have been cut short.
            lines = [json.dumps({**asdict(a), "identity": self.identity}, ensure_ascii=False) for a in answers]
            file.write("\n" + "\n".join(lines) + "\n")
        self.answers.update({answer.question_id: answer for answer in answers})


def ask_local(
    config: AnswersConfig, spec: ModelSpec, questions: Sequence[Question], of: tuple[str, dict[str, Any]]
) -> None:
    content, facts = of
    config.out.mkdir(parents=True, exist_ok=True)
    kept = Kept(config.out / f"{spec.name}.partial.jsonl", text_hash(content, json.dumps(facts, sort_keys=True)))
    with writing_folder(config.out / spec.name, "answers", {str(config.questions): content}) as writer:
        writer.facts = dict(facts)
        writer.counts["in"] = len(questions)
        left = [question for question in questions if question.id not in kept.answers]
        if spec.kind == "reference":
            kept.answers.update({q.id: Answer(q.id, spec.name, q.reference, "stop", "") for q in left})
        elif left:
            model = load_model(spec, config.decoding)
            done = len(questions) - len(left)
            for batch in batches(left, config.decoding.batch):
                told = model.answer(batch)
                kept.add(
                    [
                        Answer(question.id, spec.name, text, reason, model.prompt_format)
                        for question, (text, reason) in zip(batch, told, strict=True)
                    ]
                )
                done += len(batch)
                say(f"answers of {spec.name}: {done} of {len(questions)}")
        answers = [kept.answers[question.id] for question in questions]
        writer.facts["finish_reasons"] = dict(Counter(answer.finish_reason for answer in answers))
        writer.add_shard(answers, Answer)  # type: ignore[arg-type]
    kept.path.unlink(missing_ok=True)
    reasons = ", ".join(f"{count} {reason}" for reason, count in writer.facts["finish_reasons"].items())
    say(f"answers of {spec.name}: {len(answers)} ({reasons}) -> {config.out / spec.name}")


def batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    """Of questions of about one length, so that little is padded; the longest first: what does not fit shows soon."""
    ordered = sorted(questions, key=lambda question: -len(question.note))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def read_answers(folders: Sequence[Path], questions: Path) -> dict[str, dict[str, Answer]]:
    """Each model's answers by question, from folders of answers or folders of such folders; UserError where ids do not
    match the questions'."""
    content = content_of_questions(questions)
    wanted = {question.id for question in read_records(questions, "questions", Question)}
    answers: dict[str, dict[str, Answer]] = {}
    for folder in found_folders(folders):
        manifest = read_manifest(folder, "answers")
        # Planted answers come with their questions, from one source.
        if "model" in manifest and content not in manifest["inputs"].values() and manifest["out"]:
            first = next(read_records(folder, "answers", Answer)).question_id
            if first in wanted:
                raise UserError(
                    f"{folder} answers other questions than {questions}, under the same ids: answer them anew"
                )
        for answer in read_records(folder, "answers", Answer):
            if answer.question_id not in wanted:
                raise UserError(f"{folder} answers {answer.question_id}, which is not among {questions}")
            mine = answers.setdefault(answer.model, {})
            if answer.question_id in mine:
                raise UserError(f"{folder}: a second answer of {answer.model} to {answer.question_id}")
            mine[answer.question_id] = answer
    for model, mine in answers.items():
        if len(mine) < len(wanted):
            missing = sorted(wanted - mine.keys())
            raise UserError(f"{model} answers {len(mine)} of {len(wanted)} questions; not {missing[0]}, for one")
    return answers


def answers_hash(answers: Mapping[str, Mapping[str, Answer]]) -> str:
    """What a judge has judged: to know its verdicts from those on other answers."""
    return text_hash(*(f"{m} {q} {answers[m][q].text}" for m in sorted(answers) for q in sorted(answers[m])))


def found_folders(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        if (folder / MANIFEST).is_file() or not folder.is_dir():
            found.append(folder)
        else:
            # Not what a kill left while a folder was being replaced: it is hidden.
            inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
            found += [path for path in inside if not path.name.startswith(".")]
    if not found:
        raise UserError(f"no finished folder of answers in {', '.join(map(str, folders))}")
    return found
