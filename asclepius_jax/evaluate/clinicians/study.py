"""Set up a blinded study from questions and several models' answers: a database for the page and a separate key.

asclepius evaluate study --questions QUESTIONS --answers ANSWERS --raters "Dr Ito" "Dr Weiss" --out STUDY

    STUDY/study.sqlite   items and hashes of the personal links; the models' names, but not which is which
    STUDY/key.json       the model behind each answer; move it away until every rater is done
"""

import json
import secrets
import string
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asclepius_jax.evaluate.answers.answers import found_folders
from asclepius_jax.evaluate.clinicians import guesses, store
from asclepius_jax.evaluate.clinicians.verdicts import TREATMENTS, Draft
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, Rating, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import NEW, place_of, working_folder, write_durably
from data_prep.contract.records import seeded_fraction

KEY = "key.json"
LABELS = string.ascii_uppercase
ADMINISTRATOR = "Administrator"


@dataclass(frozen=True)
class StudyConfig:
    questions: Path
    """Folder of questions."""

    answers: tuple[Path, ...]
    """Folders of answers to these questions. Every model must answer every question."""

    raters: tuple[str, ...]
    """Names of the raters, each of which gets a personal link; Administrator is reserved."""

    out: Path
    """Output folder for the study."""

    seed: int = 0
    """Random seed for the choice of items and their order."""

    items: int = 0
    """Number of items: an item is a question with the answers of all models. They are drawn from each task in
    proportion to its number of questions. 0 takes all questions."""

    repeats: float = 0.1
    """Share of the items that a rater sees twice, to measure self-agreement; at most 0.5."""

    training_items: int = 0
    """Number of further items in a practice round for the raters, which comes first and does not count."""

    reference: Path | None = None
    """Folder of ratings, from `asclepius evaluate ratings`, that the practice round shows as feedback; needs
    --training-items."""

    guesses: bool = True
    """Have each rater guess, after the last item, which model wrote each of ten answers: a test of the blinding. The
    scores are closed before the names of the models are shown."""

    url: str = "http://127.0.0.1:8000"
    """Address at which raters will reach the page of `asclepius evaluate serve`, used in the links. The default works
    on this machine only."""


def run(config: StudyConfig) -> None:
    """Write the study and print the personal links. Raises UserError for invalid options or input."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} exists and may contain ratings: choose another --out")
    check(config)
    questions = {question.id: question for question in read_records(config.questions, "questions", Question)}
    answers, failed = answers_of(config, questions)
    reference = reference_of(config)
    tasks = {name: question.task for name, question in questions.items()}
    training, scored = chosen(config, answers, reference, tasks)
    used = {question: answers[question] for question in [*training, *scored]}
    place = place_of(config.out)
    with working_folder(place) as work:
        (work / NEW).mkdir(mode=0o700)
        links = write_study(config, work / NEW, [questions[name] for name in used], used, (training, scored), reference)
        if place.exists():
            place.rmdir()
        (work / NEW).rename(place)
    if failed:
        print(f"Skipped {failed} answers that ended in a model error or did not fit the model's context")
    if any(questions[name].restricted for name in used):
        print("The study contains real patient notes: serve it only within your own institution.")
    print(
        f"{len(scored)} items to score and {len(training)} for training, {len(config.raters)} raters, in {config.out}"
    )
    print(f"Move {config.out / KEY} to a place where no rater or administrator can read it.")
    print("These links are shown only once. Anyone who has a link can act as that person:")
    for name, link in links.items():
        print(f"  {name:<20} {link}")


def check(config: StudyConfig) -> None:
    if not 0 <= config.repeats <= 0.5:
        raise UserError(f"--repeats {config.repeats}: must be between 0 and 0.5")
    for name, value in (("--items", config.items), ("--training-items", config.training_items)):
        if value < 0:
            raise UserError(f"{name} {value}: must be 0 or more")
    if not config.raters or any(not name.strip() or not name.isprintable() for name in config.raters):
        raise UserError("--raters: give each rater a name")
    if ADMINISTRATOR in config.raters:
        raise UserError(f"--raters {ADMINISTRATOR}: this name is reserved; choose another")
    if len(set(config.raters)) < len(config.raters):
        raise UserError(f"--raters {' '.join(config.raters)}: names must be unique")


def answers_of(config: StudyConfig, questions: dict[str, Question]) -> tuple[dict[str, list[Answer]], int]:
    """Usable answers by question id, and the number of answers skipped because their model failed."""
    if not config.answers:
        raise UserError("--answers contains no answers")
    found: dict[str, dict[str, Answer]] = defaultdict(dict)
    for folder in found_folders(config.answers):
        for answer in read_records(folder, "answers", Answer):
            if answer.question_id not in questions:
                raise UserError(f"{folder} answers {answer.question_id}, which is not in {config.questions}")
            if answer.variant_of:
                continue  # clinicians score the first sample of each model
            if answer.model in found[answer.question_id]:
                raise UserError(f"{folder}: {answer.model} answers {answer.question_id} twice")
            found[answer.question_id][answer.model] = answer
    models = {model for answers in found.values() for model in answers}
    if not models:
        raise UserError("--answers contains no answers")
    if len(models) > len(LABELS):
        raise UserError(f"--answers contains {len(models)} models: an item shows at most {len(LABELS)}")
    for name in questions:
        if missing := models - set(found[name]):
            raise UserError(f"{sorted(missing)[0]} does not answer {name}: answer every question before the study")
    good = {name: [a for a in found[name].values() if a.finish_reason not in NO_ANSWER] for name in questions}
    failed = len(questions) * len(models) - sum(map(len, good.values()))
    return {name: answers for name, answers in good.items() if answers}, failed


def reference_of(config: StudyConfig) -> dict[tuple[str, str], Draft]:
    """Reference verdicts of the training round, by question and model."""
    if config.reference is None:
        return {}
    treatments = {value: name for name, value in TREATMENTS.items()}
    found: dict[tuple[str, str], Draft] = {}
    for rating in read_records(config.reference, "ratings", Rating):
        if rating.score and not rating.repeat:
            if (rating.question_id, rating.model) in found:
                raise UserError(
                    f"--reference {config.reference} has two verdicts on {rating.question_id} by {rating.model}: "
                    "give the ratings of one rater, or a consensus"
                )
            treatment = treatments[rating.answerable, rating.recognised]
            found[rating.question_id, rating.model] = Draft(
                rating.incorrect, rating.omitted or None, treatment, comment=rating.comment
            )
    return found


def chosen(
    config: StudyConfig,
    answers: dict[str, list[Answer]],
    reference: dict[tuple[str, str], Draft],
    tasks: dict[str, str],
) -> tuple[list[str], list[str]]:
    """Questions of the training round, and questions to score."""
    order = by_strata(list(answers), tasks, config.seed)
    known = [
        name for name in order if not reference or all((name, answer.model) in reference for answer in answers[name])
    ]
    training = known[: config.training_items]
    if len(training) < config.training_items:
        raise UserError(
            f"--training-items {config.training_items}: only {len(known)} questions have answers"
            f"{' and --reference verdicts' if reference else ''}"
        )
    rest = by_strata([name for name in answers if name not in training], tasks, config.seed)
    scored = rest[: config.items or None]
    if len(scored) < max(config.items, 1):
        raise UserError(f"--items {config.items}: only {len(rest)} questions are left to score after training")
    return training, scored


def by_strata(names: list[str], tasks: dict[str, str], seed: int) -> list[str]:
    """Questions in a seeded order whose every beginning has of each task its share of all questions, up to rounding.

    The share is that of all questions, so that means over the items estimate those over the questions.
    """
    strata: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: seeded_fraction(seed, "chosen", name)):
        strata[tasks[name]].append(name)
    places = {
        name: (number + seeded_fraction(seed, "stratum", task)) / len(stratum)
        for task, stratum in strata.items()
        for number, name in enumerate(stratum)
    }
    return sorted(names, key=lambda name: (places[name], name))


def order_of(config: StudyConfig, rater: str, scored: list[str]) -> Iterator[tuple[str, str]]:
    """(question, kind) in the order in which one rater sees them.

    Repeated items appear in the first half and again in the second, with at least one other item between."""

    def mixed(names: list[str], purpose: str) -> list[str]:
        return sorted(names, key=lambda name: seeded_fraction(config.seed, purpose, rater, name))

    order = mixed(scored, "order")
    half = len(order) // 2
    first, (opening, *rest) = order[:half], order[half:]
    repeated = mixed(first, "repeated")[: min(half, round(config.repeats * len(order)))]
    second = [(name, "scored") for name in rest] + [(name, "repeat") for name in repeated]
    second.sort(key=lambda item: seeded_fraction(config.seed, "second half", rater, *item))
    yield from ((name, "scored") for name in [*first, opening])
    yield from second


def write_study(
    config: StudyConfig,
    folder: Path,
    questions: list[Question],
    answers: dict[str, list[Answer]],
    chosen: tuple[list[str], list[str]],
    reference: dict[tuple[str, str], Draft],
) -> dict[str, str]:
    """Write the database and the key. Returns the personal links by name."""
    # Random ids, so that neither the seed nor a model's name reveals an answer's id or position. Rows are sorted by id,
    # so that their order reveals nothing either.
    texts = dict(sorted((secrets.token_hex(8), answer) for group in answers.values() for answer in group))
    training, scored = chosen
    study_id, administrator = secrets.token_hex(8), secrets.token_urlsafe(32)
    links = {ADMINISTRATOR: f"{config.url.rstrip('/')}/admin/{administrator}"}
    store.create(folder / store.DATABASE)
    with store.transaction(folder / store.DATABASE, write=True) as db:
        settings = [("id", study_id), ("administrator_hash", store.token_hash(administrator))]
        names = sorted({answer.model for group in answers.values() for answer in group})
        with_guesses = config.guesses and len(names) > 1
        if with_guesses:
            settings.append((guesses.MODELS, store.json_of(names)))
        db.executemany("INSERT INTO study VALUES (?, ?)", settings)
        db.executemany(
            "INSERT INTO questions VALUES (?, ?, ?, ?, ?)",
            [(q.id, q.task, q.note_type, q.note, q.instruction) for q in questions],
        )
        db.executemany(
            "INSERT INTO answers VALUES (?, ?, ?)",
            [(name, answer.question_id, answer.text) for name, answer in texts.items()],
        )
        for name, answer in texts.items():
            draft = reference.get((answer.question_id, answer.model))
            if draft and answer.question_id in training:
                db.execute("INSERT INTO reference VALUES (?, ?)", (name, store.json_of(vars(draft))))
        for rater in config.raters:
            token = secrets.token_urlsafe(32)
            links[rater] = f"{config.url.rstrip('/')}/r/{token}"
            items = []
            for question, kind in [*((name, "training") for name in training), *order_of(config, rater, scored)]:
                own = [name for name, answer in texts.items() if answer.question_id == question]
                own.sort(key=lambda name: seeded_fraction(config.seed, "label", rater, kind, name))
                items.append((question, kind, dict(zip(LABELS, own, strict=False))))
            store.add_rater(db, rater, token, items)
            if with_guesses:
                guesses.prepare(db, rater, config.seed)
    key = {name: {"question_id": answer.question_id, "model": answer.model} for name, answer in texts.items()}
    restricted = any(question.restricted for question in questions)
    content = {"study": study_id, "seed": config.seed, "restricted": restricted, "answers": key}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_durably(folder / KEY, text + "\n")
    (folder / KEY).chmod(0o600)
    return links
