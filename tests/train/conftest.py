"""The small run that several files strike, damage and continue."""

import dataclasses
from pathlib import Path

import pytest
from small_run import small_run

from asclepius_jax.config import TrainConfig
from asclepius_jax.train.loop import train


@pytest.fixture(scope="session")
def base(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return small_run(tmp_path_factory.mktemp("inputs"), small_tokenizer)


@pytest.fixture(scope="session")
def unbroken(base: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(dataclasses.replace(base, run_dir=str(tmp_path_factory.mktemp("unbroken"))))
