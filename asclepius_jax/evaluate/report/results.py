"""Stored results of an evaluation, and one joined verdict on each answer by each judge.

Several votes on an answer are joined by their mean score and the majority of "unacceptable", as `statistics.joined`
does; a jury joins its judges in the same way. Unreadable votes are missing and counted, and a clinician's second rating
of the same answer counts in the agreement with oneself only.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.judge.rubric import SCORES
from asclepius_jax.evaluate.records import Answer, Judgement, Question, Rating, read_records
from asclepius_jax.evaluate.statistics.estimates import SCALE
from asclepius_jax.evaluate.statistics.joined import DIGITS, majority, mean_score, severities
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest

JURY = "jury"
CLINICIANS = "clinicians"

# what a question shares with others, see `Question.cluster`
Cluster = tuple[str, str]


@dataclass(frozen=True)
class Joined:
    """Joint verdict of the votes on one answer."""

    score: float  # mean of the votes; nan if all are missing
    unacceptable: float  # 1 if most votes score 1, 0 if most do not, 0.5 for a tie; nan if all are missing
    shares: tuple[float, ...]  # of the votes, by score from 1 to 4
    missing: float = 0.0  # share of the votes that could not be read


MISSING = Joined(math.nan, math.nan, (0.0,) * len(SCORES), 1.0)
# judge -> model -> question id -> verdict
Table = dict[str, dict[str, dict[str, Joined]]]


@dataclass(frozen=True)
class Judged:
    """Folder of judgements, with the judge's facts from its manifest."""

    name: str
    about: dict[str, Any]
    judgements: list[Judgement]


@dataclass
class Results:
    """Stored results of an evaluation."""

    questions: dict[str, Question]
    judged: list[Judged] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)  # by model and question id
    guesses: list[dict[str, Any]] = field(default_factory=list)  # see `clinicians.guesses.unblinded`

    @property
    def clusters(self) -> list[Cluster]:
        return [question.cluster for question in self.questions.values()]

    @property
    def first_samples(self) -> "Results":
        """These results with the first sample of each model only: the answers that clinicians rate."""
        judged = [
            replace(each, judgements=[j for j in each.judgements if not j.variant_of])
            if any(j.variant_of for j in each.judgements)
            else each
            for each in self.judged
        ]
        answers = {
            model: given
            for model, given in self.answers.items()
            if not any(answer.variant_of for answer in given.values())
        }
        return replace(self, judged=judged, answers=answers)

    @property
    def first_ratings(self) -> list[Rating]:
        return [rating for rating in self.ratings if not rating.repeat]


def read_judged(folders: Iterable[Path]) -> list[Judged]:
    judged = []
    for folder in folders:
        manifest = read_manifest(folder, "judgements")
        about = {name: manifest.get(name) for name in ("mode", "votes", "prompt", "teacher", "warnings", "models")}
        about["answers"] = manifest["inputs"].get("answers", "")
        judged.append(Judged(manifest["judge"], about, list(read_records(folder, "judgements", Judgement))))
    reserved = next((each.name for each in judged if each.name in (JURY, CLINICIANS)), "")
    if reserved:
        raise UserError(f"a judge is named {reserved}, which tables use for others: run judge with another --name")
    duplicates = [name for name, count in Counter(each.name for each in judged).items() if count > 1]
    if duplicates:
        raise UserError(f"two folders of judgements are by {duplicates[0]}: give one of them another --name")
    return judged


def check_ids(results: Results) -> None:
    found = [(f"judge {each.name}", j.question_id) for each in results.judged for j in each.judgements]
    found += [(f"rater {rating.rater}", rating.question_id) for rating in results.ratings]
    stray = next(((who, name) for who, name in found if name not in results.questions), None)
    if stray:
        raise UserError(
            f"{stray[0]} scores {stray[1]}, which is not among the questions: give the --questions that were judged"
        )
    voted = Counter((e.name, j.question_id, j.model, j.vote) for e in results.judged for j in e.judgements)
    again = next((key for key, count in voted.items() if count > 1), None)
    if again:
        judge, question, model, vote = again
        raise UserError(f"judge {judge} has vote {vote} on {model}'s answer to {question} twice: run judge again")
    given = Counter((r.rater, r.question_id, r.model, r.repeat) for r in results.ratings)
    duplicate = next((key for key, count in given.items() if count > 1), None)
    if duplicate:
        rater, question, model, _ = duplicate
        raise UserError(f"rater {rater} rates {model}'s answer to {question} twice: keep one of the ratings")


def joined(votes: Sequence[int]) -> Joined:
    """The verdict of several votes, of which 0 is missing."""
    present = [vote for vote in votes if vote]
    if not present:
        return MISSING
    shares = tuple(present.count(score) / len(present) for score in SCORES)
    missing = 1 - len(present) / len(votes)
    return Joined(mean_score(present), majority(vote == 1 for vote in present), shares, missing)


def jury_of(verdicts: Mapping[str, Joined], severity: Mapping[str, float]) -> Joined:
    """The verdict of several judges, each of whom counts the same however often it voted.

    The score is that of judges of equal severity, so that it does not depend on which of them is missing."""
    present = {judge: verdict for judge, verdict in verdicts.items() if not math.isnan(verdict.score)}
    if not present:
        return MISSING
    shares = tuple(
        math.fsum(column) / len(present) for column in zip(*(v.shares for v in present.values()), strict=True)
    )
    lowest, highest = SCALE
    score = math.fsum(verdict.score - severity[judge] for judge, verdict in present.items()) / len(present)
    score = round(min(max(score, lowest), highest), DIGITS)
    missing = math.fsum(verdict.missing for verdict in verdicts.values()) / len(verdicts)
    return Joined(score, majority(v.unacceptable for v in present.values()), shares, missing)


def over_samples(verdicts: Sequence[Joined]) -> Joined:
    """Mean of the verdicts on several samples of a model's answer to one question."""
    present = [verdict for verdict in verdicts if not math.isnan(verdict.score)]
    missing = sum(verdict.missing for verdict in verdicts) / len(verdicts)
    if len(present) < 2:
        return replace(present[0], missing=missing) if present else MISSING
    shares = tuple(sum(column) / len(present) for column in zip(*(verdict.shares for verdict in present), strict=True))
    unacceptable = sum(verdict.unacceptable for verdict in present) / len(present)
    return Joined(mean_score(verdict.score for verdict in present), unacceptable, shares, missing)


def scores_of(results: Results) -> Table:
    """Verdicts of each judge, of all clinicians together and, if there are several judges, of the jury of them.

    Several samples of one model are joined question by question, after the votes on each."""
    # judge -> model, question -> sample -> scores
    collected: dict[str, dict[tuple[str, str], dict[str, list[int]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for each in results.judged:
        for j in each.judgements:
            collected[each.name][j.variant_of or j.model, j.question_id][j.model].append(j.score)
    table: Table = {}
    for judge, found in collected.items():
        for (model, question), samples in found.items():
            verdict = over_samples([joined(given) for given in samples.values()])
            table.setdefault(judge, {}).setdefault(model, {})[question] = verdict
    if results.first_ratings:
        by_rater: Verdicts = defaultdict(dict)
        for rating in results.first_ratings:
            by_rater[rating.rater][rating.model, rating.question_id] = joined([rating.score])
        table[CLINICIANS] = together(by_rater)
    if len(results.judged) > 1:
        by_judge: Verdicts = {
            each.name: {
                (m, q): v for m, by_question in table.get(each.name, {}).items() for q, v in by_question.items()
            }
            for each in results.judged
        }
        table[JURY] = together(by_judge)
    return table


# judge -> (model, question id) -> verdict
Verdicts = dict[str, dict[tuple[str, str], Joined]]


def together(verdicts: Verdicts) -> dict[str, dict[str, Joined]]:
    """Joint verdict of several judges on each answer, by model and question."""
    severity = severities({judge: {key: v.score for key, v in given.items()} for judge, given in verdicts.items()})
    found: dict[str, dict[str, Joined]] = {}
    for model, question in dict.fromkeys(key for given in verdicts.values() for key in given):
        of_answer = {judge: given[model, question] for judge, given in verdicts.items() if (model, question) in given}
        # Clinicians rate what their study gives them; only a judge of the jury is missing where it has no verdict.
        found.setdefault(model, {})[question] = jury_of(of_answer, {judge: severity[judge] for judge in of_answer})
    return found


def asked_of(table: Table, judge: str, questions: Mapping[str, Question]) -> Mapping[str, Question]:
    """Questions on which a judge should have given verdicts: all, and of clinicians those that their study contains."""
    if judge != CLINICIANS:
        return questions
    asked = {name for by_question in table[judge].values() for name in by_question}
    return {name: question for name, question in questions.items() if name in asked}


def main_judge(table: Table) -> str:
    """Judge whose scores the page shows first: the clinicians, otherwise the jury, otherwise the first judge."""
    names = list(table)
    return next((name for name in (CLINICIANS, JURY) if name in names), names[0] if names else "")
