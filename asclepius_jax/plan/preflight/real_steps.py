"""Ten steps of the program that will train, on the first rows of the run, beside the plan's prediction."""

import math
import time
from pathlib import Path

import jax

from asclepius_jax.checkpoint.read import State, steps_of
from asclepius_jax.cost_model.choose import layout_of
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.speed import INTERVAL, predict
from asclepius_jax.plan.compile import allocations
from asclepius_jax.plan.preflight.devices import peak_bytes
from asclepius_jax.plan.preflight.records import Measure, Row, Run
from asclepius_jax.plan.preflight.stages import meet
from asclepius_jax.train.adapters import readable
from asclepius_jax.train.batches import Prefetch

STEPS = 10
MOST_WAIT = 0.1  # of a step's time, for its rows


def measure_steps(run: Run, state: State) -> Measure:
    """Ten updates. The state is donated to the first."""
    began = time.monotonic()
    program = run.setup.program()
    if not run.config.compute.program:
        program = program.lower(*run.setup.abstract()).compile()
    compile_seconds = time.monotonic() - began
    assert run.setup.batches is not None, "the rows were opened before"
    waits: list[float] = []
    losses = []
    with Prefetch(run.setup.batches, 0, STEPS) as coming:
        meet("steps")
        for number in range(STEPS):
            asked = time.monotonic()
            batch = coming.get()
            waits.append(time.monotonic() - asked)
            state, numbers = program(state, batch)
            losses.append(numbers["loss"])
            if number == 0:  # it moves what the others find in place
                jax.block_until_ready(numbers)
                began = time.monotonic()
        jax.block_until_ready(losses)
    return {
        "compile": compile_seconds,
        "step": (time.monotonic() - began) / (STEPS - 1),
        "wait": sum(waits[1:]) / (STEPS - 1),
        "losses": [float(loss) for loss in jax.device_get(losses)],
        "allocated": allocations(program)[2],
        "peak": peak_bytes(run.devices),
    }


def judge_steps(run: Run, measures: list[Measure]) -> list[Row]:
    config, setup = run.config, run.setup
    step = max(each["step"] for each in measures)
    losses = measures[0]["losses"]
    finite = all(math.isfinite(loss) for loss in losses)
    rows = [
        Row(
            "compilation",
            "ok",
            f"{max(each['compile'] for each in measures):.1f} s",
            f"cached in {config.compute.compiled}" if config.compute.compiled else "",
        ),
        Row(
            "loss",
            "ok" if finite else "wrong",
            f"{losses[0]:.3f} to {losses[-1]:.3f} from random weights",
            "finite",
            remedy="" if finite else "look at the kernels above, the rows, and --optimizer.learning-rate",
        ),
        memory_row(run, measures),
    ]
    rows += waiting_rows(measures)
    tokens = config.batch.global_batch * config.data.row_length / step
    speed = f"{step:.4g} s per step, {tokens:,.0f} tokens/s, {tokens / run.mesh.size:,.0f} per device"
    topology, expected, factor, slower = run.machine.topology, "", "", False
    if topology is not None:
        planned = predict(run.model.config, topology, layout_of(config, run.mesh, run.model.config)).step_seconds
        expected = f"plan: {planned:.4g} s per step" + (", a guess for CPUs" if run.platform == "cpu" else "")
        factor, slower = f"{step / planned:.2f} x the plan's", step > planned / INTERVAL[0]
    slower = slower and run.platform != "cpu"
    rows.append(
        Row(
            "speed",
            "warning" if slower else "ok",
            speed,
            expected,
            remedy="see the slow devices, links and hosts above" if slower else "",
        )
    )
    done = [int(path.name) for path in steps_of(Path(config.run_dir))]
    left = max(0, setup.total_steps - max(done, default=0))
    hours = left * step / 3600
    return [
        *rows,
        Row(
            "the rest of the run",
            "ok",
            f"{left:,} steps, {hours:,.2f} h, {hours * run.mesh.size:,.2f} device-hours",
            factor,
        ),
    ]


def memory_row(run: Run, measures: list[Measure]) -> Row:
    """The most of any device: as it reports, or where it does not, as the compiler has planned."""
    need = estimate(run.config, run.model.config, dict(run.mesh.shape), run.kernel).total
    peak = max(each["peak"] for each in measures)
    allocated = max(each["allocated"] for each in measures)
    used, limit = max(peak, allocated), run.machine.limit_bytes
    measured = f"{readable(peak)} at most" if peak else "not reported by the devices"
    status = "warning" if limit and used > 0.97 * limit else "ok"
    told = f"plan: {readable(int(need))}" + (f", device: {readable(limit)}" if limit else "")
    place = max(measures, key=lambda each: each["peak"])["place"] if status == "warning" else ""
    return Row(
        "memory of a step",
        status,
        f"{measured}, program {readable(allocated)}",
        told,
        place,
        "" if status == "ok" else "more --batch.microbatches, or --compute.remat full",
    )


def waiting_rows(measures: list[Measure]) -> list[Row]:
    """The hosts whose rows are late. A late row of one host delays the step of all."""
    rows = []
    for each in measures:
        if each["wait"] > MOST_WAIT * each["step"]:
            rows.append(
                Row(
                    "waiting for rows",
                    "warning",
                    f"{each['wait']:.4g} s per step",
                    f"at most {MOST_WAIT:.0%} of a step",
                    each["place"],
                    "a faster disk for --data.path, or fewer other programs on this host",
                )
            )
    return rows or [Row("waiting for rows", "ok", f"{max(each['wait'] for each in measures):.4g} s per step")]
