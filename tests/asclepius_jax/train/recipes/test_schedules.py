"""Schedules of the learning rate, its defaults, and a decay that starts from any checkpoint."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.config import CheckpointConfig, InitConfig, LoraConfig, OptimizerConfig, TrainConfig
from asclepius_jax.convert.model_card import schedule
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import learning_rate, make_optimizer
from asclepius_jax.train.setup import make_step
from data_prep.contract.errors import UserError
from tests.helpers.training.small_run import (
    assert_same_params,
    lasting,
    losses_of,
    metrics_of,
    params_of,
    run_and_strike,
    steps_of,
)


def rates_of(config: OptimizerConfig, total: int) -> list[float]:
    rate = jax.jit(learning_rate(config, total))
    return [float(rate(jnp.int32(n))) for n in range(total)]


@pytest.mark.parametrize("total", [10, 101])
@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
def test_schedules_are_those_of_transformers(name: str, fraction: float, total: int):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    warmup = transformers.TrainingArguments.get_warmup_steps(SimpleNamespace(warmup_steps=fraction), total)
    theirs = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=2e-5)
    decay = max(1, total // 5)
    made = {
        "cosine": lambda: transformers.get_cosine_schedule_with_warmup(theirs, warmup, total),
        "linear": lambda: transformers.get_linear_schedule_with_warmup(theirs, warmup, total),
        "constant": lambda: transformers.get_constant_schedule_with_warmup(theirs, warmup),
        "wsd": lambda: transformers.get_wsd_schedule(
            theirs, warmup, decay, num_stable_steps=total - warmup - decay, decay_type="linear"
        ),
    }[name]()
    config = OptimizerConfig(2e-5, name, fraction, decay_steps=decay if name == "wsd" else 0)
    for n, found in enumerate(rates_of(config, total)):
        assert found == pytest.approx(made.get_last_lr()[0], rel=1e-5, abs=1e-12), n
        theirs.step()
        made.step()


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_a_decay_ends_at_its_final_fraction(name: str):
    rates = rates_of(OptimizerConfig(1.0, name, 0.1, final_fraction=0.25), 101)
    assert rates[-1] == pytest.approx(0.25)
    assert max(rates) == rates[11] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[11:]))


def test_the_final_decay_is_a_tenth_of_all_steps_by_default():
    rates = rates_of(OptimizerConfig(1.0, "wsd", 0.0), 200)
    assert rates[:181] == [1.0] * 181
    assert rates[181] < 1
    assert rates[-1] == pytest.approx(1 / 20)


def test_adapters_learn_ten_times_as_fast_by_default():
    full, adapters = (learning_rate(OptimizerConfig(), 10, lora) for lora in (LoraConfig(), LoraConfig(rank=4)))
    assert float(full(jnp.int32(1))) == pytest.approx(2e-5)
    assert float(adapters(jnp.int32(1))) == pytest.approx(2e-4)
    told = OptimizerConfig(learning_rate=1e-3)
    assert float(learning_rate(told, 10, LoraConfig(rank=4))(jnp.int32(1))) == pytest.approx(1e-3)


def test_the_records_of_a_run_state_the_default_rate(base: TrainConfig):
    config = dataclasses.replace(base, optimizer=OptimizerConfig())
    assert make_step(config).config.optimizer.learning_rate == 2e-5


def test_b_learns_by_its_ratio(tmp_path: Path):
    """LoRA+: the update of A is that without it, the update of B that of another learning rate, with its decay."""
    config = OptimizerConfig(1e-2, "constant", 0.0, weight_decay=0.1)
    adapters = {"q": {"A": jnp.linspace(-1, 1, 6).reshape(1, 3, 2), "B": jnp.linspace(1, 2, 6).reshape(1, 2, 3)}}
    grads = jax.tree.map(jnp.cos, adapters)

    def after(rate: float, ratio: float) -> Any:
        lora = LoraConfig(rank=2, b_learning_rate_ratio=ratio)
        optimizer = make_optimizer(dataclasses.replace(config, learning_rate=rate), 10, lora)
        state, params = optimizer.init(adapters), adapters
        for _ in range(3):
            updates, state = optimizer.update(grads, state, params)
        return updates

    plain, faster, ratio = after(1e-2, 1), after(16e-2, 1), after(1e-2, 16)
    np.testing.assert_allclose(ratio["q"]["A"], plain["q"]["A"], rtol=1e-6)
    np.testing.assert_allclose(ratio["q"]["B"], faster["q"]["B"], rtol=1e-6)
    assert not np.allclose(ratio["q"]["B"], plain["q"]["B"])


def test_a_decay_without_a_final_decay_is_refused(base: TrainConfig):
    config = dataclasses.replace(base, optimizer=OptimizerConfig(schedule="linear", decay_steps=5))
    with pytest.raises(UserError, match=r"optimizer.schedule linear has no final decay: set --optimizer.schedule wsd"):
        make_step(config)


# ---------------------------------------------------------------- a decay from a checkpoint


@pytest.fixture(scope="module")
def stable(base: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that keeps its peak rate for twelve steps."""
    config = dataclasses.replace(
        lasting(base, 12),
        run_dir=str(tmp_path_factory.mktemp("stable") / "run"),
        optimizer=OptimizerConfig(1e-2, "constant", 0.0),
        checkpoint=CheckpointConfig(2, keep=10),
    )
    train(config)
    return config


def branched(stable: TrainConfig, to: Path, **optimizer: Any) -> TrainConfig:
    return dataclasses.replace(
        stable,
        run_dir=str(to),
        init=InitConfig(branch=f"{stable.run_dir}/checkpoints/6"),
        optimizer=dataclasses.replace(stable.optimizer, **optimizer),
    )


def test_a_decay_from_a_checkpoint_is_the_end_of_a_run_that_planned_it(stable: TrainConfig, tmp_path: Path):
    decay = branched(stable, tmp_path / "decay", schedule="wsd", decay_steps=3)
    train(decay)
    planned = dataclasses.replace(
        lasting(stable, 9), run_dir=str(tmp_path / "planned"), optimizer=decay.optimizer, init=InitConfig()
    )
    train(planned)
    assert list(losses_of(decay.run_dir)) == [7, 8, 9]
    ours, theirs = params_of(decay.run_dir), params_of(planned.run_dir)
    for name, value in theirs.items():  # the first six steps were those of another program, which rounds otherwise
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)
    assert [row["learning_rate"] for row in metrics_of(decay.run_dir) if "loss" in row] == pytest.approx(
        [1e-2, 2e-2 / 3, 1e-2 / 3]
    )


def test_a_killed_branch_resumes_in_its_own_folder(stable: TrainConfig, tmp_path: Path):
    whole = branched(stable, tmp_path / "whole", schedule="wsd", decay_steps=5)
    train(whole)
    killed = dataclasses.replace(whole, run_dir=str(tmp_path / "killed"))
    assert run_and_strike(killed, 10, 9) == -9
    assert steps_of(killed.run_dir) == [8]
    train(killed)
    assert_same_params(killed.run_dir, whole.run_dir)
    other = dataclasses.replace(killed, init=InitConfig(branch=f"{stable.run_dir}/checkpoints/8"))
    with pytest.raises(UserError, match=r"init\.branch step 6 -> 8"):
        train(other)


@pytest.mark.parametrize("place", ["", "checkpoints/absent", "checkpoints/40"])
def test_a_branch_names_a_step_that_is_there(stable: TrainConfig, tmp_path: Path, place: str):
    config = dataclasses.replace(stable, run_dir=str(tmp_path), init=InitConfig(branch=f"{stable.run_dir}/{place}"))
    with pytest.raises(UserError, match=r"is no step: name RUN/checkpoints/STEP|contains no checkpoint|no such"):
        train(config)
    assert not list(tmp_path.iterdir())


def test_the_report_of_a_stopped_run_draws_the_rates_to_come(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    assert run_and_strike(config, 6, 15) == 0
    assert "to come" in (tmp_path / "run/report.html").read_text()
    train(config)
    assert "to come" not in (tmp_path / "run/report.html").read_text()


def test_the_card_names_the_schedule():
    settings = dataclasses.asdict(OptimizerConfig(1e-5, "wsd", decay_steps=300, final_fraction=0.1))
    assert schedule(settings) == "constant, and linear to 10% over the last 300 steps"
    assert schedule({"final_fraction": 0.0}) == "cosine to 0%", "a checkpoint from before there were others"
