"""What a run says and refuses before its first step, and how it leaves when it is asked to."""

import dataclasses
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax.config import BatchConfig, DataConfig, InitConfig, TrainConfig
from asclepius_jax.cost_model import choose
from asclepius_jax.cost_model.hardware import this_cpu
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.plan.compile import PlanOptions, plan
from asclepius_jax.train import loop
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.loop import train
from asclepius_jax.train.setup import make_step, total_steps
from asclepius_jax.train.watch.stopping import StopSignal, multihost_utils
from data_prep.contract.errors import UserError
from data_prep.pack import run as pack
from tests.helpers.made_inputs import example, free_address, job_flags, write_records
from tests.helpers.training.small_run import LENGTH, ROWS, TOTAL, command_of, lasting, losses_of, metrics_of, steps_of


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
    part = dataclasses.replace(base.data, path=str(data), eval_path="")
    config = dataclasses.replace(base, data=part, run_dir=str(run_dir), init=init)
    return lasting(config, 1)


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


def test_a_run_says_once_how_many_updates_it_makes_and_which_rows_it_leaves_out(base: TrainConfig, tmp_path, capsys):
    config = dataclasses.replace(lasting(base, 1), run_dir=str(tmp_path / "run"))
    train(config)
    line = f"1 update of {ROWS} rows each, from {ROWS * 3 // 2} rows in {config.data.epochs:g} epochs; the last"
    assert capsys.readouterr().out.count(f"{line} {ROWS // 2} do not fill another batch and are left out\n") == 1


def with_rows(count: int) -> PackedRows:
    """Rows of which nothing but their number is asked."""
    rows = PackedRows.__new__(PackedRows)
    rows.folder, rows.row_length = Path("packed"), LENGTH
    rows.manifest = {"rows": count, "vocab_size": 256, "most_documents": 3, "phase": "pretrain"}
    rows.source = None
    return rows


def suggested(refusal: str) -> list[TrainConfig]:
    """The values that the refusal names, each in a configuration of its own."""
    found = {name: int(value) for name, value in re.findall(r"--([a-z.-]+) (\d+)", refusal)}
    assert found, refusal
    return [
        TrainConfig(
            model="tiny",
            data=DataConfig(row_length=LENGTH, epochs=found["data.epochs"] if name == "data.epochs" else 1.0),
            batch=BatchConfig(found["batch.global-batch"] if name == "batch.global-batch" else 128),
        )
        for name in found
    ]


@pytest.mark.parametrize(
    ("rows", "told"), [(130, "give 1 update,"), (127, "give 0 updates,"), (1279, "give 9 updates,")]
)
def test_a_data_set_too_small_to_train_on_is_refused_with_values_that_would_do(rows: int, told: str):
    config = TrainConfig(model="tiny", data=DataConfig(row_length=LENGTH))
    with pytest.raises(UserError, match=rf"^{rows:,} rows x 1 epochs in batches of 128 .*{told}") as refused:
        make_step(config, rows=with_rows(rows))
    for other in suggested(str(refused.value)):
        assert make_step(other, rows=with_rows(rows)).total_steps >= 10
    few = dataclasses.replace(config, few_steps=True)
    if rows >= 128:
        assert make_step(few, rows=with_rows(rows)).total_steps == rows // 128
    else:  # nothing would fill a batch, or rows would be read twice in one epoch
        with pytest.raises(UserError, match="give 0 updates"):
            make_step(few, rows=with_rows(rows))
    assert make_step(config, rows=with_rows(1280)).total_steps == 10


def test_training_and_planning_refuse_the_same_runs(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), few_steps=False)
    with pytest.raises(UserError, match="give 9 updates, fewer than 10"):
        train(config)
    assert not (tmp_path / "run").exists()
    topology = parse_topology("cpu-8")
    with pytest.raises(UserError, match="give 9 updates, fewer than 10"):
        plan(config, topology, compile_devices(topology), PlanOptions("cpu-8"))


def test_a_fraction_of_the_rows_is_that_fraction():
    """Of 0.29 x 100, floating point makes 28.999999999999996."""
    config = TrainConfig(batch=BatchConfig(1))
    for hundredths in range(1, 400):
        data = dataclasses.replace(config.data, epochs=hundredths / 100)
        for rows in (100, 700, 130_000):
            found = total_steps(dataclasses.replace(config, data=data), rows)
            assert found == hundredths * rows // 100, (hundredths, rows)


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
