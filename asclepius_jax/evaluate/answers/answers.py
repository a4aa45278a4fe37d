"""Collect every model's answers to every question, in one folder per model.

    asclepius evaluate answers --questions evaluation/questions --out evaluation/answers \\
        --models ours=hf:models/mine base=hf:models/base gpt=endpoint:gpt-4o rules=offline:

Answers are saved as they arrive: those of a local model in OUT/NAME.partial.jsonl, those of an endpoint in its ledger.
A restarted run resumes where it stopped. A model whose folder is finished is skipped unless its weights, the questions
or the settings have changed, or requests failed.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from asclepius_jax.evaluate.answers.models import content_of, load_model
from asclepius_jax.evaluate.answers.specs import LEAST_TEMPERATURE, Decoding, ModelSpec, parse_spec
from asclepius_jax.evaluate.questions.prompt_formats import CHAT, as_messages, as_text, check_format
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, read_manifest, writing_folder
from data_prep.contract.records import TASKS, text_hash
from data_prep.execution.parts import add_results, is_part, read_part, read_parts, writing_part
from data_prep.execution.progress import say
from data_prep.execution.shards import ShardsConfig, check_shards, in_shards
from data_prep.synthesize.stage import Stage, run_stage
from data_prep.teachers.base import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling
from data_prep.teachers.endpoint.allowed_hosts import why_not_send
from data_prep.teachers.wrapping import unwrap

TAUGHT = ("endpoint", "offline")  # kinds of models that a teacher asks
SAMPLED = ("hf", "checkpoint", "untrained", "endpoint")  # kinds whose answers depend on the seed


REPORTED = 8  # answers of a local model per line of progress
COMMAND = "evaluate answers"


@dataclass(frozen=True)
class AnswersConfig:
    questions: Path
    """Finished folder of questions."""

    models: tuple[str, ...]
    """Models to compare, each as NAME=hf:FOLDER, NAME=checkpoint:RUN, NAME=untrained:FOLDER, NAME=endpoint:MODEL,
    NAME=offline: or NAME=reference:."""

    out: Path
    """Output folder, with a subfolder NAME for each model. Finished subfolders that are up to date are kept."""

    decoding: Decoding = field(default_factory=Decoding)
    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(default_factory=TeacherConfig)
    """Endpoint that serves the endpoint models. --teacher and --model are set from --models."""
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    allow_remote: str = ""
    """Host name of an endpoint inside your institution to which real (restricted) notes may be sent; empty sends
    them nowhere."""

    seeds: int = 1
    """Number of samples per question and model, with the seeds --decoding.seed and the following ones. Those after the
    first are answers of NAME-seedN, in a folder of their own; the report joins them. Needs a temperature above 0."""


def run(config: AnswersConfig) -> None:
    """Answer the questions with every model that has no up-to-date folder.

    Raises UserError for invalid options or input."""
    specs = [parse_spec(text) for text in config.models]
    duplicates = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
    if duplicates:
        raise UserError(f"--models contains {duplicates[0]} twice: names must be unique")
    if config.decoding.batch < 0 or config.decoding.max_new_tokens < 1:
        raise UserError("--decoding.batch must not be negative, and --decoding.max-new-tokens must be positive")
    temperature = config.decoding.temperature
    if temperature != 0 and not temperature >= LEAST_TEMPERATURE:
        raise UserError(
            f"--decoding.temperature is {temperature}: it must be 0, which takes the most likely token, or "
            f"{LEAST_TEMPERATURE:g} or more"
        )
    check_format(config.decoding.prompt_format)
    check_shards(config.shards)
    if config.seeds < 1 or (config.seeds > 1 and not temperature):
        raise UserError(
            f"--seeds {config.seeds}: must be 1 or more, and 1 at temperature 0, where every sample is the same"
        )
    if config.shards.joined and config.out.name == specs[0].name:
        config = replace(config, out=config.out.parent)  # the folder of the model itself, as of other stages
    questions = list(read_records(config.questions, "questions", Question))[: config.shards.limit or None]
    content = content_of_questions(config.questions)
    samples = [sample for spec in specs for sample in samples_of(config, spec)]
    names = [spec.name for _, spec, _ in samples]
    if clash := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"--models {clash}: --seeds gives a further sample this name; choose another")
    if (config.shards.part or config.shards.joined) and len(samples) > 1:
        raise UserError(f"--part takes one model at a time, with one seed: {len(samples)} are given")
    teachers = {spec.name: teacher_of(seeded, spec) for seeded, spec, _ in samples if spec.kind in TAUGHT}
    for teacher_config in teachers.values():
        check_may_send(questions, teacher_config, config.allow_remote)
        check_teacher(teacher_config)
    for seeded, spec, variant_of in samples:
        out, teacher = config.out / spec.name, teachers.get(spec.name)
        facts = {"model": asdict(spec), "weights": content_of(spec), "decoding": asdict(seeded.decoding)}
        if variant_of:
            facts["variant_of"] = variant_of
        if teacher:
            facts["teacher"] = sampling(teacher)
        inputs = Inputs(content, facts)
        if (out / MANIFEST).is_file() and is_same(read_manifest(out, "answers"), inputs, len(questions)):
            say(f"answers of {spec.name}: already finished -> {out}")
        elif teacher:
            ask_teacher(seeded, spec, teacher, questions, inputs)
        else:
            ask_local(seeded, spec, questions, inputs)


def samples_of(config: AnswersConfig, spec: ModelSpec) -> list[tuple[AnswersConfig, ModelSpec, str]]:
    """Settings, model and, for further samples, the first one's name: one for each seed."""
    samples = [(config, spec, "")]
    # The rule-based teacher and the references give the same answer to every seed.
    for seed in range(config.decoding.seed + 1, config.decoding.seed + config.seeds) if spec.kind in SAMPLED else ():
        seeded = replace(config, decoding=replace(config.decoding, seed=seed))
        samples.append((seeded, replace(spec, name=f"{spec.name}-seed{seed}"), spec.name))
    return samples


def content_of_questions(folder: Path) -> str:
    return text_hash(*(file["sha256"] for file in read_manifest(folder, "questions")["files"]))


@dataclass(frozen=True)
class Inputs:
    """Inputs of a model's answers. A finished folder with equal inputs is up to date."""

    content_hash: str  # of the questions
    facts: dict[str, Any]  # manifest entries: model, weights, decoding and, for an endpoint, its sampling

    @property
    def variant_of(self) -> str:
        return str(self.facts.get("variant_of", ""))


def is_same(manifest: dict[str, Any], inputs: Inputs, count: int) -> bool:
    """Report whether a finished folder contains `count` answers from the same inputs, without failed requests."""
    failed = "error" in manifest.get("finish_reasons", {})
    same_questions = list(manifest["inputs"].values()) == [inputs.content_hash]
    same_facts = all(manifest.get(name) == value for name, value in inputs.facts.items())
    return same_questions and same_facts and manifest["out"] == count and not failed


def check_may_send(questions: Sequence[Question], teacher: TeacherConfig, allow_remote: str) -> None:
    """Raise UserError if a question uses a real note that must not be sent to this endpoint."""
    restricted = next((question.id for question in questions if question.restricted), None)
    if restricted and teacher.teacher != "offline" and (why := why_not_send(teacher.base_url, allow_remote)):
        raise UserError(f"question {restricted} uses a real patient note: {why}")


# ---------------------------------------------------------------- endpoints and the rule-based teacher


@dataclass(frozen=True)
class Ask:
    """Asynchronous task that answers one question."""

    model: str
    prompt_format: str
    seed: int
    variant_of: str = ""

    async def __call__(self, question: Question, teacher: Teacher) -> list[Any]:
        if self.prompt_format == CHAT:
            messages = tuple(as_messages(question.note, question.instruction))
        else:
            text = as_text(self.prompt_format, question.note, question.instruction)
            messages = ({"role": "user", "content": text},)
        task = question.task if question.task in TASKS else "Question Answering"
        inputs = {"note": question.note, "task": task, "question": question.instruction}
        seed = request_seed(self.seed, "evaluated answer", question.id)
        # An endpoint that ignores seeds gives another sample all the same.
        sample = self.seed if self.variant_of else 0
        # No extension: all models must answer within the same number of tokens.
        reply = await teacher.ask(Request("answer", question.id, messages, inputs, seed, sample=sample, extend=False))
        text, reason = reply.text.strip(), reply.finish_reason
        return [Answer(question.id, self.model, text, reason, self.prompt_format, self.seed, self.variant_of)]


def teacher_of(config: AnswersConfig, spec: ModelSpec) -> TeacherConfig:
    return replace(
        config.teacher,
        teacher="offline" if spec.kind == "offline" else "openai",
        model=spec.place,
        temperature=config.decoding.temperature,
        max_tokens=config.decoding.max_new_tokens,
        # A part has a ledger of its own beside its folder.
        ledger=config.teacher.ledger or ("" if config.shards.part else str(config.out / f"{spec.name}.ledger.sqlite")),
    )


def ask_teacher(
    config: AnswersConfig,
    spec: ModelSpec,
    teacher: TeacherConfig,
    questions: Sequence[Question],
    inputs: Inputs,
) -> None:
    reasons: Counter[str] = Counter()

    def count(answer: Any) -> None:
        reasons[answer.finish_reason] += 1
        if reasons["error"] == len(questions):
            raise UserError(f"answers of {spec.name}: every request failed; the last error was: {answer.text[:300]}")

    work = Ask(spec.name, config.decoding.prompt_format or CHAT, config.decoding.seed, inputs.variant_of)
    config.out.mkdir(parents=True, exist_ok=True)
    # `count` has seen every answer by the time the manifest is written.
    facts = {**inputs.facts, "finish_reasons": reasons}
    sources = {str(config.questions): inputs.content_hash}
    stage = Stage(
        "answers", Answer, config.out / spec.name, teacher, config.shards, sources, facts, len(questions),
        settings=(COMMAND, config),
    )  # fmt: skip
    records: Any = iter(questions)
    run_stage(stage, work, records, count)
    if reasons["error"]:
        say(f"answers of {spec.name}: {reasons['error']} requests failed; run the command again to retry them")


# ---------------------------------------------------------------- local models


class Kept:
    """Answers of an interrupted local run, one JSON line each. Incomplete lines are ignored."""

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = path, identity
        self.answers: dict[str, Answer] = {}
        # Bytes: a killed process may leave half a character, and str.splitlines also splits at characters that a text
        # may contain.
        for line in path.read_bytes().split(b"\n") if path.is_file() else ():
            try:
                fields = json.loads(line)
                if fields.pop("identity") == identity:
                    self.answers[fields["question_id"]] = Answer(**fields)
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, answer: Answer) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            # Start on a new line, because the last one may be incomplete.
            line = json.dumps({**asdict(answer), "identity": self.identity}, ensure_ascii=False)
            file.write(f"\n{line}\n")
        self.answers[answer.question_id] = answer


def ask_local(config: AnswersConfig, spec: ModelSpec, questions: Sequence[Question], inputs: Inputs) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    out, sources = config.out / spec.name, {str(config.questions): inputs.content_hash}
    if part := read_part(config.shards.part):
        with writing_part(part, out, COMMAND, config, sources) as writer:
            shards = [*enumerate(in_shards(questions, config.shards.shard_records))]
            own = {number: shard for number, shard in shards if part.has(number)}
            asked = [question for shard in own.values() for question in shard]
            answers = {a.question_id: a for a in answered(config, spec, asked, inputs, part.folder(out))}
            for number, shard in own.items():
                add_results(writer, number, [answers[question.id] for question in shard], Answer)
            writer.counts["in"] = len(asked)
        return
    with writing_folder(out, "answers", sources) as writer:
        writer.facts = dict(inputs.facts)
        writer.counts["in"] = len(questions)
        if config.shards.joined:
            found = [answer for shard in read_parts(config.shards.joined).results(Answer) for answer in shard]
        else:
            found = answered(config, spec, questions, inputs, out)
        writer.facts["finish_reasons"] = dict(Counter(answer.finish_reason for answer in found))
        writer.add_shard(found, Answer)
    partial_of(out).unlink(missing_ok=True)
    reasons = ", ".join(f"{count} {reason}" for reason, count in writer.facts["finish_reasons"].items())
    say(f"answers of {spec.name}: {len(found)} ({reasons}) -> {out}")


def partial_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial.jsonl")


def answered(
    config: AnswersConfig, spec: ModelSpec, questions: Sequence[Question], inputs: Inputs, out: Path
) -> list[Answer]:
    """A local model's answers to these questions, of which those of an interrupted run beside `out` are kept."""
    kept = Kept(partial_of(out), text_hash(inputs.content_hash, json.dumps(inputs.facts, sort_keys=True)))
    left = [question for question in questions if question.id not in kept.answers]
    if spec.kind == "reference":
        kept.answers.update({q.id: Answer(q.id, spec.name, q.reference, "stop", "") for q in left})
    elif left:
        model = load_model(spec, config.decoding)
        for place, (text, reason) in model.answers(left):
            answer = local_answer(left[place], spec.name, text, reason, model.prompt_format)
            kept.add(replace(answer, seed=config.decoding.seed, variant_of=inputs.variant_of))
            if (done := len(kept.answers)) % REPORTED == 0 or done == len(questions):
                say(f"answers of {spec.name}: {done} of {len(questions)}")
    return [kept.answers[question.id] for question in questions]


def local_answer(question: Question, model: str, text: str, reason: str, prompt_format: str) -> Answer:
    """The answer of a local model, without the wrapping that a teacher's replies lose too."""
    if reason in NO_ANSWER:
        return Answer(question.id, model, text, reason, prompt_format)
    unwrapped = unwrap(text)
    if unwrapped.text is None:
        return Answer(question.id, model, "", "unfinished" if reason == "stop" else reason, prompt_format)
    return Answer(question.id, model, unwrapped.text, reason, prompt_format)


def read_answers(folders: Sequence[Path], questions: Path) -> dict[str, dict[str, Answer]]:
    """Answers by model and question id, read from folders of answers or from folders that contain such folders.

    Raises UserError if an answer belongs to no question, is duplicated or is missing."""
    content = content_of_questions(questions)
    wanted = {question.id for question in read_records(questions, "questions", Question)}
    answers: dict[str, dict[str, Answer]] = {}
    for folder in found_folders(folders):
        manifest = read_manifest(folder, "answers")
        # Planted answers have no "model" in their manifest: they are written together with their questions.
        if "model" in manifest and content not in manifest["inputs"].values() and manifest["out"]:
            first = next(read_records(folder, "answers", Answer)).question_id
            if first in wanted:
                raise UserError(
                    f"{folder} answers different questions with the same ids as {questions}: run answers again"
                )
        for answer in read_records(folder, "answers", Answer):
            if answer.question_id not in wanted:
                raise UserError(f"{folder} answers {answer.question_id}, which is not in {questions}")
            by_question = answers.setdefault(answer.model, {})
            if answer.question_id in by_question:
                raise UserError(f"{folder} contains a second answer of {answer.model} to {answer.question_id}")
            by_question[answer.question_id] = answer
    for model, by_question in answers.items():
        if len(by_question) < len(wanted):
            missing = sorted(wanted - by_question.keys())
            raise UserError(
                f"{model} answers {len(by_question)} of {len(wanted)} questions; missing, for example: {missing[0]}"
            )
    return answers


def answers_hash(answers: Mapping[str, Mapping[str, Answer]]) -> str:
    """Hash of the judged answers, which shows whether verdicts belong to these answers."""
    return text_hash(*(f"{m} {q} {answers[m][q].text}" for m in sorted(answers) for q in sorted(answers[m])))


def found_folders(folders: Sequence[Path]) -> list[Path]:
    """Finished folders of answers among `folders` and directly inside them. Raises UserError if there are none."""
    found = []
    for folder in folders:
        if (folder / MANIFEST).is_file() or not folder.is_dir():
            found.append(folder)
        else:
            # Skip hidden folders: a process killed while replacing a folder leaves one behind.
            inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
            found += [path for path in inside if not path.name.startswith(".") and not is_part(path)]
    if not found:
        raise UserError(f"no finished folder of answers in {', '.join(map(str, folders))}")
    return found
