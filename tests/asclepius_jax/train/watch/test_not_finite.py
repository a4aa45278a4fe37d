"""A loss, a gradient, an update or a held-out loss that is no number costs its own step alone, and no better one."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from asclepius_jax.checkpoint.read import find_step, read_meta
from asclepius_jax.config import (
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    HealthConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    check,
)
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.train import loop
from asclepius_jax.train.batches import PackedRows, TrainBatches
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import init_state, make_train_step, state_shardings
from data_prep.contract.errors import UserError
from tests.helpers.training.small_run import TOTAL, events_of, lasting, metrics_of, params_at, steps_of
from tests.helpers.training.tiny_step import MODEL as TINY
from tests.helpers.training.tiny_step import first_params, made_batch


def with_nan_in(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Rows whose loss is not a number."""
    get = PackedRows.__getitem__

    def tainted(self: PackedRows, index: int) -> dict[str, np.ndarray]:
        row = get(self, index)
        if index in bad and "train" in str(self.folder):
            row["loss_mask"] = row["loss_mask"] * np.float32("nan")
        return row

    monkeypatch.setattr(PackedRows, "__getitem__", tainted)


def row_ids(config: TrainConfig, step: int) -> list[int]:
    rows = PackedRows(Path(config.data.path[0]), config.data.row_length)
    return TrainBatches(rows, config.batch.global_batch, config.data.seed, None).row_ids(step - 1)


def test_a_row_that_is_not_a_number_costs_its_own_step_alone(base: TrainConfig, tmp_path: Path, monkeypatch, capsys):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), checkpoint=CheckpointConfig(1, keep=20))
    bad = row_ids(config, 5)[3]
    with_nan_in(monkeypatch, {bad})
    train(config)
    struck = [step for step in range(1, TOTAL + 1) if bad in row_ids(config, step)]
    assert 5 in struck
    assert len(struck) < TOTAL
    assert [row["step"] for row in metrics_of(config.run_dir) if row.get("skipped")] == struck
    for step in range(2, TOTAL + 1):
        before, after = params_at(config.run_dir, step - 1), params_at(config.run_dir, step)
        same = all(before[name].tobytes() == after[name].tobytes() for name in after)
        assert same == (step in struck), step
        assert all(np.isfinite(value).all() for value in after.values())
    events = events_of(config.run_dir)
    assert [(event["step"], event["event"]) for event in events] == [(step, "skipped") for step in struck]
    assert all(bad in event["rows"] for event in events)
    assert "step 5: loss or gradient is not finite, skipping the update" in capsys.readouterr().out
    # The course of the learning rate is that of the steps.
    whole = [row["learning_rate"] for row in metrics_of(config.run_dir) if "loss" in row]
    assert whole[-1] < whole[1]


def test_too_many_in_a_row_stop_at_the_last_good_state(base: TrainConfig, tmp_path: Path, monkeypatch):
    config = dataclasses.replace(
        base, run_dir=str(tmp_path / "run"), health=HealthConfig(max_skipped=2), checkpoint=CheckpointConfig(1, keep=20)
    )
    with_nan_in(monkeypatch, {row_ids(config, step)[0] for step in (4, 5, 6)})
    assert not {row_ids(config, step)[0] for step in (4, 5, 6)} & {
        i for step in (1, 2, 3) for i in row_ids(config, step)
    }
    ids = ", ".join(map(str, row_ids(config, 6)))
    with pytest.raises(
        UserError, match=rf"3 steps in a row \(health.max_skipped 2\), the last of them 6, with rows {ids} of"
    ):
        train(config)
    assert steps_of(config.run_dir)[-1] == 6
    good, last = params_at(config.run_dir, 3), params_at(config.run_dir, 6)
    for name, value in good.items():
        np.testing.assert_array_equal(value, last[name])


@pytest.mark.parametrize("values", [{"epsilon": 0.0}, {"learning_rate": math.inf}, {"weight_decay": math.inf}])
def test_an_update_that_is_not_finite_changes_nothing(values: dict[str, float]):
    """Of a finite loss and gradient, with settings that `check` refuses."""
    config = TrainConfig(
        batch=BatchConfig(32, 1),
        compute=ComputeConfig("float32", "none"),
        optimizer=dataclasses.replace(OptimizerConfig(warmup_fraction=0.0, weight_decay=0.1), **values),
    )
    mesh, optimizer = make_mesh(MeshConfig(1, 1), jax.devices()[:1]), make_optimizer(config.optimizer, 10)
    shardings = state_shardings(mesh, TINY, optimizer)
    step = make_train_step(config, TINY, 10, shardings, mesh, Kernel())
    before = init_state(jax.device_put(first_params(), shardings["params"]), optimizer, shardings)
    kept = jax.device_get(before)
    after, numbers = step(before, made_batch(0))
    assert math.isfinite(numbers["loss"])
    assert math.isfinite(numbers["grad_norm"])
    assert numbers["skipped"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after)["params"], kept["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(after)["optimizer"]))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("optimizer.epsilon", 0.0, "must be above 0"),
        ("optimizer.epsilon", 1e-50, "is no number in float32: use one from 1.18e-38 to 3.4e+38"),
        ("optimizer.epsilon", 1e300, "is no number in float32"),
        ("optimizer.learning_rate", 1e-50, "is no number in float32"),
        ("optimizer.clip_norm", 1e-50, "is no number in float32"),
        ("optimizer.weight_decay", 1e300, "is no number in float32"),
        ("optimizer.beta2", 1 - 1e-12, "is 1 in float32: use a smaller one"),
        ("lora.alpha", 1e300, "is no number in float32"),
        ("lora.dropout", 1 - 1e-12, "is 1 in float32: use a smaller one"),
        ("evaluation.max_rows", 0, "must be above 0"),
        ("evaluation.max_rows", -1, "must be above 0"),
        ("evaluation.every_steps", 0, "must be above 0"),
        ("log.every_steps", 0, "must be above 0"),
        ("profile", -1, "cannot be negative"),
    ],
)
def test_a_number_with_which_nothing_could_be_trained_or_evaluated_is_refused(name: str, value: float, told: str):
    section, _, field = name.rpartition(".")
    config = TrainConfig(data=DataConfig("packed"))
    branch = dataclasses.replace(getattr(config, section) if section else config, **{field: value})
    with pytest.raises(UserError, match="^" + re.escape(f"{name} is {value}: it {told}")):
        check(dataclasses.replace(config, **{section: branch}) if section else branch)


def test_an_evaluation_that_is_not_a_number_costs_no_better_step(
    base: TrainConfig, tmp_path: Path, monkeypatch, capsys
):
    """The losses of steps 2, 4, 6 and 8 are NaN, 2, NaN and 3: the best is step 4."""
    losses = iter((math.nan, 2.0, math.nan, 3.0))
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"eval_loss": next(losses), "eval_perplexity": math.nan})
    config = dataclasses.replace(
        lasting(base, 8),
        run_dir=str(tmp_path / "run"),
        checkpoint=CheckpointConfig(2, keep=1, keep_best=1),
        evaluation=EvalConfig(every_steps=2),
    )
    train(config)
    assert steps_of(config.run_dir) == [4, 8]
    assert read_meta(tmp_path / "run/checkpoints/4").eval_loss == 2.0
    told = capsys.readouterr().out
    assert [f"step {step}: the loss on held-out rows is nan" in told for step in (2, 4, 6, 8)] == [True, False] * 2


def test_held_out_rows_without_a_token_to_evaluate_have_no_loss(base: TrainConfig, tmp_path: Path, monkeypatch, capsys):
    get = PackedRows.__getitem__

    def emptied(self: PackedRows, index: int) -> dict[str, np.ndarray]:
        row = get(self, index)
        return row if "train" in str(self.folder) else row | {"loss_mask": np.zeros_like(row["loss_mask"])}

    monkeypatch.setattr(PackedRows, "__getitem__", emptied)
    config = dataclasses.replace(lasting(base, 1), run_dir=str(tmp_path / "run"))
    train(config)
    assert read_meta(find_step(tmp_path / "run")[1]).eval_loss is None
    assert "step 1: the loss on held-out rows is nan" in capsys.readouterr().out
