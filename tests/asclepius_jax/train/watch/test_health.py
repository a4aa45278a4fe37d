"""What counts as out of order, from numbers alone."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asclepius_jax.checkpoint.write import kept
from asclepius_jax.config import CheckpointConfig, HealthConfig
from asclepius_jax.train.watch.goodput import Goodput, goodput_line, share, summed
from asclepius_jax.train.watch.health import Health, device_seconds, laggards, lagging
from asclepius_jax.train.watch.metrics import Clock


def health(folder: Path, **values: Any) -> Health:
    batches = SimpleNamespace(row_names=lambda step: [10 * step, 10 * step + 1], rows=SimpleNamespace(folder="packed"))
    return Health(folder, HealthConfig(**values), batches)


def rows(losses: list[float], first: int = 1) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": loss, "grad_norm": 1.0, "skipped": float(not math.isfinite(loss))}
        for step, loss in enumerate(losses, first)
    ]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_loss_that_jumps_is_told_with_its_rows(tmp_path: Path, capsys):
    noise = np.random.default_rng(0).normal(2.0, 0.05, 60).tolist()
    look = health(tmp_path)
    assert look.look(rows([*noise, 4.0, *noise[:5]])) == ""
    assert [(e["step"], e["event"], e["loss"], e["rows"]) for e in events(tmp_path)] == [(61, "spike", 4.0, [600, 601])]
    assert "step 61: the loss 4.000 jumped from" in capsys.readouterr().out


def test_a_fall_a_slow_rise_and_an_even_course_are_no_spikes(tmp_path: Path):
    look = health(tmp_path)
    falling = [10 * math.exp(-step / 40) + 0.02 * (step % 3) for step in range(150)]
    look.look(rows([*falling, *[0.5] * 100, 0.55, *[0.5 + 0.002 * step for step in range(100)]]))
    assert not (tmp_path / "events.jsonl").exists()


def test_only_skips_in_a_row_end_a_run(tmp_path: Path):
    nan = math.nan
    look = health(tmp_path, max_skipped=2)
    assert look.look(rows([1.0, nan, nan, 1.0, nan, nan])) == ""
    # The row goes on over what was looked at before.
    told = look.look(rows([nan], first=7))
    assert "3 steps in a row (health.max_skipped 2), the last of them 7, with rows 60, 61 of packed" in told
    assert [e["step"] for e in events(tmp_path)] == [2, 3, 5, 6, 7]
    assert events(tmp_path)[0]["loss"] == "nan"  # JSON has no such number


def test_an_update_that_is_no_number_is_told_apart_from_a_loss(tmp_path: Path, capsys):
    """Loss and gradient are finite where a small epsilon or a large rate makes the update infinite."""
    skipped = [{**row, "skipped": 1.0} for row in rows([2.0, 2.0])]
    problem = health(tmp_path, max_skipped=1).look(skipped)
    assert problem.startswith("the update was not finite in 2 steps in a row (health.max_skipped 1)")
    assert "use a larger optimizer.epsilon or a lower learning rate" in problem
    assert "step 1: the update is not finite" in capsys.readouterr().out
    assert health(tmp_path, max_skipped=0).look(rows([math.nan])).startswith("loss or gradient was not finite")


@pytest.mark.parametrize(
    ("seconds", "places"),
    [
        ([1.0, 1.01, 0.99, 1.02, 2.0], [4]),
        ([1.0, 1.0, 1.0, 1.0, 1.1], []),  # beyond the spread, and not worth a word
        ([1.0, 1.0, 1.0, 1.0, 1.3], [4]),
        ([1.0, 3.0], []),  # of two, nobody knows which is slow
        ([0.0, 0.0, 0.0, 0.0005], []),
        ([5.0, 1.0, 1.0, 9.0, 1.0, 1.0], [0, 3]),
        ([0.2, 1.0, 1.0, 1.0], []),  # a fast one lags in nothing
    ],
)
def test_one_that_lags_is_beyond_three_deviations(seconds: list[float], places: list[int]):
    assert lagging(np.array(seconds)) == places


def test_laggards_are_named_with_what_they_lag_in():
    seconds = np.array([[1.0, 0.01, 0.002], [1.0, 0.01, 0.002], [1.0, 0.4, 0.002], [1.0, 0.01, 0.02]])
    assert laggards(seconds) == [
        "process 2 takes 0.4000 s per step waiting for input, the median of all processes is 0.0100 s",
        "process 3 takes 0.0200 s for a benchmark product on its own devices, the median of all processes is 0.0020 s",
    ]
    assert device_seconds() > 0


# ---------------------------------------------------------------- retention


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (CheckpointConfig(keep=1), {50}),
        (CheckpointConfig(keep=2), {40, 50}),
        (CheckpointConfig(keep=1, keep_every=20), {20, 40, 50}),
        (CheckpointConfig(keep=1, keep_best=1), {30, 50}),
        (CheckpointConfig(keep=1, keep_best=2), {10, 30, 50}),  # of equals the earlier
        (CheckpointConfig(keep=9), {10, 20, 30, 40, 50}),
    ],
)
def test_what_stays_is_the_newest_every_kth_and_the_best(config: CheckpointConfig, steps: set[int]):
    assert kept([50, 10, 30, 20, 40], {10: 2.5, 30: 2.0, 50: 2.5}, config) == steps


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_never_among_the_best(bad: float):
    """NaN is neither above nor below any loss, so that a sort leaves everything around it where it was."""
    for steps in itertools.permutations((10, 20, 30, 40)):
        losses = {step: {10: bad, 20: 2.0, 30: bad, 40: 2.5}[step] for step in steps}
        assert kept([10, 20, 30, 40, 50], losses, CheckpointConfig(keep=1, keep_best=1)) == {20, 50}
        assert kept([10, 20, 30, 40, 50], losses, CheckpointConfig(keep=1, keep_best=3)) == {20, 40, 50}


# ---------------------------------------------------------------- hours


def account(folder: Path, number: int, began: float, ended: float, first: int, **more: Any) -> None:
    (folder / "goodput").mkdir(exist_ok=True)
    values = {"began": began, "ended": ended, "first_step": first, "restart": 0.0, "lost_work": 0.0, "step": 0, **more}
    (folder / f"goodput/{number:04}.json").write_text(json.dumps(values))


def test_the_hours_of_all_starts_add_up_to_the_wall_clock(tmp_path: Path):
    account(tmp_path, 1, 1000, 1100, 0, seconds={"start-up": 10.0, "compile": 20.0, "step": 60.0, "save": 5.0})
    account(tmp_path, 2, 1130, 1200, 40, seconds={"start-up": 10.0, "step": 55.0}, restart=30.0, lost_work=15.0)
    hours = summed(tmp_path)
    assert sum(hours.values()) == pytest.approx(200.0)
    assert hours == {
        "step": 100.0, "restart": 30.0, "compile": 20.0, "start-up": 20.0, "lost work": 15.0, "other": 10.0,
        "save": 5.0,
    }  # fmt: skip
    assert share(hours) == 0.5
    assert goodput_line(tmp_path).startswith("goodput 50.0% of 200.0 s over 2 starts: step 100.0 s, restart 30.0 s")


def test_a_start_counts_what_the_one_before_lost(tmp_path: Path):
    """A row's seconds include waiting outside of the step, here half of them: of 2.25 s in steps, 1.75 s were lost."""
    account(tmp_path, 1, 1000, 1100, 0, seconds={"step": 2.25})
    seconds = {1: 20.0, 2: 1.0, 3: 1.5, 4: 2.0}  # the first step compiled
    lines = [json.dumps({"step": step, "loss": 1.0, "seconds": s}) for step, s in seconds.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, json.dumps({"step": 4, "eval_loss": 1.0})]))
    Goodput(tmp_path, Clock(), 2)
    second = json.loads((tmp_path / "goodput/0002.json").read_text())
    assert second["lost_work"] == 1.75
    assert second["restart"] == pytest.approx(second["began"] - 1100)
    assert 0 < share(summed(tmp_path)) < 1
    Goodput(tmp_path, Clock(), 0)  # as if the second start had compiled at step 3: all else is lost as well
    assert json.loads((tmp_path / "goodput/0003.json").read_text())["lost_work"] == 0.5
