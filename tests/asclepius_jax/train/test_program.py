"""A step that was compiled by a plan is the step that training would have compiled."""

import ast
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax import __version__
from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, LogConfig, MeshConfig, TrainConfig
from asclepius_jax.model.huggingface.names import write_config
from asclepius_jax.plan import command
from asclepius_jax.plan.compile import PlanOptions
from asclepius_jax.train import compiled_step
from asclepius_jax.train.compiled_step import PACKAGE
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
    command.run(PlanOptions("cpu-8", json=True, save=str(path)), config, ["mine.py"])
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


def rewritten(program: Path, to: Path, **facts: Any) -> Path:
    """The program with other facts in its first line; None takes one out, as of an earlier version."""
    header, _, payload = program.read_bytes().partition(b"\n")
    changed = {name: value for name, value in (json.loads(header) | facts).items() if value is not None}
    to.write_bytes(json.dumps(changed).encode() + b"\n" + payload)
    return to


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"asclepius_jax": "0.0.9"}, f"asclepius_jax 0.0.9 there, {__version__} here"),
        ({"asclepius_jax": None, "code": None}, f"asclepius_jax None there, {__version__} here; code None there"),
        ({"code": "0" * 12}, f"code {'0' * 12} there, [0-9a-f]+ here"),
        ({"jaxlib": "0.0.1"}, "jaxlib 0.0.1 there"),
        ({"optax": "0.0.1"}, "optax 0.0.1 there"),
        ({"of_a_later_version": 1}, "of_a_later_version 1 there, None here"),
    ],
)
def test_a_step_of_another_version_is_refused(
    config: TrainConfig, program: Path, tmp_path: Path, facts: Any, told: str
):
    other = rewritten(program, tmp_path / "other.program", **facts)
    with pytest.raises(UserError, match=f"was compiled for another run: {told}"):
        train(dataclasses.replace(with_program(config, other), run_dir=str(tmp_path / "run")))


def test_the_code_of_a_step_is_known_by_its_content(tmp_path: Path, monkeypatch):
    """Every file that the training step is traced from, and none that only watches it."""
    shutil.copytree(PACKAGE, tmp_path / "asclepius_jax", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiled_step, "PACKAGE", tmp_path / "asclepius_jax")
    before = compiled_step.code_hash()
    for name in ("model/lora.py", "model/kernels/splash.py", "train/step.py", "train/optimizer.py"):
        file = tmp_path / "asclepius_jax" / name
        text = file.read_text()
        file.write_text(text + "\n")
        assert compiled_step.code_hash() != before, name
        file.write_text(text)
    (tmp_path / "asclepius_jax/train/watch/report.py").write_text("")
    assert compiled_step.code_hash() == before


def test_the_code_of_a_step_is_all_that_the_step_imports():
    """But for the modules that hold settings, types and files, which no operation comes from."""
    left, seen = ["train/step.py"], set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asclepius_jax."):
                path = node.module.removeprefix("asclepius_jax.").replace(".", "/")
                found = [f"{path}/{alias.name}.py" for alias in node.names]
                whole = next((f for f in (f"{path}.py", f"{path}/__init__.py") if (PACKAGE / f).is_file()), "")
                left += [f for f in found if (PACKAGE / f).is_file()] or [whole]
    without_operations = {
        "config/__init__.py", "config/checks.py", "config/files.py", "config/schema.py", "config/sources.py",
        "checkpoint/read.py", "checkpoint/checksums.py", "checkpoint/places.py",
        "distributed/coordinator.py", "distributed/interrupts.py", "distributed/job.py",
        "distributed/same_program.py", "train/batches.py",
    }  # fmt: skip
    of_the_step = {str(path.relative_to(PACKAGE)) for path in compiled_step.code_files()}
    assert seen - without_operations <= of_the_step
    assert without_operations <= seen, "a module that the step no longer imports"


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-100], lambda raw: raw[:-100] + b"x" * 100, lambda raw: b"[5]\n" + raw]
)
def test_a_damaged_program_is_refused_before_it_is_loaded(
    config: TrainConfig, program: Path, tmp_path: Path, damage: Any
):
    (tmp_path / "damaged").write_bytes(damage(program.read_bytes()))
    with pytest.raises(UserError, match=r"damaged is (damaged|not a program saved by `asclepius plan --save`)"):
        train(dataclasses.replace(with_program(config, tmp_path / "damaged"), run_dir=str(tmp_path / "run")))


def test_what_is_no_program_is_refused(config: TrainConfig, tmp_path: Path):
    with pytest.raises(UserError, match="absent: no such file"):
        train(dataclasses.replace(with_program(config, tmp_path / "absent"), run_dir=str(tmp_path / "run")))
    (tmp_path / "noise").write_bytes(b"\x80\x04noise")
    with pytest.raises(UserError, match="is not a program saved by `asclepius plan --save`"):
        train(dataclasses.replace(with_program(config, tmp_path / "noise"), run_dir=str(tmp_path / "run")))


def test_a_program_needs_the_number_of_steps(config: TrainConfig, tmp_path: Path):
    unknown = dataclasses.replace(config, data=DataConfig(row_length=32))
    with pytest.raises(UserError, match=r"set --data.path or --rows"):
        command.run(PlanOptions("cpu-8", json=True, save=str(tmp_path / "program")), unknown, ["mine.py"])
