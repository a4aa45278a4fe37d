"""A small evaluation on disk: questions, answers, judgements."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asclepius_jax.evaluate.answers.models import LocalModel
from asclepius_jax.evaluate.records import Answer, Judgement, Question, read_records
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.teachers.base import TeacherConfig

NOTE = (
    "A 64-year-old woman was admitted with fever for 3 days. She denied chest pain. CT showed a mass in the left lung. "
    "Aspirin 100 mg was given twice daily. She was discharged on day 5."
)


def question(number: int, **changed: str) -> Question:
    fields = {
        "id": f"q{number}",
        "note_id": f"n{number // 2}",  # two questions to a note
        "task": ("Question Answering", "Summarization")[number % 2],
        "note": NOTE,
        "instruction": "Which drug was given, and how much?",
        "reference": "Aspirin 100 mg was given twice daily.",
        "source": "made",
    }
    return Question(**{**fields, **changed})


def write(folder: Path, kind: str, record_type: type, records: list) -> Path:
    with writing_folder(folder, kind, {"made": "here"}) as writer:
        writer.counts["in"] = len(records)
        writer.add_shard(records, record_type)
    return folder


def write_questions(folder: Path, count: int = 8) -> Path:
    return write(folder, "questions", Question, [question(number) for number in range(count)])


def write_answers(folder: Path, model: str, texts: Mapping[str, str]) -> Path:
    return write(folder, "answers", Answer, [Answer(name, model, text, "stop") for name, text in texts.items()])


def write_judgements(folder: Path, judge: str, scores: Mapping[str, list[int]], votes: int = 1) -> Path:
    """`scores`: model -> a score for each question, the same in each vote; 0 is missing."""
    made = [
        Judgement(f"q{number}", model, judge, vote, given, incorrect=given == 1, problem="" if given else "garbage")
        for model, mine in scores.items()
        for number, given in enumerate(mine)
        for vote in range(votes)
    ]
    with writing_folder(folder, "judgements", {"made": "here"}) as writer:
        writer.facts = {
            "judge": judge,
            "mode": "pointwise",
            "votes": votes,
            "prompt": "p",
            "teacher": {"name": "openai", "model": judge},
            "warnings": [],
            "models": sorted(scores),
        }
        writer.add_shard(made, Judgement)  # type: ignore[arg-type]
    return folder


def answered(folder: Path) -> dict[str, Answer]:
    return {answer.question_id: answer for answer in read_records(folder, "answers", Answer)}


def content(folder: Path) -> tuple[list, dict]:
    """What must be equal in two folders of answers that are the same."""
    manifest = read_manifest(folder, "answers")
    return manifest["files"], manifest


def judge_at(endpoint, **more) -> TeacherConfig:
    settings = {"model": "j", "max_retries": 0, "timeout_seconds": 5, "temperature": 0.0, "max_tokens": 64, **more}
    return TeacherConfig(teacher="openai", base_url=endpoint.url, **settings)


def all_answers(model: LocalModel, questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Text and finish reason of every question's answer, in their order."""
    found = dict(model.answers(questions))
    return [found[place] for place in range(len(questions))]
