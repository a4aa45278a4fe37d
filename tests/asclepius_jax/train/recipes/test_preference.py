"""Preference tuning: signed weights give DPO's gradient, on every mesh, packed or not, through kills."""

import dataclasses
import functools
import math
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    PreferenceConfig,
    TrainConfig,
)
from asclepius_jax.convert.export_hf import export
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build, init_params
from asclepius_jax.train.batches import PackedRows, unpack, without_preference
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.preference.reference import reference
from asclepius_jax.train.setup import make_step
from asclepius_jax.train.step import init_state, make_eval_step, make_train_step, state_shardings
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import PackedRow
from tests.helpers.made_inputs import MODEL, example, pair, sentences
from tests.helpers.packed import packed, read_rows
from tests.helpers.training.small_run import assert_same_params, metrics_of, run_and_strike, steps_of

LENGTH, ROWS, STEPS = 64, 8, 3
PROMPT = "{note}\n{instruction}\n"  # short, because the pieces of the small tokenizer are
SETTINGS = PreferenceConfig(beta=0.3, anchor_weight=0.25)
CONFIG = TrainConfig(
    batch=BatchConfig(ROWS),
    compute=ComputeConfig("float32", "full"),
    optimizer=OptimizerConfig(1e-3, "constant", 0.0, epsilon=1e-6),
    preference=SETTINGS,
)
TINY = build(MODEL)


@functools.cache
def first_params() -> Any:
    return jax.device_get(jax.jit(lambda: init_params(MODEL, 3))())


def made_row(seed: int, weights: list[float], pairs: list[int]) -> PackedRow:
    """Documents of 8 to 15 tokens, with loss on the last few, and made log-probabilities of a reference."""
    random = np.random.default_rng(seed)
    lengths = random.integers(8, 16, len(weights))
    masks = [np.arange(length) >= random.integers(3, length - 2) for length in lengths]
    return PackedRow(
        tokens=random.integers(3, MODEL.vocab_size, lengths.sum()),
        segment_lengths=lengths,
        loss_mask=np.concatenate(masks),
        weights=np.array(weights, np.float32),
        pairs=np.array(pairs, np.uint32),
        reference=random.normal(-30, 3, len(weights)).astype(np.float32),
    )


@functools.cache
def made_rows() -> tuple[PackedRow, ...]:
    """Eight rows: pairs, one of double weight, samples with and without weight, and samples to be made less likely."""
    kinds: list[tuple[list[float], list[int]]] = [
        ([1, -1, 1, -1], [1, 1, 2, 2]), ([1, -1, 1], [1, 1, 0]), ([1, -1, -0.5], [1, 1, 0]), ([2, -2], [1, 1]),
        ([1, -1, 1, -1], [1, 1, 2, 2]), ([0.5, 1, -1, -1], [0, 1, 1, 0]), ([1, -1], [1, 1]), ([1, -1, 3], [1, 1, 0]),
    ]  # fmt: skip
    return tuple(made_row(seed, weights, pairs) for seed, (weights, pairs) in enumerate(kinds))


def as_batch(rows: list[PackedRow], size: int = ROWS) -> dict[str, np.ndarray]:
    empty = {name: np.zeros_like(array) for name, array in unpack(rows[0], LENGTH).items()}
    unpacked = [unpack(row, LENGTH) for row in rows] + [empty] * (size - len(rows))
    return {name: np.stack([row[name] for row in unpacked]) for name in unpacked[0]}


def direct_loss(params: Any, rows: tuple[PackedRow, ...]) -> jax.Array:
    """The loss as the papers write it, one document at a time, from plain log-probabilities."""
    decoder = TINY.merge(params)
    losses, chosen, chosen_tokens, unpaired, unpaired_tokens = [], 0.0, 0, 0.0, 0
    for row in rows:
        ends = np.cumsum(row.segment_lengths)
        found: dict[int, list[tuple[float, jax.Array]]] = {}
        for start, end, weight, number, stored in zip(
            ends - row.segment_lengths, ends, row.weights, row.pairs, row.reference, strict=True
        ):
            tokens, mask = row.tokens[start:end], row.loss_mask[start:end][1:]
            ones = jnp.ones((1, len(tokens)), jnp.int32)
            logits = decoder(jnp.array(tokens)[None], jnp.arange(len(tokens))[None], ones, "float32")[0]
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:-1]), jnp.array(tokens[1:])[:, None], 1)[:, 0]
            if number:
                found.setdefault(int(number), []).append((float(weight), jnp.sum(log_p * mask) - stored))
                chosen -= jnp.sum(log_p * mask) if weight > 0 else 0
                chosen_tokens += int(mask.sum()) if weight > 0 else 0
            else:
                of_tokens = -log_p if weight > 0 else -jnp.log1p(-jnp.exp(log_p))
                unpaired += abs(float(weight)) * jnp.sum(of_tokens * mask)
                unpaired_tokens += int(mask.sum())
        for (weight, better), (_, worse) in found.values():
            losses.append(-weight * jax.nn.log_sigmoid(SETTINGS.beta * (better - worse)))
    anchor = SETTINGS.anchor_weight * chosen / chosen_tokens
    return sum(losses) / len(losses) + anchor + unpaired / max(unpaired_tokens, 1)


@pytest.fixture(scope="module")
def expected() -> tuple[list[float], Any]:
    """(losses, final parameters) of three steps by automatic differentiation of the direct loss."""
    optimizer, params = make_optimizer(CONFIG.optimizer, STEPS), jax.tree.map(jnp.array, first_params())
    state, losses = optimizer.init(params), []
    step = jax.jit(jax.value_and_grad(lambda params: direct_loss(params, made_rows())))
    for _ in range(STEPS):
        loss, grads = step(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses, jax.device_get(params)


def run(
    rows: list[PackedRow], mesh_shape: tuple[int, ...] = (1, 1, 1, 1), microbatches: int = 1, size: int = ROWS
) -> tuple[list[dict[str, float]], Any]:
    """(metrics, final parameters) of three steps of the trainer's step on the same batch."""
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    config = dataclasses.replace(CONFIG, batch=BatchConfig(size, microbatches))
    optimizer = make_optimizer(config.optimizer, STEPS)
    shardings = state_shardings(mesh, TINY, optimizer)
    step = make_train_step(config, TINY, STEPS, shardings, mesh, Kernel())
    params = jax.device_put(jax.tree.map(jnp.array, first_params()), shardings["params"])
    state, metrics = init_state(params, optimizer, shardings), []
    batch = jax.device_put(as_batch(rows, size), batch_sharding(mesh))
    for _ in range(STEPS):
        state, numbers = step(state, batch)
        metrics.append({name: float(value) for name, value in numbers.items()})
    return metrics, jax.device_get(state["params"])


def assert_as(found: tuple[list[dict[str, float]], Any], expected: tuple[list[float], Any]) -> None:
    np.testing.assert_allclose([row["loss"] for row in found[0]], expected[0], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=0), found[1], expected[1])


# ---------------------------------------------------------------- the gradient


QUICK = [((1, 1, 1, 1), 1), ((1, 1, 1, 1), 4), ((2, 2, 2, 1), 2), ((2, 2, 1, 2), 1)]
REST = [((8, 1, 1, 1), 1), ((1, 8, 1, 1), 1), ((1, 1, 2, 1), 2), ((1, 1, 1, 2), 8), ((1, 1, 2, 1), 1)]


@pytest.mark.parametrize(
    ("mesh_shape", "microbatches"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_three_steps_are_those_of_the_loss_of_the_papers(expected: Any, mesh_shape: Any, microbatches: int):
    assert_as(run(list(made_rows()), mesh_shape, microbatches), expected)


def test_three_steps_move_the_parameters_far_beyond_rounding(expected: Any):
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected[1], first_params())
    assert min(jax.tree.leaves(moved)) > 1e-3


def one_by_one(rows: tuple[PackedRow, ...]) -> list[PackedRow]:
    """Every pair, and every sample without one, in a row of its own."""
    apart = []
    for row in rows:
        ends = np.cumsum(row.segment_lengths)
        numbers = [f"pair {n}" if n else f"single {place}" for place, n in enumerate(row.pairs)]
        for name in dict.fromkeys(numbers):
            places = [place for place, each in enumerate(numbers) if each == name]
            tokens = np.concatenate([np.arange(ends[p] - row.segment_lengths[p], ends[p]) for p in places])
            apart.append(
                PackedRow(
                    row.tokens[tokens], row.segment_lengths[places], row.loss_mask[tokens], row.weights[places],
                    np.minimum(row.pairs[places], 1), row.reference[places],
                )
            )  # fmt: skip
    return apart


def test_packed_is_as_unpacked(expected: Any):
    rows = one_by_one(made_rows())
    assert len(rows) == 15
    assert_as(run(rows, size=16), expected)


def test_the_measures_are_those_of_the_pairs():
    metrics, _ = run(list(made_rows()))
    pairs = tuple(row for row in one_by_one(made_rows()) if row.pairs[0])
    margins = []
    for row in pairs:
        plain = dataclasses.replace(SETTINGS, anchor_weight=0.0)
        # -log sigmoid(m) = softplus(-m)
        alone = dataclasses.replace(row, weights=np.sign(row.weights))
        with_settings = float(direct_loss_of(plain, first_params(), (alone,)))
        margins.append(-math.log(math.expm1(with_settings)))
    first = metrics[0]
    assert first["preference_margin"] == pytest.approx(np.mean(margins), abs=1e-4)
    assert first["preference_accuracy"] == pytest.approx(np.mean(np.array(margins) > 0))
    weights = np.array([abs(row.weights[0]) for row in pairs])
    losses = weights * np.log1p(np.exp(-np.array(margins)))
    assert first["preference_loss"] == pytest.approx(losses.mean(), rel=1e-4)


def direct_loss_of(settings: PreferenceConfig, params: Any, rows: tuple[PackedRow, ...]) -> jax.Array:
    anchored = direct_loss(params, rows)
    return anchored - (SETTINGS.anchor_weight - settings.anchor_weight) * chosen_loss(params, rows)


def chosen_loss(params: Any, rows: tuple[PackedRow, ...]) -> jax.Array:
    (row,) = rows
    tokens, mask = row.tokens[: row.segment_lengths[0]], row.loss_mask[: row.segment_lengths[0]][1:]
    ones = jnp.ones((1, len(tokens)), jnp.int32)
    logits = TINY.merge(params)(jnp.array(tokens)[None], jnp.arange(len(tokens))[None], ones, "float32")[0]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:-1]), jnp.array(tokens[1:])[:, None], 1)[:, 0]
    return -jnp.sum(log_p * mask) / mask.sum()


def test_held_out_pairs_are_measured_alike():
    mesh = make_mesh(MeshConfig(2, 2, 1, 2), jax.devices()[:8])
    shardings = state_shardings(mesh, TINY, make_optimizer(CONFIG.optimizer, STEPS))
    step = make_eval_step(CONFIG, TINY, shardings, mesh, Kernel())
    params = jax.device_put(jax.tree.map(jnp.array, first_params()), shardings["params"])
    sums = jax.device_get(step({"params": params}, jax.device_put(as_batch(list(made_rows())), batch_sharding(mesh))))
    first = run(list(made_rows()))[0][0]
    assert sums["weight"] == 10
    assert sums["loss"] / 10 == pytest.approx(first["preference_loss"], rel=1e-5)
    assert sums["accuracy"] / 10 == pytest.approx(first["preference_accuracy"])


def test_a_sample_that_is_certain_still_has_a_finite_gradient():
    """Unlikelihood divides by 1 - p, which is 0 in float32 for a token that the model is sure of."""
    rows = [
        dataclasses.replace(
            made_row(1, [-1.0], [0]), loss_mask=np.ones(int(made_row(1, [-1.0], [0]).segment_lengths[0]), bool)
        )
    ]
    sure = jax.tree.map(lambda x: 40 * x, first_params())
    mesh = make_mesh(MeshConfig(1, 1), jax.devices()[:1])
    optimizer = make_optimizer(CONFIG.optimizer, STEPS)
    shardings = state_shardings(mesh, TINY, optimizer)
    step = make_train_step(dataclasses.replace(CONFIG, batch=BatchConfig(1, 1)), TINY, STEPS, shardings, mesh, Kernel())
    greedy = rows[0]
    for _ in range(3):  # make the rows say what the model would
        batch = as_batch([greedy], 1)
        logits = TINY.merge(sure)(batch["tokens"], batch["positions"], batch["segment_ids"], "float32")[0]
        tokens = np.array(greedy.tokens)
        tokens[1:] = np.argmax(logits[: len(tokens) - 1], axis=1)
        greedy = dataclasses.replace(greedy, tokens=tokens)
    _, numbers = step(init_state(jax.tree.map(jnp.array, sure), optimizer, shardings), as_batch([greedy], 1))
    assert math.isfinite(float(numbers["loss"]))
    assert math.isfinite(float(numbers["grad_norm"]))
    assert not bool(numbers["skipped"])


# ---------------------------------------------------------------- from records to a run


@pytest.fixture(scope="module")
def pairs_folder(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose rejected answers differ by a word or two, packed."""
    texts = sentences(160, 8, seed=4)
    records = [
        pair(f"p{i}", texts[i], "What is known?", texts[i + 80], texts[i + 80].replace("fever", "asthma") + " stable")
        for i in range(80)
    ]
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "prompt.txt").write_text(PROMPT)
    return packed(folder, records, small_tokenizer, row_length=256, prompt_template=str(folder / "prompt.txt"))


@pytest.fixture(scope="module")
def start(base: TrainConfig, pairs_folder: Path, unbroken: Path) -> TrainConfig:
    """A run on the pairs from the small run's checkpoint."""
    return dataclasses.replace(
        base,
        data=DataConfig(str(pairs_folder), row_length=256, epochs=4),
        batch=BatchConfig(8),
        init=InitConfig(checkpoint=str(unbroken)),
        preference=PreferenceConfig(0.1),
        optimizer=OptimizerConfig(1e-3),
    )


@pytest.fixture(scope="module")
def config(start: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    out = tmp_path_factory.mktemp("referenced") / "packed"
    reference(start, str(out))
    data = dataclasses.replace(start.data, path=(str(out),), eval_path=(str(out),))
    return dataclasses.replace(start, data=data)


@pytest.fixture(scope="module")
def whole(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(dataclasses.replace(config, run_dir=str(tmp_path_factory.mktemp("whole") / "run")))


def test_the_reference_of_every_answer_is_its_log_probability(config: TrainConfig, start: TrainConfig):
    """Computed again from plain logits, one document at a time; everything else in the rows stays."""
    step = make_step(config)
    decoder = step.model.merge(jax.device_get(step.init()["params"]))
    before, after = read_rows(Path(start.data.path[0])), read_rows(Path(config.data.path[0]))
    assert all(np.isnan(row.reference).all() for row in before)
    for old, new in zip(before, after, strict=True):
        for name in ("tokens", "segment_lengths", "loss_mask", "weights", "pairs"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
    for row in after[:3]:
        ends = np.cumsum(row.segment_lengths)
        for first, end, stored in zip(ends - row.segment_lengths, ends, row.reference, strict=True):
            tokens, mask = row.tokens[first:end].astype(np.int32), row.loss_mask[first:end][1:]
            ones = jnp.ones((1, len(tokens)), jnp.int32)
            logits = decoder(jnp.array(tokens)[None], jnp.arange(len(tokens))[None], ones, "float32")[0]
            log_p = np.take_along_axis(jax.nn.log_softmax(logits[:-1]), tokens[1:, None], 1)[:, 0]
            assert stored == pytest.approx(float(np.sum(log_p * mask)), rel=1e-4)
    facts = read_manifest(Path(config.data.path[0]), "packed")
    assert facts["reference"]["weights"] == Path(start.init.checkpoint).name
    assert facts["rows"] == len(after)


@pytest.mark.parametrize("mesh", [MeshConfig(1, 1, 1), MeshConfig(1, 4, 1), MeshConfig(1, 2, 1, 2)])
def test_the_reference_is_the_same_on_every_mesh(
    config: TrainConfig, start: TrainConfig, tmp_path: Path, mesh: MeshConfig
):
    count = abs(mesh.data * mesh.fsdp * mesh.tensor * mesh.context)
    with pytest.MonkeyPatch.context() as patch:
        devices = jax.devices()[:count]
        patch.setattr(jax, "devices", lambda *_: devices)
        reference(dataclasses.replace(start, mesh=mesh), str(tmp_path / "out"))
    for ours, theirs in zip(read_rows(tmp_path / "out"), read_rows(Path(config.data.path[0])), strict=True):
        np.testing.assert_allclose(ours.reference, theirs.reference, rtol=1e-5)


def test_a_run_starts_at_its_reference_and_leaves_it_in_the_right_direction(whole: Path):
    rows = [row for row in metrics_of(whole) if "loss" in row]
    assert rows[0]["preference_margin"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[-1]["preference_margin"] > 0.01
    evals = [row for row in metrics_of(whole) if "eval_loss" in row]
    assert evals[-1]["eval_accuracy"] > 0.9
    assert evals[-1]["eval_loss"] < math.log(2)
    assert "eval_perplexity" not in evals[-1]
    page = (whole / "report.html").read_text()
    for text in ("Held-out pairs ordered right", "Pairs ordered right", "Margin and loss of better answers"):
        assert text in page


def test_the_export_carries_the_prompt_and_says_how_it_was_tuned(whole: Path, tmp_path: Path):
    export(whole, tmp_path / "out", "float32")
    card = (tmp_path / "out/README.md").read_text()
    assert "on pairs of answers" in card
    assert "DPO on 80 pairs, beta 0.1, from log-probabilities of" in card
    assert "{instruction}" in card
    assert (tmp_path / "out/chat_template.jinja").is_file()
    assert "Perplexity" not in card


def test_a_killed_run_ends_with_the_same_bits(config: TrainConfig, whole: Path, tmp_path: Path):
    killed = dataclasses.replace(config, run_dir=str(tmp_path / "killed"))
    assert run_and_strike(killed, 6, signal.SIGKILL) == -signal.SIGKILL
    assert steps_of(killed.run_dir) == [4]
    train(killed)
    assert_same_params(killed.run_dir, whole)


def test_adapters_are_tuned_on_preferences_too(config: TrainConfig, tmp_path: Path):
    lora = LoraConfig(rank=2, base_dtype="float32")
    run = dataclasses.replace(config, run_dir=str(tmp_path / "run"), lora=lora, optimizer=OptimizerConfig(1e-2))
    rows = [row for row in metrics_of(train(run)) if "loss" in row]
    assert rows[0]["preference_margin"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["preference_margin"] > 0.01


def test_pairs_are_mixed_with_examples(config: TrainConfig, small_tokenizer: Path, tmp_path: Path):
    """Rows without pairs train by cross entropy beside them: the pairs' margin does not depend on theirs."""
    records = [example(f"e{i}", text, "What?", text[:20]) for i, text in enumerate(sentences(60, 8, seed=9))]
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/prompt.txt").write_text(PROMPT)
    template = str(tmp_path / "examples/prompt.txt")
    examples = packed(tmp_path / "examples", records, small_tokenizer, row_length=256, prompt_template=template)
    paths = (f"pairs={config.data.path[0]}:0.5", f"examples={examples}:0.5")
    data = dataclasses.replace(config.data, path=paths, eval_path=(), epochs=1)
    step = make_step(dataclasses.replace(config, data=data))
    batch = step.batch(0)
    plain = np.asarray(batch["sources"]) == 1
    assert np.all(np.asarray(batch["pairs"])[plain] == 0)
    assert np.all(np.asarray(batch["weights"])[plain] == 1)
    _, metrics = step(step.init(), batch)
    assert float(metrics["preference_loss"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(metrics["loss"]) == pytest.approx(math.log(2) + float(metrics["loss/examples"]), rel=1e-4)


def test_a_row_without_preference_has_the_arrays_of_one():
    row = made_row(0, [1.0], [0])
    plain = unpack(dataclasses.replace(row, weights=None, pairs=None, reference=None), LENGTH)
    assert without_preference(plain).keys() == unpack(row, LENGTH).keys()


# ---------------------------------------------------------------- refusals


def test_what_does_not_go_together_is_refused(
    base: TrainConfig, config: TrainConfig, start: TrainConfig, tmp_path: Path
):
    run = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    cases = [
        (dataclasses.replace(run, preference=PreferenceConfig()), "has pairs of answers: set --preference.beta"),
        (dataclasses.replace(run, data=start.data), "lacks the log-probabilities of a reference model"),
        (dataclasses.replace(base, preference=PreferenceConfig(0.1)), "has no pairs: name a folder packed from pairs"),
        (dataclasses.replace(run, init=InitConfig()), "no weights to tune are set"),
    ]
    for wrong, told in cases:
        with pytest.raises(UserError) as refused:
            train(dataclasses.replace(wrong, run_dir=str(tmp_path / "run")))
        assert told in str(refused.value)
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"init": InitConfig()}, "there is no reference model"),
        ({"init": InitConfig(random=True)}, "there is no reference model"),
        ({"preference": PreferenceConfig(math.nan)}, "preference.beta is nan"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(start: TrainConfig, tmp_path: Path, changed: Any, told: str):
    with pytest.raises(UserError, match=told):
        reference(dataclasses.replace(start, **changed), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_only_pairs_have_a_reference(base: TrainConfig, start: TrainConfig, tmp_path: Path):
    with pytest.raises(UserError, match="has no pairs: name a folder that `asclepius pack` made of pairs"):
        reference(dataclasses.replace(start, data=base.data), str(tmp_path / "out"))
    assert isinstance(PackedRows(Path(start.data.path[0])), PackedRows)
