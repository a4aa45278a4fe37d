"""Preference tuning from packed pairs and their reference to a run, its report and its export."""

import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.config import (
    BatchConfig,
    DataConfig,
    InitConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    PreferenceConfig,
    TrainConfig,
)
from asclepius_jax.convert.export_hf import export
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.loop import train
from asclepius_jax.train.preference.reference import reference
from asclepius_jax.train.setup import make_step
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from tests.helpers.made_inputs import example, pair, sentences
from tests.helpers.packed import packed, read_rows
from tests.helpers.training.small_run import assert_same_params, metrics_of, run_and_strike, steps_of

PROMPT = "{note}\n{instruction}\n"  # short, because the pieces of the small tokenizer are


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
