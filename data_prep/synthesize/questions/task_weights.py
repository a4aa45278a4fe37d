"""Which tasks the instructions of a note have: a weighted draw that is the same in every run."""

import math
from dataclasses import asdict, dataclass

from data_prep.contract.errors import UserError
from data_prep.contract.records import TASKS, seeded_fraction


@dataclass(frozen=True)
class TaskWeights:
    """Relative frequency of each task; 0 leaves the task out."""

    named_entity_recognition: float = 1.0
    """Weight of named entity recognition."""
    abbreviation_expansion: float = 1.0
    """Weight of abbreviation expansion."""
    relation_extraction: float = 1.0
    """Weight of relation extraction."""
    temporal_information_extraction: float = 1.0
    """Weight of temporal information extraction."""
    coreference_resolution: float = 1.0
    """Weight of coreference resolution."""
    paraphrasing: float = 1.0
    """Weight of paraphrasing."""
    summarization: float = 1.0
    """Weight of summarization."""
    question_answering: float = 1.0
    """Weight of question answering."""

    def by_task(self) -> dict[str, float]:
        """The tasks with a weight above 0. Raises UserError for an invalid weight, or if all are 0."""
        weights = asdict(self)
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise UserError(f"--task-weights.{name.replace('_', '-')} {weight}: must be 0 or above")
        if not any(weights.values()):
            raise UserError("--task-weights: all are 0, at least one must be above 0")
        # pop() and the assertion ensure that every task has a field and every field a task.
        by_task = {task: weights.pop(task.lower().replace(" ", "_")) for task in TASKS}
        assert not weights, f"no such tasks: {weights}"
        return {task: weight for task, weight in by_task.items() if weight}


def tasks_of_note(note_id: str, per_note: int, weights: dict[str, float], seed: int) -> list[str]:
    """The tasks of a note's instructions, drawn by weight without replacement; after all tasks, the draw restarts.

    Each task draws an exponential waiting time with its weight as the rate, and the shortest times come first
    (Efraimidis and Spirakis, 2006). In this weighted draw, no task's random number depends on another task.
    """

    def waiting_time(task: str, turn: int) -> float:
        return -math.log1p(-seeded_fraction(seed, "task", note_id, task, turn)) / weights[task]

    tasks: list[str] = []
    for turn in range(math.ceil(per_note / len(weights))):
        tasks += sorted(weights, key=lambda task: waiting_time(task, turn))
    return tasks[:per_note]
