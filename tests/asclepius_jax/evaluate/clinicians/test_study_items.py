"""The items of a study are drawn from each task in proportion to its questions."""

from collections import Counter

import numpy as np
import pytest

from asclepius_jax.evaluate.clinicians.study import by_strata

SIZES = {"Summarization": 60, "Question Answering": 30, "Coreference Resolution": 10, "Paraphrasing": 3}
TASKS = {f"{task} {n}": task for task, size in SIZES.items() for n in range(size)}


@pytest.mark.parametrize("items", [10, 20, 50])
def test_every_task_has_its_share_of_the_items(items):
    for seed in range(20):
        counts = Counter(TASKS[name] for name in by_strata(list(TASKS), TASKS, seed)[:items])
        for task, size in SIZES.items():
            assert abs(counts[task] - items * size / len(TASKS)) < 1.5, (task, counts)


def test_every_question_is_drawn_equally_often():
    """A mean over the items estimates the mean over the questions."""
    drawn = Counter(name for seed in range(2000) for name in by_strata(list(TASKS), TASKS, seed)[:20])
    shares = np.asarray([drawn[name] for name in TASKS]) / 2000
    for task in SIZES:
        of_task = [share for share, name in zip(shares, TASKS, strict=True) if TASKS[name] == task]
        assert np.mean(of_task) == pytest.approx(20 / len(TASKS), rel=0.12), task
    assert len({tuple(by_strata(list(TASKS), TASKS, seed)[:20]) for seed in range(20)}) == 20


def test_the_order_is_that_of_the_seed():
    assert by_strata(list(TASKS), TASKS, 1) == by_strata(list(TASKS)[::-1], TASKS, 1)
