"""Preference tuning is that of TRL's DPOTrainer: losses, margins and five updates on the same pairs."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import BatchConfig, ComputeConfig, MeshConfig, OptimizerConfig, PreferenceConfig, TrainConfig
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from asclepius_jax.train.batches import unpack
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.preference.reference import make_reference_step, with_reference
from asclepius_jax.train.step import init_state, make_train_step, state_shardings
from data_prep.contract.records import PackedRow
from data_prep.pack.best_fit import pack
from tests.helpers.made_inputs import MODEL, sentences, transformers_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl", exc_type=ImportError)
datasets = pytest.importorskip("datasets")

STEPS, PAIRS, LENGTH = 5, 8, 256
BETA = 0.2


@dataclasses.dataclass(frozen=True)
class Theirs:
    folder: Path  # the model that they started from
    batches: list[list[list[tuple[np.ndarray, np.ndarray]]]]  # of each step the pairs: (ids, completion mask) twice
    losses: list[float]
    margins: list[float]
    grad_norms: list[float]
    final: Path  # the model that they ended with


@pytest.fixture(scope="module")
def theirs(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    folder = tmp_path_factory.mktemp("trl")
    transformers_model(folder / "model", MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(small_tokenizer / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    texts = sentences(3 * STEPS * PAIRS, 9, seed=2)
    rows = [{"prompt": a + "\n", "chosen": b, "rejected": c} for a, b, c in zip(*[iter(texts)] * 3, strict=True)]
    settings = trl.DPOConfig(
        output_dir=str(folder / "run"), per_device_train_batch_size=PAIRS, max_steps=STEPS, beta=BETA,
        learning_rate=1e-3, lr_scheduler_type="constant", warmup_steps=0, max_grad_norm=1.0, weight_decay=0.0,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False, max_length=None, seed=0,
        gradient_checkpointing=False, disable_tqdm=True, adam_epsilon=1e-6,
    )  # fmt: skip
    batches: list[Any] = []

    class Recorded(trl.DPOTrainer):
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
            ids, masks, seen = (inputs[name].numpy() for name in ("input_ids", "completion_mask", "attention_mask"))
            texts = [(i[s > 0], m[s > 0]) for i, m, s in zip(ids, masks, seen, strict=True)]
            batches.append([[texts[place], texts[place + PAIRS]] for place in range(PAIRS)])
            return super().compute_loss(model, inputs, *given, **named)

    trainer = Recorded(model, args=settings, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    model.save_pretrained(folder / "final")
    kept = ("loss", "rewards/margins", "grad_norm")
    return Theirs(folder / "model", batches, *([row[key] for row in logs] for key in kept), folder / "final")


def packed_rows(pairs: list[list[tuple[np.ndarray, np.ndarray]]], together: bool) -> list[PackedRow]:
    """A row for each pair, or as many pairs to a row as fit."""
    lengths = [sum(len(ids) for ids, _ in pair) for pair in pairs]
    rows = pack(lengths, LENGTH) if together else [[place] for place in range(len(pairs))]
    made = []
    for row in rows:
        answers = [answer for place in row for answer in pairs[place]]
        numbers = [number + 1 for number in range(len(row)) for _ in range(2)]
        made.append(
            PackedRow(
                np.concatenate([ids for ids, _ in answers]),
                np.array([len(ids) for ids, _ in answers]),
                np.concatenate([mask > 0 for _, mask in answers]),
                np.array([1, -1] * len(row), np.float32),
                np.array(numbers, np.uint32),
                np.full(len(answers), np.nan, np.float32),
            )
        )
    return made


def ours(theirs: Theirs, mesh_shape: tuple[int, ...], together: bool) -> tuple[list[dict[str, float]], Any]:
    """(metrics of each step, final parameters)."""
    config = TrainConfig(
        batch=BatchConfig(PAIRS, 1),
        compute=ComputeConfig("float32", "full"),
        optimizer=OptimizerConfig(1e-3, "constant", 0.0, epsilon=1e-6),
        preference=PreferenceConfig(BETA),
    )
    model, mesh = build(MODEL), make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    optimizer = make_optimizer(config.optimizer, STEPS)
    shardings = state_shardings(mesh, model, optimizer)
    params = names.load_params(theirs.folder, model, shardings["params"])
    most = max(len(row.segment_lengths) for pairs in theirs.batches for row in packed_rows(pairs, together))
    compute = make_reference_step(config, model, shardings, mesh, Kernel(), most)
    step = make_train_step(config, model, STEPS, shardings, mesh, Kernel())

    def batch(rows: list[PackedRow]) -> Any:
        arrays = [unpack(row, LENGTH) for row in rows]
        arrays += [{name: np.zeros_like(value) for name, value in arrays[0].items()}] * (PAIRS - len(rows))
        stacked = {name: np.stack([row[name] for row in arrays]) for name in arrays[0]}
        return jax.device_put(stacked, batch_sharding(mesh))

    batches = []
    for pairs in theirs.batches:
        rows = packed_rows(pairs, together)
        stored = np.asarray(compute({"params": params}, batch(rows)))
        batches.append(batch([with_reference(row, found) for row, found in zip(rows, stored, strict=False)]))
    state, metrics = init_state(params, optimizer, shardings), []
    for each in batches:
        state, numbers = step(state, each)
        metrics.append({name: float(value) for name, value in numbers.items()})
    return metrics, jax.device_get(state["params"])


@pytest.mark.parametrize(
    ("mesh_shape", "together"), [((1, 1, 1, 1), False), ((1, 1, 1, 1), True), ((2, 2, 2, 1), True)]
)
def test_losses_margins_and_updates_are_those_of_trl(theirs: Theirs, mesh_shape: tuple[int, ...], together: bool):
    metrics, params = ours(theirs, mesh_shape, together)
    assert theirs.losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert min(abs(margin) for margin in theirs.margins[1:]) > 0.01, "the updates change something to compare"
    np.testing.assert_allclose([row["loss"] for row in metrics], theirs.losses, atol=1e-4)
    np.testing.assert_allclose([row["preference_margin"] for row in metrics], theirs.margins, atol=1e-4)
    np.testing.assert_allclose([row["grad_norm"] for row in metrics], theirs.grad_norms, rtol=1e-3)
    device = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), build(MODEL).shapes)
    first, final = (names.load_params(folder, build(MODEL), device) for folder in (theirs.folder, theirs.final))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, final)
    assert min(jax.tree.leaves(moved)) > 2e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, final)
