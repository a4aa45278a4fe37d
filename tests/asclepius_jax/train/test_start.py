"""What a run says and refuses before its first step, and how it leaves when it is asked to."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax.config import InitConfig, TrainConfig
from asclepius_jax.cost_model import choose
from asclepius_jax.cost_model.hardware import this_cpu
from asclepius_jax.train import loop
from asclepius_jax.train.loop import train
from asclepius_jax.train.watch.stopping import StopSignal, multihost_utils
from data_prep.contract.errors import UserError
from data_prep.pack import run as pack
from tests.helpers.made_inputs import example, free_address, job_flags, write_records
from tests.helpers.training.small_run import LENGTH, TOTAL, command_of, losses_of, metrics_of, steps_of


@pytest.fixture(scope="module")
def instructions(small_tokenizer: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("instructions")
    records = [example(f"e{i:03d}", "fever and cough", "What did the patient have?", "fever") for i in range(40)]
    write_records(folder / "records", records)
    # Short of the template of training, whose words are not in this tokenizer.
    (folder / "prompt").write_text("{note}\n{instruction}\n")
    config = pack.PackConfig(
        folder / "records",
        folder / "packed",
        small_tokenizer,
        LENGTH,
        prompt_template=str(folder / "prompt"),
        workers=1,
    )
    pack.run(config)
    return folder / "packed"


def tuning(base: TrainConfig, data: Path, run_dir: Path, init: InitConfig) -> TrainConfig:
    """One step on instructions."""
    part = dataclasses.replace(base.data, path=str(data), eval_path="", epochs=0.01)
    return dataclasses.replace(base, data=part, run_dir=str(run_dir), init=init)


def test_random_weights_are_not_tuned_by_oversight(base: TrainConfig, instructions: Path, tmp_path: Path, capsys):
    config = tuning(base, instructions, tmp_path / "run", InitConfig())
    with pytest.raises(UserError, match=r"contains instructions, but no weights to tune are set: add --init\.hf"):
        train(config)
    assert not (tmp_path / "run").exists()
    capsys.readouterr()
    train(dataclasses.replace(config, init=InitConfig(random=True)))
    assert capsys.readouterr().out.startswith("starting from random weights (init.seed 0)\n")


def test_a_run_first_says_what_it_starts_from(base: TrainConfig, unbroken: Path, instructions: Path, tmp_path, capsys):
    config = tuning(base, instructions, tmp_path / "run", InitConfig(checkpoint=str(unbroken)))
    train(config)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"starting from the parameters of {unbroken}/checkpoints/{TOTAL}"
    assert told[-1] == f"finished all 1 steps: asclepius export --checkpoint {tmp_path}/run --out FOLDER"
    # A run that continues needs no weights to be named.
    train(dataclasses.replace(config, init=InitConfig()))
    assert capsys.readouterr().out.startswith(f"resuming the run in {tmp_path}/run\n")


def test_a_start_is_one_thing(base: TrainConfig):
    with pytest.raises(UserError, match=r"init\.hf and init\.random are both set: choose one"):
        train(dataclasses.replace(base, init=InitConfig(hf="a", random=True)))


@pytest.mark.parametrize("open_choices", [True, False])
def test_a_run_that_does_not_fit_the_machine_is_refused(base: TrainConfig, tmp_path, monkeypatch, open_choices: bool):
    """Whether microbatches and remat are chosen for the machine or given."""
    monkeypatch.setattr(choose, "this_cpu", lambda count: dataclasses.replace(this_cpu(count), memory_bytes=100_000))
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    compute = dataclasses.replace(config.compute, remat="auto" if open_choices else "none")
    batch = dataclasses.replace(config.batch, microbatches=0 if open_choices else 1)
    with pytest.raises(UserError, match=r"needs about .* GiB of memory, and this machine has 0\.0 GiB free"):
        train(dataclasses.replace(config, compute=compute, batch=batch))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def long_evaluation(base: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run whose first evaluation, after step 6, has several batches."""
    part = dataclasses.replace(base.data, eval_path=base.data.path)
    return dataclasses.replace(base, run_dir=str(tmp_path / "run"), data=part)


def test_a_stop_does_not_wait_for_an_evaluation(long_evaluation: TrainConfig, monkeypatch, capsys):
    evaluated, eval_batches = [], loop.eval_batches

    def struck(*arguments: Any):
        for number, batch in enumerate(eval_batches(*arguments)):
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            evaluated.append(number)
            yield batch

    monkeypatch.setattr(loop, "eval_batches", struck)
    train(long_evaluation)
    assert evaluated == [0, 1]
    assert steps_of(long_evaluation.run_dir) == [4, 6]
    assert not any("eval_loss" in row for row in metrics_of(long_evaluation.run_dir))
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"stopped at step 6 of {TOTAL}, saved in {long_evaluation.run_dir}: run the same command to resume"
    )
    monkeypatch.undo()
    train(long_evaluation)
    assert list(losses_of(long_evaluation.run_dir)) == list(range(1, TOTAL + 1))


@pytest.mark.slow
def test_processes_leave_an_evaluation_together(long_evaluation: TrainConfig):
    config = long_evaluation
    address, environment = free_address(), {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    processes = [
        # The second process alone is struck.
        subprocess.Popen([*command_of(config, 2 * rank, "judging"), *job_flags(address, rank)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert max(steps_of(config.run_dir)) == 6
    assert not any("eval_loss" in row for row in metrics_of(config.run_dir))


def test_the_processes_of_a_job_are_asked_for_every_number_once(monkeypatch):
    """JAX names one number at which all leave, and answers for that one alone."""
    asked: list[int] = []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda number: asked.append(number) or number == 3
    )
    stop = StopSignal()
    assert [stop.reached() for _ in range(5)] == [False, False, True, True, True]
    assert asked == [1, 2, 3]
