"""`asclepius preflight` in one process of eight devices: what is right passes, and what is planted is found."""

import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.config import ComputeConfig, DataConfig, TrainConfig
from asclepius_jax.cost_model.choose import machine_of
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.model import attention, output_loss
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.kernels import matmul
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from asclepius_jax.plan.preflight import kernel_errors, saved_step
from asclepius_jax.plan.preflight.hosts import judge_hosts
from asclepius_jax.plan.preflight.preflight import run
from asclepius_jax.plan.preflight.records import Run, slow
from asclepius_jax.plan.preflight.saved_step import Size, random_state, save_and_restore, size_to_save, step_bytes
from asclepius_jax.plan.preflight.speeds import link_rows
from asclepius_jax.train.setup import make_step
from data_prep.contract.errors import UserError
from data_prep.contract.folders.folder_lock import locked

GB = 1e9
TINY = dataclasses.replace(VARIANTS["tiny"], head_dim=32)


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in json.loads(path.read_text())["rows"]}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_good_machine_passes_and_nothing_is_left_behind(base: TrainConfig, tmp_path: Path, capsys):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    run(config, str(tmp_path / "found.json"))
    rows = rows_of(tmp_path / "found.json")
    assert {row["status"] for row in rows.values()} <= {"ok", "warning"}, rows
    assert rows["devices"]["value"] == "8 x cpu, 1 process"
    assert {f"all-gather over {axis}" for axis in ("data", "fsdp", "tensor")} <= rows.keys()
    assert rows["the rest of the run"]["value"].startswith("9 steps, ")
    assert float(rows["loss"]["value"].split()[0]) == pytest.approx(np.log(320), rel=0.05)  # 320 pieces, random weights
    assert "preflight" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json"]


@pytest.mark.slow
def test_an_existing_run_is_not_changed(base: TrainConfig, unbroken: Path, tmp_path: Path):
    before = everything(unbroken)
    (unbroken / ".preflight-killed").mkdir()
    run(dataclasses.replace(base, run_dir=str(unbroken)), str(tmp_path / "found.json"))
    assert everything(unbroken) == before
    assert not list(unbroken.glob(".preflight-*"))
    assert rows_of(tmp_path / "found.json")["the rest of the run"]["value"].startswith("0 steps, ")
    other = dataclasses.replace(base, run_dir=str(unbroken), data=dataclasses.replace(base.data, seed=7))
    with pytest.raises(UserError, match=r"1 of .* checks are wrong \(set-up\)"):
        run(other, str(tmp_path / "found.json"))
    assert "data.seed 0 -> 7" in rows_of(tmp_path / "found.json")["set-up"]["value"]
    assert everything(unbroken) == before


def test_the_folder_of_a_run_that_goes_on_is_refused(base: TrainConfig, tmp_path: Path):
    with locked(tmp_path), pytest.raises(UserError, match="is in use by process"):
        run(dataclasses.replace(base, run_dir=str(tmp_path)))


# ---------------------------------------------------------------- kernels


# Windows shorter and longer than the documents of a checked row, and as long as the rows; caps; padding.
KINDS = DecoderConfig(
    251, 32, 64, 3, 4, 2, head_dim=32, max_length=256, window=9, layer_kinds=("window", "full", "window_nope"),
    score_cap=50.0, logit_cap=30.0, vocab_padding=5,
)  # fmt: skip


def checked(dtype: str, kernel: Kernel, length: int = 64, model: DecoderConfig = TINY) -> Any:
    """What the check of kernels reads of a run, of a small model on two devices."""
    config = TrainConfig(compute=ComputeConfig(dtype), data=DataConfig(row_length=length))
    devices = jax.local_devices()[:2]
    decoder = SimpleNamespace(config=model)
    return SimpleNamespace(config=config, model=decoder, kernel=kernel, devices=devices, platform="cpu")


def wrong_cases(found: Any) -> list[str]:
    measured = [{"place": "node7", **kernel_errors.measure_kernels(found)}]
    return [
        f"{row.check}: {row.place}" for row in kernel_errors.judge_kernels(found, measured) if row.status == "wrong"
    ]


@pytest.mark.parametrize(
    ("dtype", "kernel", "length"),
    [("float32", Kernel(), 64), ("bfloat16", Kernel(), 64), ("bfloat16", Kernel("splash", interpret=True), 128)],
)
def test_right_kernels_are_well_below_the_limit(dtype: str, kernel: Kernel, length: int):
    errors = kernel_errors.measure_kernels(checked(dtype, kernel, length))["errors"]
    assert len(errors) == 4 if kernel.name == "xla" else 3
    limit = kernel_errors.TOLERANCES[dtype, "cpu"]
    assert 0 < max(error for case in errors.values() for parts in case.values() for error in parts) < limit / 2


@pytest.mark.parametrize(
    ("dtype", "kernel", "length"),
    [("float32", Kernel(), 64), ("bfloat16", Kernel("splash", interpret=True), 128)],
)
def test_every_window_of_the_model_is_checked_with_its_caps(dtype: str, kernel: Kernel, length: int):
    errors = kernel_errors.measure_kernels(checked(dtype, kernel, length, KINDS))["errors"]
    attention = {name.partition("tokens")[2] for name in errors if name.startswith("attention")}
    assert attention == {", window 9, capped", ", capped"}
    assert any(name.startswith("output loss") and name.endswith("capped") for name in errors)
    limit = kernel_errors.TOLERANCES[dtype, "cpu"]
    assert 0 < max(error for case in errors.values() for parts in case.values() for error in parts) < limit / 2


@pytest.mark.parametrize(("window", "told"), [(40, "window 11"), (64, None), (100, None), (5, "window 5")])
def test_a_window_beyond_documents_is_made_shorter_and_one_beyond_rows_is_none(window: int, told: str | None):
    """Rows of 64 tokens, 60 of them used; the longest document has two fifths of these."""
    model = dataclasses.replace(KINDS, window=window)
    names = [
        case.name for case in kernel_errors.cases(checked("float32", Kernel(), 64, model)) if "tokens" in case.name
    ]
    assert any(told in name for name in names) if told else not any("window" in name for name in names)


@pytest.mark.parametrize("fault", ["window", "cap", "logit cap", "padding"])
def test_a_planted_wrong_window_cap_or_padding_is_named(fault: str, monkeypatch):
    attend, prepare, loss_sum = attention.attend, attention.prepare, output_loss.loss_sum
    if fault == "window":
        moved = lambda kernel, segments, window: prepare(kernel, segments, window and window + 1)  # noqa: E731
        monkeypatch.setattr(attention, "prepare", moved)
    elif fault == "cap":
        monkeypatch.setattr(attention, "attend", lambda *given: attend(*given[:-1], given[-1]._replace(cap=None)))
    else:
        wrong = {"cap": None} if fault == "logit cap" else {"vocab_size": None}
        planted = lambda *given: loss_sum(*given[:-1], given[-1]._replace(**wrong))  # noqa: E731
        monkeypatch.setattr(output_loss, "loss_sum", planted)
    wrong_ones = wrong_cases(checked("bfloat16", Kernel(), 64, KINDS))
    assert wrong_ones
    named = {"window": "window 9", "cap": "capped"}.get(fault, "output loss")
    assert all(named in case for case in wrong_ones), wrong_ones


def leaking(segments_BT: Any, window: int | None = None) -> Any:
    B, T = segments_BT.shape
    return jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool)), (B, T, T))


plain, product, loss_sum = attention.plain, matmul.product, output_loss.loss_sum


def one_wrong_token(*inputs: Any) -> Any:
    return plain(*inputs).at[0, 40, 0].mul(1.1)


@jax.custom_vjp
def wrong_backward(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return plain(q, k, v, mask)


wrong_backward.defvjp(
    lambda *inputs: jax.vjp(lambda q, k, v: plain(q, k, v, inputs[3]), *inputs[:3]),
    lambda pull, d_out: (*(grad * factor for grad, factor in zip(pull(d_out), (1, 1.1, 1), strict=True)), None),
)


@pytest.mark.parametrize(
    ("module", "name", "planted", "found"),
    [
        (attention, "packed_mask", leaking, "attention"),
        (attention, "plain", one_wrong_token, "attention"),
        (attention, "plain", lambda *inputs: wrong_backward(*inputs[:4]), "attention"),
        (output_loss, "loss_sum", lambda *inputs: 0.9 * loss_sum(*inputs), "output loss"),
        (
            matmul,
            "product",
            lambda spec, x, w: product(spec, x, w).astype(jnp.float8_e4m3fn).astype(x.dtype),
            "product",
        ),
    ],
)
def test_a_planted_wrong_kernel_is_named(module: Any, name: str, planted: Callable[..., Any], found: str, monkeypatch):
    monkeypatch.setattr(module, name, planted)
    wrong = wrong_cases(checked("bfloat16", Kernel()))
    for device in ("cpu:0", "cpu:1"):
        assert any(case.startswith(found) and case.endswith(f"node7, {device}") for case in wrong), wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "kernel"),
    [("h100-1", Kernel("cudnn_packed", 8)), ("a100-80g-1", Kernel("cudnn_mask")), ("v5e-1", Kernel("splash"))],
)
@pytest.mark.parametrize("kinds", [False, True], ids=["llama", "windows"])
def test_the_checks_of_kernels_compile_for_accelerators(topology: str, kernel: Kernel, kinds: bool):
    devices = compile_devices(parse_topology(topology))
    jax.config.update("jax_enable_compilation_cache", False)
    model = dataclasses.replace(KINDS, score_cap=50.0 if kernel.name == "splash" else None) if kinds else TINY
    for case in kernel_errors.cases(checked("bfloat16", kernel, 512, model)):
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in case.inputs]
        assert kernel_errors.program(devices, case).lower(*shapes).compile()


# ---------------------------------------------------------------- peers


def test_a_slow_link_and_a_slow_device_are_named():
    assert slow({"a": 100.0, "b": 79.0, "c": 100.0, "d": 101.0}) == {"b": 100.0}
    assert slow({"a": 100.0, "b": 50.0}) == {"b": 100.0}
    assert not slow({"a": 100.0})
    place_of = {f"gpu:{i}": f"process {i // 4} on node{i // 4}" for i in range(8)}
    ring = [(f"gpu:{i}", f"gpu:{(i + 1) % 8}") for i in range(8)]
    speed = {pair: 40 * GB if pair in (ring[3], ring[7]) else 400 * GB for pair in ring}  # network, NVLink
    speed[ring[5]] = 100 * GB
    measures = [
        {"links": {"fsdp": {f"{a} - {b}": speed[a, b] for a, b in ring if place_of[a].startswith(f"process {host}")}}}
        for host in (0, 1)
    ]
    (row,) = link_rows("gpu", measures, place_of)
    assert (row.check, row.status, row.value) == ("link along fsdp", "warning", "100.00 GB/s")
    assert row.place == "process 1 on node1, gpu:5 - process 1 on node1, gpu:6"


def test_a_clock_that_is_off_is_named():
    measures = [{"place": f"node{i}", "clock": 1e9 + (0, 0.1, -9)[i], "program": [], "data": []} for i in range(3)]
    row = judge_hosts(measures)[0]
    assert (row.status, row.place, row.value) == ("warning", "node2", "-9.0 s from the median")


# ---------------------------------------------------------------- storage


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    made: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("mount is not installed")
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("options", "told"), [("size=1m", "No space left on device"), ("ro", "Read-only file system")])
def test_a_disk_that_takes_no_checkpoint_is_named(base: TrainConfig, tmp_path: Path, tmpfs, monkeypatch, options, told):
    disk = tmpfs(options)
    for check in ("kernels", "speeds", "steps"):
        monkeypatch.setattr(f"asclepius_jax.plan.preflight.preflight.measure_{check}", lambda *_: {"error": "left out"})
    with pytest.raises(UserError, match="writing to the run folder"):
        run(dataclasses.replace(base, run_dir=str(disk / "run")), str(tmp_path / "found.json"))
    rows = rows_of(tmp_path / "found.json")
    assert told in rows["writing to the run folder"]["value"]
    assert rows["writing to the run folder"]["place"]
    assert rows["checkpoint"]["status"] == "skipped"
    assert not list(disk.iterdir())


def test_a_large_step_is_tried_with_fewer_layers(base: TrainConfig, tmp_path: Path):
    setup = make_step(base)
    made = Run(setup.config, setup.model, setup.mesh, setup.kernel, machine_of(setup.mesh), setup.rows, setup)
    size = step_bytes(setup)
    assert size == 12 * setup.model.config.num_params + 12  # parameters, two moments, three counters
    assert size_to_save(made, [{"write": size, "read": size / 9}]) == (None, 10.0)
    assert size_to_save(made, [{"write": size / 9, "read": size / 1991}]) == Size(1, 2000.0)
    state = random_state(setup)
    before = jax.device_get(state)
    after, measure = save_and_restore(made, state, tmp_path, Size(1, 2000.0))
    blocks = sum(leaf[:1].nbytes for leaf in jax.tree.leaves(before["params"]["blocks"]))
    assert measure["bytes"] == blocks + 4  # and the step
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)
    told = saved_step.judge_saved(made, Size(1, 2000.0), [measure])
    assert [row.check for row in told] == ["checkpoint", "a whole checkpoint"]
