"""Adapters train the same on every mesh and in any number of parts, beside weights that do not change."""

import dataclasses
import functools
import math
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval
from jax.sharding import Mesh
from made_inputs import MODEL as SMALL
from made_inputs import packed_notes, transformers_model
from test_loop import losses_of, run_and_strike, steps_of
from test_step import LENGTH, LOSS_RTOL, PARAM_ATOL, ROWS, STEPS, first_params, made_batch

from asclepius_jax.adapters import adapted, whole_params
from asclepius_jax.checkpoints import State, find_step, read_stored
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
from asclepius_jax.data import PackedRows
from asclepius_jax.export import ImportConfig, run_import
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.hf import flatten, unflatten
from asclepius_jax.model.llama import Model, build
from asclepius_jax.model.lora import TARGETS, Adapters, Lora, Noise, drop, init_adapters
from asclepius_jax.model.variants import VARIANTS
from asclepius_jax.sharding import batch_sharding, make_mesh, param_shardings
from asclepius_jax.train.adapters import footprint, random_adapters, readable
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import (
    abstract_batch,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
    state_shardings,
    weights_of,
)
from data_prep.records import UserError

TINY = build(VARIANTS["tiny"])
LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.2, base_dtype="float32")
CONFIG = TrainConfig(
    batch=BatchConfig(ROWS),
    compute=ComputeConfig("float32", "full"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, weight_decay=0.1, epsilon=1e-6),
    lora=LORA,
)
ONE = (1, 1, 1, 1)


class Program(NamedTuple):
    mesh: Mesh
    optimizer: optax.GradientTransformation
    shardings: State
    step: Any
    config: TrainConfig

    def start(self) -> State:
        put = lambda tree, name: jax.device_put(jax.tree.map(jnp.array, tree), self.shardings[name])  # noqa: E731
        model = adapted(TINY, self.config.lora)
        params = jax.tree.map(lambda x, shape: x.astype(shape.dtype), first_params(), model.shapes)
        adapters = put(first_adapters(self.config.lora.targets), "adapters")
        return init_state(put(params, "params"), self.optimizer, self.shardings, adapters)


def first_adapters(targets: tuple[str, ...] = LORA_TARGETS) -> Any:
    """B is not zero here, as it is at the start of a run: A would have no gradient in the first step."""
    random = np.random.default_rng(0)
    model = adapted(TINY, dataclasses.replace(LORA, targets=targets))
    return jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), model.adapter_shapes)


def program(mesh_shape: tuple[int, int, int, int], config: TrainConfig) -> Program:
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    optimizer, model = make_optimizer(config.optimizer, STEPS), adapted(TINY, config.lora)
    shardings = state_shardings(mesh, model, optimizer)
    step = make_train_step(config, model, STEPS, shardings, mesh, Kernel())
    return Program(mesh, optimizer, shardings, step, config)


@functools.cache
def run(mesh_shape: tuple[int, int, int, int], config: TrainConfig) -> tuple[list[float], State, int]:
    """(losses, final state, programs compiled) of three steps."""
    on = program(mesh_shape, config)
    state, losses = on.start(), []
    for n in range(STEPS):
        state, numbers = on.step(state, jax.device_put(made_batch(n), batch_sharding(on.mesh)))
        losses.append(float(numbers["loss"]))
    return losses, jax.device_get(state), on.step._cache_size()


def with_parts(microbatches: int) -> TrainConfig:
    return dataclasses.replace(CONFIG, batch=BatchConfig(ROWS, microbatches))


def with_lora(**values: Any) -> TrainConfig:
    return dataclasses.replace(with_parts(1), lora=dataclasses.replace(LORA, **values))


# ---------------------------------------------------------------- the step


@pytest.mark.parametrize(
    ("mesh_shape", "microbatches"),
    [
        (ONE, 2),
        ((8, 1, 1, 1), 1),
        ((1, 8, 1, 1), 2),
        ((2, 2, 2, 1), 2),
        ((1, 1, 2, 1), 1),
        ((1, 1, 1, 2), 1),
        pytest.param((1, 2, 1, 2), 4, marks=pytest.mark.slow),
    ],
)
def test_three_steps_are_the_same_on_every_mesh_dropout_included(mesh_shape: Any, microbatches: int):
    expected, reference, _ = run(ONE, with_parts(1))
    losses, state, programs = run(mesh_shape, with_parts(microbatches))
    np.testing.assert_allclose(losses, expected, rtol=LOSS_RTOL)
    ours, theirs = flatten(state["adapters"]), flatten(reference["adapters"])
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=PARAM_ATOL, rtol=0, err_msg=name)
        moved = np.abs(value - flatten(first_adapters())[name]).max()
        assert moved > 50 * PARAM_ATOL, name  # far beyond rounding
    assert programs == 1


def test_the_base_stays_as_it_was_bit_for_bit():
    _, state, _ = run((2, 2, 2, 1), with_parts(2))
    for name, value in flatten(first_params()).items():
        np.testing.assert_array_equal(flatten(state["params"])[name], value, err_msg=name)


def test_the_optimizer_holds_nothing_of_the_base():
    _, state, _ = run(ONE, with_parts(1))
    held = sum(leaf.size for leaf in jax.tree.leaves(state["optimizer"]) if leaf.ndim)
    assert held == 2 * sum(leaf.size for leaf in jax.tree.leaves(state["adapters"]))


def test_without_dropout_or_adapters_that_say_anything_the_model_is_the_base():
    on = program(ONE, with_lora(dropout=0.0))
    state = weights_of(on.start())
    state["adapters"] = init_adapters(TINY.config, Lora(3, 6.0, LORA_TARGETS), 0)
    with_them = make_eval_step(on.config, adapted(TINY, on.config.lora), on.shardings, on.mesh, Kernel())
    plain = state_shardings(on.mesh, TINY, on.optimizer)
    without = make_eval_step(CONFIG, TINY, plain, on.mesh, Kernel())
    batch = made_batch(0)
    assert float(with_them(state, batch)[0]) == float(without({"params": state["params"]}, batch)[0])
    state["adapters"] = first_adapters()
    assert float(with_them(state, batch)[0]) != float(without({"params": state["params"]}, batch)[0])


def test_evaluation_drops_nothing():
    losses = []
    for rate in (0.0, 0.5):
        on = program(ONE, with_lora(dropout=rate))
        step = make_eval_step(on.config, adapted(TINY, on.config.lora), on.shardings, on.mesh, Kernel())
        losses.append(float(step(on.start(), made_batch(0))[0]))
    assert losses[0] == losses[1]
    assert run(ONE, with_lora(dropout=0.5))[0][0] != run(ONE, with_lora(dropout=0.0))[0][0]


def test_the_update_is_scaled_by_alpha_over_rank():
    """Twice alpha is twice B."""
    losses = []
    for alpha, factor in ((12.0, 1.0), (6.0, 2.0)):
        on = program(ONE, with_lora(alpha=alpha, dropout=0.0))
        state = on.start()
        state["adapters"] = {
            name: {"A": parts["A"], "B": factor * parts["B"]} for name, parts in state["adapters"].items()
        }
        losses.append(float(on.step(state, made_batch(0))[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_base_in_bfloat16_trains_as_one_in_float32_does_where_the_step_computes_in_bfloat16():
    """The step rounds float32 matrices to bfloat16 before it uses them: rounding them once and for all is no other."""
    compute = ComputeConfig("bfloat16", "full")
    half, whole = (
        run((1, 2, 2, 1), dataclasses.replace(with_lora(base_dtype=dtype), compute=compute))
        for dtype in ("bfloat16", "float32")
    )
    assert half[0] == whole[0]
    for name, value in flatten(whole[1]["adapters"]).items():
        np.testing.assert_array_equal(flatten(half[1]["adapters"])[name], value, err_msg=name)
    kept = {name: leaf.dtype for name, leaf in flatten(half[1]["params"]).items()}
    assert {name for name, dtype in kept.items() if dtype == np.float32} == {
        "norm.scale", "blocks.attention_norm.scale", "blocks.mlp_norm.scale",
    }  # fmt: skip
    assert kept["blocks.mlp.up_DF"] == ml_dtypes.bfloat16


@pytest.mark.parametrize("targets", [("q", "v"), ("o",), ("down", "gate")])
def test_some_targets_alone_have_adapters(targets: tuple[str, ...]):
    _, state, _ = run((1, 2, 2, 1), with_lora(targets=targets))
    assert set(state["adapters"]) == set(targets)
    for name, value in flatten(first_adapters(targets)).items():
        assert np.abs(flatten(state["adapters"])[name] - value).max() > 50 * PARAM_ATOL, name


def products(jaxpr: Any) -> set[tuple[int, ...]]:
    """Sorted dimensions of every product and of every sum that is sliced, in a program and what it is made of."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "reduce_scatter"):
            found.add(tuple(sorted(equation.outvars[0].aval.shape)))
        for inner in jaxprs_in_params(equation.params):
            found |= products(inner)
    return found


def shapes_made(config: TrainConfig, model: Model) -> set[tuple[int, ...]]:
    """Of what two devices compute in a step; what nothing depends on is left out, as compilers leave it out."""
    mesh = make_mesh(MeshConfig(1, 2), jax.devices()[:2])
    optimizer = make_optimizer(config.optimizer, STEPS)
    shardings = state_shardings(mesh, model, optimizer)
    step = make_train_step(config, model, STEPS, shardings, mesh, Kernel())
    state = abstract_state(model, optimizer, shardings)
    traced = step.trace(state, abstract_batch(config, mesh)).jaxpr.jaxpr
    return products(partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars), instantiate=True)[0])


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_gradient_of_the_base_is_made(remat: str):
    config = dataclasses.replace(
        with_lora(dropout=0.0), data=DataConfig(row_length=LENGTH), compute=ComputeConfig("float32", remat)
    )
    D, N, K, H, F, V = 32, 4, 2, 8, 64, 256
    whole = {tuple(sorted(shape)) for shape in ((D, N, H), (D, K, H), (D, F), (D, V))}
    sliced = {tuple(sorted(shape)) for shape in ((D // 2, N, H), (D // 2, K, H), (D // 2, F), (D // 2, V))}
    assert not shapes_made(config, adapted(TINY, config.lora)) & (whole | sliced)
    assert whole | sliced <= shapes_made(config, TINY), "training everything makes all of them"


# ---------------------------------------------------------------- dropout


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    places = jnp.arange(64 * 128, dtype=jnp.uint32).reshape(64, 128)
    ones = jnp.ones((64, 128, 256))
    dropped = np.asarray(drop(ones, Noise(jax.random.key(0), places), 0.25, "q", 0))
    zero = dropped == 0
    assert zero.mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / ones.size))
    np.testing.assert_allclose(dropped[~zero], 1 / 0.75, rtol=1e-6)
    # Neither a channel, nor a token, nor a pair of neighbours along either, falls out of the ordinary.
    for axes, count in (((0, 1), 64 * 128), ((2,), 256)):
        shares = zero.mean(axis=axes)
        assert np.abs(shares - 0.25).max() < 6 * math.sqrt(0.25 * 0.75 / count)
        assert shares.std() == pytest.approx(math.sqrt(0.25 * 0.75 / count), rel=0.2)
    for a, b in ((zero[:, :, 1:], zero[:, :, :-1]), (zero[:, 1:], zero[:, :-1]), (zero[1:], zero[:-1])):
        assert (a & b).mean() == pytest.approx(0.25**2, abs=5e-4)


def test_seed_step_layer_and_target_each_drop_others():
    places = jnp.arange(256, dtype=jnp.uint32).reshape(2, 128)
    ones, key = jnp.ones((2, 128, 64)), jax.random.key(0)
    kept = [
        np.asarray(drop(ones, Noise(k, places), 0.5, name, 0)) > 0
        for k, name in ((key, "q"), (jax.random.key(1), "q"), (jax.random.fold_in(key, 1), "q"), (key, "k"))
    ]
    for i in range(4):
        for j in range(i):
            assert (kept[i] == kept[j]).mean() == pytest.approx(0.5, abs=0.03)
    # Half of the channels, as the second of two tensor devices has them.
    half = np.asarray(drop(ones[:, :, 32:], Noise(key, places), 0.5, "q", 1)) > 0
    np.testing.assert_array_equal(half, kept[0][:, :, 32:])


# ---------------------------------------------------------------- a run

ROW, BATCH, TOTAL = 32, 8, 9


@pytest.fixture(scope="module")
def base(small_tokenizer: Path, tmp_path_factory) -> TrainConfig:
    """A model that transformers made, notes packed for pretraining, nine steps of adapters with dropout."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("lora")
    shutil.copytree(small_tokenizer, root / "hf")
    transformers_model(root / "hf", SMALL)
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
    )


@pytest.fixture(scope="module")
def unbroken(base: TrainConfig, tmp_path_factory) -> Path:
    return train(dataclasses.replace(base, run_dir=str(tmp_path_factory.mktemp("unbroken"))))


def adapters_of(run_dir: Path | str) -> dict[str, np.ndarray]:
    folder = find_step(Path(run_dir))[1]
    names = flatten(adapted(build(SMALL), LoraConfig(rank=4)).adapter_shapes)
    return {name: read_stored(folder, name, "adapters") for name in names}


def test_adapters_learn_from_packed_notes_and_a_step_holds_no_base(base: TrainConfig, unbroken: Path):
    losses = losses_of(unbroken)
    assert losses[TOTAL] < losses[1] - 0.5
    assert steps_of(unbroken) == [4, 8, 9]
    assert sorted(path.name for path in find_step(unbroken)[1].iterdir() if path.is_dir()) == [
        "adapters", "meta", "optimizer",
    ]  # fmt: skip


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
    model = adapted(build(SMALL), base.lora)
    mesh, optimizer = make_mesh(MeshConfig(1, 2), jax.devices()[:2]), make_optimizer(base.optimizer, 1)
    D, N, K, H, F, R, L = 32, 4, 2, 8, 64, 4, 2
    count = L * R * ((D + N * H) + 2 * (D + K * H) + (N * H + D) + 3 * (D + F))
    line = footprint(model, optimizer, mesh)
    assert f"{count:,} parameters train beside {SMALL.num_params:,} frozen ones" in line
    shardings = state_shardings(mesh, model, optimizer)
    state = jax.jit(optimizer.init, out_shardings=shardings["optimizer"])(
        random_adapters(model, 0, shardings["adapters"])
    )
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert f"optimizer state {readable(2 * held)} in all and {readable(held)} a device" in line


def test_other_adapters_or_none_do_not_continue_a_run(base: TrainConfig, unbroken: Path, tmp_path: Path):
    shutil.copytree(unbroken, tmp_path / "run")
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    for other in (dataclasses.replace(base.lora, alpha=4.0), LoraConfig()):
        with pytest.raises(UserError, match=r"holds an interrupted run with other settings \(lora"):
            train(dataclasses.replace(config, lora=other))


def test_what_generates_has_the_adapters_in_its_matrices(base: TrainConfig, unbroken: Path):
    """The model of a run, adapters beside the matrices, and the whole parameters of its step give the same logits."""
    model, plain = adapted(build(SMALL), dataclasses.replace(base.lora, base_dtype="float32")), build(SMALL)
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
    data = dataclasses.replace(base.data, eval_path="", epochs=base.data.epochs * 1.5 / 9.5)
    init = InitConfig(checkpoint=str(unbroken))
    # One step at the rate that warmup begins with, which is zero.
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), init=init, data=data)
    train(config)
    assert losses_of(config.run_dir)[1] < losses_of(unbroken)[1] - 0.3


# ---------------------------------------------------------------- what is refused, and what is planned


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rank": -1}, "lora.rank is -1: it must be 1 or more, or 0"),
        ({"alpha": 0.0}, "lora.alpha is 0.0: it must be above 0"),
        ({"dropout": 1.0}, "lora.dropout is 1.0: it must be from 0"),
        ({"targets": ("q", "lm_head")}, "lora.targets is q lm_head: name some of q k v o gate up down"),
        ({"targets": ("q", "q")}, "lora.targets is q q: name some of"),
        ({"targets": ()}, "lora.targets is empty: name some of"),
    ],
)
def test_values_that_no_run_can_have_are_refused(values: dict[str, Any], told: str):
    config = TrainConfig(data=DataConfig("packed"), init=InitConfig(hf="base"), lora=LoraConfig(rank=4))
    check(config)
    with pytest.raises(UserError, match=told):
        check(dataclasses.replace(config, lora=dataclasses.replace(config.lora, **values)))


def test_adapters_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"nothing to adapt: name the frozen weights with --init.hf or"):
        check(TrainConfig(data=DataConfig("packed"), lora=LoraConfig(rank=4)))


def test_the_targets_of_the_configuration_are_those_of_the_model():
    assert tuple(TARGETS) == LORA_TARGETS
