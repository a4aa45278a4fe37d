"""Runs of the notes stage in batch mode against `FakeBatches`."""

import pytest

from data_prep.contract.errors import UserError
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import notes
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.base import BatchConfig, TeacherConfig
from data_prep.teachers.endpoint.budget import BudgetConfig
from tests.helpers.endpoints.fake_batches import FakeBatches

PRICES = {"price_input": 1.0, "price_output": 4.0}


def text_of(body) -> str:
    """A note that depends on the request alone."""
    age = body["messages"][1]["content"].split("A ")[-1].split("-year-old")[0]
    return f"HPI: {age} y/o F with chest pain. " * 10


def config(endpoint, source, out, budget=None, **teacher) -> NotesConfig:
    settings = {"model": "m", "max_retries": 3, "timeout_seconds": 10, **teacher}
    return NotesConfig(
        source,
        out,
        teacher=TeacherConfig(
            teacher="openai",
            base_url=endpoint.url,
            budget=budget or BudgetConfig(),
            batches=BatchConfig(batch=True, batch_poll_seconds=0.05),
            **settings,
        ),
        shards=ShardsConfig(4),
    )


def left_open(endpoint: FakeBatches, stage: NotesConfig) -> None:
    """A run that ends while its batch is worked on, as if it had been killed."""
    endpoint.refuse_polls = True
    with pytest.raises(UserError, match="answered 401"):
        notes.run(stage)
    endpoint.refuse_polls = False
