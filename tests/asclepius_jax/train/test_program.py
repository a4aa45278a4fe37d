"""A step that was compiled by a plan is the step that training would have compiled."""

import dataclasses
import json
from pathlib import Path

import pytest

from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, LogConfig, MeshConfig, TrainConfig
from asclepius_jax.model.huggingface.names import write_config
from asclepius_jax.plan import command
from asclepius_jax.plan.compile import PlanOptions
from asclepius_jax.train.loop import train
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL, TOKEN_IDS, packed_notes


@pytest.fixture(scope="module")
def config(small_tokenizer: Path, tmp_path_factory) -> TrainConfig:
    root = tmp_path_factory.mktemp("program")
    (root / "model").mkdir()
    (root / "model/config.json").write_text(write_config(MODEL, "float32", TOKEN_IDS))
    return TrainConfig(
        model=str(root / "model"),
        data=DataConfig(str(packed_notes(root / "data", small_tokenizer, 60, 32)), row_length=32),
        batch=BatchConfig(8, microbatches=1),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "full"),
        log=LogConfig(every_steps=1, tensorboard=False, progress=False),
        few_steps=True,
    )


@pytest.fixture(scope="module")
def program(config: TrainConfig, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "step.program"
    command.run(PlanOptions("cpu-8", json=True, save=str(path)), config)
    return path


def losses(config: TrainConfig, run_dir: Path) -> list[float]:
    rows = (train(dataclasses.replace(config, run_dir=str(run_dir))) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def with_program(config: TrainConfig, program: Path) -> TrainConfig:
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, program=str(program)))


def test_a_saved_step_gives_the_losses_of_a_compiled_one(config: TrainConfig, program: Path, tmp_path: Path):
    compiled = losses(config, tmp_path / "compiled")
    assert len(compiled) > 2
    assert losses(with_program(config, program), tmp_path / "saved") == compiled


def test_a_step_for_another_run_is_refused_with_what_differs(config: TrainConfig, program: Path, tmp_path: Path):
    other = dataclasses.replace(with_program(config, program), mesh=MeshConfig(1, 8, 1), run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"compiled for another run: mesh \{'data': 2, .* there, \{'data': 1, .* here"):
        train(other)
    assert not list((tmp_path / "run").glob("*")), "a refused start leaves nothing behind"


def test_what_is_no_program_is_refused(config: TrainConfig, tmp_path: Path):
    (tmp_path / "noise").write_bytes(b"\x80\x04noise")
    with pytest.raises(UserError, match="is not a program saved by `asclepius plan --save`"):
        train(dataclasses.replace(with_program(config, tmp_path / "noise"), run_dir=str(tmp_path / "run")))


def test_a_program_needs_the_number_of_steps(config: TrainConfig, tmp_path: Path):
    unknown = dataclasses.replace(config, data=DataConfig(row_length=32))
    with pytest.raises(UserError, match=r"set --data.path or --rows"):
        command.run(PlanOptions("cpu-8", json=True, save=str(tmp_path / "program")), unknown)
