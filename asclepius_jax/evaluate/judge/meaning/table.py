"""All classes of errors of meaning: functions like those of `mutations.CLASSES`."""

from collections.abc import Callable
from random import Random

from asclepius_jax.evaluate.judge.meaning import course, people, results, values
from asclepius_jax.evaluate.judge.meaning.rules import planter
from asclepius_jax.evaluate.judge.mutations import Planted

MEANING: dict[str, Callable[[str, Random], Planted | None]] = {
    "severity": planter(*course.SEVERITY),
    "trend": planter(*course.TREND),
    "route": planter(*course.ROUTE),
    "result": planter(*results.RESULT),
    "normality": planter(*results.NORMALITY),
    "started or stopped": planter(*results.STARTED_OR_STOPPED),
    "done or not done": planter(*results.DONE_OR_NOT),
    "order": planter(*course.ORDER),
    "outcome": planter(*course.OUTCOME),
    "value exchanged": planter(*values.VALUE_EXCHANGED),
    "dose exchanged": planter(*values.DOSE_EXCHANGED),
    "blood pressure": planter(*values.BLOOD_PRESSURE),
    "frequency": planter(*values.FREQUENCY),
    "grade or stage": planter(*values.GRADE),
    "sex": planter(*people.SEX),
    "subject": planter(*people.SUBJECT),
    "family": planter(*people.FAMILY),
    "hedge left out": planter(*people.HEDGE_LEFT_OUT),
    "hedge added": planter(*people.HEDGE_ADDED),
}
