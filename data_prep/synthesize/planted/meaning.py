"""All classes of errors of meaning: functions like those of `mutations.CLASSES`."""

from collections.abc import Callable
from random import Random

from data_prep.synthesize.planted import course, measures, persons, results
from data_prep.synthesize.planted.mutations import Planted
from data_prep.synthesize.planted.rules import planter

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
    "value exchanged": planter(*measures.VALUE_EXCHANGED),
    "dose exchanged": planter(*measures.DOSE_EXCHANGED),
    "blood pressure": planter(*measures.BLOOD_PRESSURE),
    "frequency": planter(*measures.FREQUENCY),
    "grade or stage": planter(*measures.GRADE),
    "sex": planter(*persons.SEX),
    "subject": planter(*persons.SUBJECT),
    "family": planter(*persons.FAMILY),
    "hedge left out": planter(*persons.HEDGE_LEFT_OUT),
    "hedge added": planter(*persons.HEDGE_ADDED),
}
