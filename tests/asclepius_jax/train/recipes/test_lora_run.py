"""A run of adapters on packed notes: what a step of it holds, how it goes on, and what is refused and planned."""

import dataclasses
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.checkpoint.adapters import adapted, whole_params
from asclepius_jax.checkpoint.read import find_step, read_stored
from asclepius_jax.config import (
    LORA_TARGETS,
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    InitConfig,
    LogConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    check,
)
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.convert.merge_adapters import whole_reader
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import flatten, unflatten
from asclepius_jax.model.lora import TARGETS, Adapters
from asclepius_jax.plan.compile import PlanOptions, plan
from asclepius_jax.train.adapters import footprint, random_adapters, readable
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import state_shardings
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL, packed_notes, transformers_model
from tests.helpers.training.small_run import losses_of, run_and_strike, steps_of

ROW, BATCH, TOTAL = 32, 8, 9


@pytest.fixture(scope="module")
def base(small_tokenizer: Path, tmp_path_factory) -> TrainConfig:
    """A model that transformers made, notes packed for pretraining, nine steps of adapters with dropout."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("lora")
    shutil.copytree(small_tokenizer, root / "hf")
    transformers_model(root / "hf", MODEL)
    run_import(ImportConfig(root / "hf", root / "imported"))
    data = packed_notes(root / "train", small_tokenizer, 150, ROW)
    held_out = packed_notes(root / "held_out", small_tokenizer, 25, ROW, seed=1)
    rows = PackedRows(data, ROW)
    return TrainConfig(
        model=str(root / "hf"),
        init=InitConfig(checkpoint=str(root / "imported")),
        data=DataConfig(str(data), str(held_out), ROW, epochs=(TOTAL + 0.5) * BATCH / len(rows)),
        batch=BatchConfig(BATCH),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "none"),
        optimizer=OptimizerConfig(learning_rate=2e-2),
        checkpoint=CheckpointConfig(every_steps=4, keep=5),
        evaluation=EvalConfig(every_steps=9),
        log=LogConfig(every_steps=1, tensorboard=False, progress=False),
        lora=LoraConfig(rank=4, alpha=8.0, dropout=0.1),
        few_steps=True,
    )


@pytest.fixture(scope="module")
def unbroken(base: TrainConfig, tmp_path_factory) -> Path:
    return train(dataclasses.replace(base, run_dir=str(tmp_path_factory.mktemp("unbroken"))))


def adapters_of(run_dir: Path | str) -> dict[str, np.ndarray]:
    folder = find_step(Path(run_dir))[1]
    names = flatten(adapted(build(MODEL), LoraConfig(rank=4)).adapter_shapes)
    return {name: read_stored(folder, name, "adapters") for name in names}


def test_adapters_learn_from_packed_notes_and_a_step_holds_no_base(base: TrainConfig, unbroken: Path):
    losses = losses_of(unbroken)
    assert losses[TOTAL] < losses[1] - 0.5
    assert steps_of(unbroken) == [4, 8, 9]
    assert sorted(path.name for path in find_step(unbroken)[1].iterdir() if path.is_dir()) == [
        "adapters", "optimizer",
    ]  # fmt: skip


# Of a run without adapters, test_loop.py has both.
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_broken_run_ends_in_the_adapters_of_an_unbroken_one(
    base: TrainConfig, unbroken: Path, tmp_path: Path, number: int
):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    run_and_strike(config, 6, number)
    assert steps_of(config.run_dir) == ([4, 6] if number == signal.SIGTERM else [4])
    train(config)
    assert losses_of(config.run_dir) == losses_of(unbroken)
    ours = adapters_of(config.run_dir)
    for name, value in adapters_of(unbroken).items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_base_from_a_folder_is_that_from_a_checkpoint(base: TrainConfig, unbroken: Path, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), init=InitConfig(hf=base.model))
    train(config)
    assert losses_of(config.run_dir) == losses_of(unbroken)


def test_the_start_tells_what_trains_and_what_it_saves(base: TrainConfig, tmp_path: Path, capsys):
    model = adapted(build(MODEL), base.lora)
    mesh, optimizer = make_mesh(MeshConfig(1, 2), jax.devices()[:2]), make_optimizer(base.optimizer, 1)
    D, N, K, H, F, R, L = 32, 4, 2, 8, 64, 4, 2
    count = L * R * ((D + N * H) + 2 * (D + K * H) + (N * H + D) + 3 * (D + F))
    line = footprint(model, optimizer, mesh)
    assert f"training {count:,} parameters, {MODEL.num_params:,} are frozen" in line
    shardings = state_shardings(mesh, model, optimizer)
    state = jax.jit(optimizer.init, out_shardings=shardings["optimizer"])(
        random_adapters(model, 0, shardings["adapters"])
    )
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert f"optimizer state {readable(2 * held)} in total and {readable(held)} per device" in line


def test_other_adapters_or_none_do_not_continue_a_run(base: TrainConfig, unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "run")
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    for other in (dataclasses.replace(base.lora, alpha=4.0), LoraConfig()):
        with pytest.raises(UserError, match=r"contains an interrupted run with other settings \(lora"):
            train(dataclasses.replace(config, lora=other))


def test_what_generates_has_the_adapters_in_its_matrices(base: TrainConfig, unbroken: Path):
    """The model of a run, adapters beside the matrices, and the whole parameters of its step give the same logits."""
    model, plain = adapted(build(MODEL), dataclasses.replace(base.lora, base_dtype="float32")), build(MODEL)
    places = param_shardings(make_mesh(MeshConfig(2, 2, 2)), plain)
    whole = whole_params(find_step(unbroken)[1], plain, places)
    frozen = whole_params(find_step(Path(base.init.checkpoint))[1], plain, places)
    adapters = jax.tree.map(jnp.asarray, unflatten(adapters_of(unbroken)))
    tokens = np.random.default_rng(0).integers(3, 320, (8, 32))
    rows = (tokens, np.broadcast_to(np.arange(32), tokens.shape), np.ones_like(tokens))
    logits = [
        jax.jit(lambda p, a: model.merge(p, Adapters(model.lora, a))(*rows, "float32"))(params, beside)
        for params, beside in ((whole, {}), (frozen, adapters), (frozen, {}))
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
    assert np.abs(logits[2] - logits[1]).max() > 0.1


def test_adapters_can_start_from_a_run_of_adapters(base: TrainConfig, unbroken: Path, tmp_path: Path):
    """Pretraining by adapters, then tuning by others: the first ones are part of the base."""
    data = dataclasses.replace(base.data, eval_path="", epochs=base.data.epochs * 2.5 / 9.5)
    init = InitConfig(checkpoint=str(unbroken))
    # The first step has the rate that warmup begins with, which is zero.
    config = dataclasses.replace(
        base, run_dir=str(tmp_path / "run"), init=init, data=data, checkpoint=CheckpointConfig(1, keep=2)
    )
    train(config)
    assert losses_of(config.run_dir)[1] < losses_of(unbroken)[1] - 0.3
    # On the host as on devices: the new adapters add nothing yet.
    ours, theirs = (whole_reader(find_step(folder)[1]) for folder in (Path(config.run_dir) / "checkpoints/1", unbroken))
    for name, shape in flatten(build(MODEL).shapes).items():
        part = 1 if name.startswith("blocks.") else (slice(0, None),) * shape.ndim
        np.testing.assert_array_equal(ours(name, part), theirs(name, part), err_msg=name)


def test_a_run_never_goes_on_upon_another_base(base: TrainConfig, unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/9")
    shutil.copytree(base.model, tmp_path / "hf")
    transformers_model(tmp_path / "hf", MODEL, noise=0.2)
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), init=InitConfig(hf=str(tmp_path / "hf")))
    with pytest.raises(UserError, match=r"hf is not the base of the adapters in .*run \(base/.* differs\): set the w"):
        train(config)


# ---------------------------------------------------------------- what is refused, and what is planned


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rank": -1}, "lora.rank is -1: it must be 1 or more, or 0"),
        ({"alpha": 0.0}, "lora.alpha is 0.0: it must be above 0"),
        ({"dropout": 1.0}, "lora.dropout is 1.0: it must be at least 0"),
        ({"targets": ("q", "lm_head")}, "lora.targets is q lm_head: use some of q k v o gate up down"),
        ({"targets": ("q", "q")}, "lora.targets is q q: use some of"),
        ({"targets": ()}, "lora.targets is empty: use some of"),
    ],
)
def test_values_that_no_run_can_have_are_refused(values: dict[str, Any], told: str):
    config = TrainConfig(data=DataConfig("packed"), init=InitConfig(hf="base"), lora=LoraConfig(rank=4))
    check(config)
    with pytest.raises(UserError, match=told):
        check(dataclasses.replace(config, lora=dataclasses.replace(config.lora, **values)))


def test_adapters_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"no weights to adapt: set them with --init.hf or"):
        check(TrainConfig(data=DataConfig("packed"), lora=LoraConfig(rank=4)))


def test_a_plan_needs_no_base():
    data, lora = DataConfig(row_length=32), LoraConfig(rank=3)
    config = TrainConfig(model="tiny", data=data, batch=BatchConfig(8), mesh=MeshConfig(2, 2, 2), lora=lora)
    topology = parse_topology("cpu-8")
    made = plan(config, topology, compile_devices(topology), PlanOptions("cpu-8"))
    assert made.fits
    assert made.program_facts["lora"]["rank"] == 3


def test_the_targets_of_the_configuration_are_those_of_the_model():
    assert tuple(TARGETS) == LORA_TARGETS
