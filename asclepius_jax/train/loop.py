"""The training loop."""

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.checkpoint.adapters import num_adapter_params
from asclepius_jax.checkpoint.read import State
from asclepius_jax.checkpoint.write import Saver
from asclepius_jax.config import TrainConfig, check
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.cost_model.choose import check_memory
from asclepius_jax.distributed.interrupts import start_is_over
from asclepius_jax.distributed.same_program import check_agreement, facts_of
from asclepius_jax.distributed.sharding import batch_sharding
from asclepius_jax.train.adapters import footprint
from asclepius_jax.train.batches import PackedRows, Prefetch, eval_batches
from asclepius_jax.train.setup import build_model, describe, make_step, open_data
from asclepius_jax.train.start import (
    announce_start,
    check_hosts,
    lock_of_run,
    start_state,
    with_local_copies,
    with_local_weights,
    write_run_folder,
)
from asclepius_jax.train.step import make_eval_step
from asclepius_jax.train.watch.goodput import Goodput, goodput_line, read_accounts, share, summed
from asclepius_jax.train.watch.health import Health, Pace
from asclepius_jax.train.watch.metrics import Clock, Metrics, Throughput, Trace
from asclepius_jax.train.watch.report import write_report
from asclepius_jax.train.watch.stopping import StopSignal
from asclepius_jax.train.watch.trackers import Trackers
from asclepius_jax.train.watch.watchdog import Watchdog
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import showing_addresses
from data_prep.contract.folders.buckets.local_copies import sending
from data_prep.contract.folders.buckets.objects import is_bucket_url


def train(config: TrainConfig, devices: list[jax.Device] | None = None) -> Path:
    """Train until the last step, SIGTERM or Ctrl-C. This is `asclepius train`.

    Resumes an interrupted run in `config.run_dir`. Writes checkpoints, `metrics.jsonl`, `summary.json` and
    `report.html` to that folder.

    Args:
        config: settings of the run; `config.data.path` is the folder of packed rows.
        devices: devices of the mesh; None means all devices.

    Returns:
        The run folder.

    Raises:
        UserError: the run is not possible with these settings, data, weights, devices or memory, or has to stop.
    """
    clock = Clock()
    with contextlib.ExitStack() as held:
        with clock("start-up"):
            check(config)
            if is_bucket_url(config.run_dir):
                held.enter_context(sending([config.run_dir]))
            held.enter_context(showing_addresses())
            config = with_local_copies(with_learning_rate(config))
            run_dir = Path(config.run_dir)
            watchdog = Watchdog(run_dir, config.health)
            held.enter_context(watchdog.watching())
            keep_compiled(config.compute.compiled)
            check_agreement(facts_of(config))
            config = with_local_weights(config)
            held.enter_context(lock_of_run(run_dir))
            check_hosts(config)
            model = build_model(config.model, config.lora)
            rows, held_out = open_data(config, model.config)
            announce_start(config, rows)
            setup = make_step(config, model, rows, [*held_out.values()], devices, quiet=False)
            config, mesh, kernel = setup.config, setup.mesh, setup.kernel
            optimizer, shardings, total_steps = setup.optimizer, setup.shardings, setup.total_steps
            check_memory(config, model.config, mesh, kernel)
            watchdog.alive()
            batches = setup.batches
            assert batches is not None, "a run has rows"
            if model.lora.rank and jax.process_index() == 0:
                print(footprint(model, optimizer, mesh), flush=True)
            train_step = setup.program()
            # Before anything is written, so that a refused start leaves no run folder behind.
            state = start_state(config, model, rows, optimizer, shardings)
            watchdog.alive()
            first = int(state["step"])
            if first >= total_steps:
                print(f"{run_dir} is finished: all {total_steps} steps", flush=True)
                return run_dir
            trackers = Trackers(run_dir, config, first, total_steps)
            held.callback(trackers.close)
            meta = describe(config, model, rows, state)
            saver = Saver(run_dir, config.checkpoint)
            write_run_folder(run_dir, config, rows)
            eval_step = make_eval_step(config, model, shardings, mesh, kernel)

        goodput = Goodput(run_dir, clock, first)
        metrics = Metrics(run_dir, config.log, first, total_steps, trackers.send)
        held.callback(metrics.close)
        trained = num_adapter_params(model.config, config.lora)
        throughput = Throughput(model.config, config.batch.global_batch, config.data.row_length, trained)
        health, pace = Health(run_dir, config.health, batches), Pace(config.health, clock)
        stop, trace = StopSignal(), Trace(run_dir / "profile", first, config.profile)
        start_is_over()
        for watch in (stop.caught(), trace):
            held.enter_context(watch)
        coming = held.enter_context(Prefetch(batches, first, total_steps))
        metrics.start_clock()
        for step in range(first + 1, total_steps + 1):
            with clock("input"):
                batch = coming.get()
            with clock("compile" if step == first + 1 else "step"):
                state, numbers = train_step(state, batch)
            metrics.add(step, numbers)
            watchdog.step_sent(numbers)
            trace.after(step, numbers)
            leave = step < total_steps and stop.reached()
            # Stopping does not wait for an evaluation.
            evaluating = bool(held_out) and not leave and due(step, config.evaluation.every_steps, total_steps)
            saving = leave or due(step, config.checkpoint.every_steps, total_steps)
            problem, eval_loss = "", None
            # The first step is fetched alone, so that its compilation does not count towards other steps. Pending
            # steps are fetched before a pause, so that their time is counted.
            if metrics.due(step) or evaluating or saving or step == first + 1:
                with clock("compile" if step == first + 1 else "step"):
                    problem = health.look(metrics.fetch(throughput))
                goodput.write(step)
                pace.compare_if_due(step, watchdog.median_seconds)
            if evaluating and not problem:
                with clock("evaluation"), metrics.pause(), watchdog.pausing():
                    result = evaluate(state, eval_step, held_out, config, batch_sharding(mesh), watchdog, stop)
                if result:
                    eval_loss = unless_not_finite(step, result["eval_loss"])
                    metrics.write([{"step": step, **result}])
                else:
                    leave = saving = True
            if saving or problem:
                with clock("save"), metrics.pause(), watchdog.pausing():
                    saver.save(step, state, dataclasses.replace(meta, eval_loss=eval_loss))
            if leave or problem:
                break
        with clock("save"), watchdog.pausing():
            saver.finish(last=True)
        goodput.write(step)
        finish_run_folder(run_dir, step, total_steps, clock)
        if not problem and jax.process_index() == 0:
            print(last_line(run_dir, step, total_steps), flush=True)
    if problem:
        raise UserError(problem)
    return run_dir


def last_line(run_dir: Path, step: int, total_steps: int) -> str:
    """The last line of output, with the command to run next."""
    if step < total_steps:
        return f"stopped at step {step} of {total_steps}, saved in {run_dir}: run the same command to resume"
    return f"finished all {total_steps} steps: asclepius export --checkpoint {run_dir} --out FOLDER"


def keep_compiled(folder: str) -> None:
    """Cache compiled programs in this folder, unless JAX has a cache folder already."""
    if folder and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def due(step: int, every: int, total: int) -> bool:
    return step % every == 0 or step == total


def evaluate(
    state: State,
    eval_step: Any,
    held_out: dict[str, PackedRows],
    config: TrainConfig,
    sharding: Any,
    watchdog: Watchdog,
    stop: StopSignal,
) -> dict[str, float]:
    """Mean loss in nats and perplexity over the held-out tokens that carry loss; for pairs, mean loss and accuracy.

    NaN if there are no such tokens, and empty if the run was stopped. `eval_loss` is that of the first set; of several,
    each has one under its name too, such as `eval_loss/general`.
    """
    size = max(1, config.batch.global_batch // config.batch.microbatches)
    found: dict[str, float] = {}
    for name, rows in held_out.items():
        parts = []
        for batch in eval_batches(rows, size, config.evaluation.max_rows, sharding):
            parts.append(jax.device_get(eval_step(state, batch)))
            watchdog.alive()
            if stop.reached():
                return {}
        sums = {key: math.fsum(float(part[key]) for part in parts) for key in parts[0]}
        weight = sums.pop("weight")
        measured = {f"eval_{key}": total / weight if weight else math.nan for key, total in sums.items()}
        if not rows.has_pairs:
            measured["eval_perplexity"] = math.exp(min(measured["eval_loss"], 80.0))
        found |= {} if found else measured
        if len(held_out) > 1:
            found |= {f"{key}/{name}": value for key, value in measured.items()}
    return found


def unless_not_finite(step: int, loss: float) -> float | None:
    """The loss on held-out rows, or None with a warning if it is not a finite number."""
    if math.isfinite(loss):
        return loss
    if jax.process_index() == 0:
        print(f"WARNING: step {step}: the loss on held-out rows is {loss}; the step is not among the best", flush=True)
    return None


def finish_run_folder(run_dir: Path, step: int, total_steps: int, clock: Clock) -> None:
    """Write summary.json and the report, and print the goodput."""
    if jax.process_index() != 0:
        return
    hours = summed(run_dir)
    summary = {
        "step": step,
        "total_steps": total_steps,
        "seconds": dict(clock.seconds),
        "seconds_of_all_starts": hours,
        "starts": len(read_accounts(run_dir)),
        "goodput": share(hours),
    }
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(run_dir)
    print(goodput_line(run_dir), flush=True)
