"""The score follows from what is wrong with an answer."""

import itertools

import pytest

from asclepius_jax.evaluate.judge.rubric import OMISSIONS, Verdict, score
from data_prep.contract.errors import UserError


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict(False, "nothing"), 4),
        (Verdict(False, "minor"), 3),
        (Verdict(False, "significant"), 2),
        (Verdict(True, "nothing"), 1),
        (Verdict(False, "nothing", answerable=False, recognised=True), 4),
        (Verdict(False, "nothing", answerable=False, recognised=False), 1),
        (Verdict(False, "nothing", answerable=True, recognised=False), 2),
    ],
)
def test_the_score_of_a_verdict(verdict: Verdict, expected: int):
    assert score(verdict) == expected


def test_nothing_incorrect_is_ever_better_than_unacceptable():
    for omitted, answerable, recognised in itertools.product(OMISSIONS, (True, False), (True, False)):
        assert score(Verdict(True, omitted, answerable, recognised)) == 1


def test_an_omission_that_the_rubric_does_not_know_is_refused():
    with pytest.raises(UserError, match="omitted 'some'"):
        Verdict(False, "some")
