"""Packed rows on a mesh train as transformers' LLaMA does on one document a sequence in a plain PyTorch loop."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import BatchConfig, ComputeConfig, MeshConfig, OptimizerConfig, TrainConfig
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh, param_shardings
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.train.batches import unpack
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import init_state, make_train_step, state_shardings
from data_prep.contract.records import PackedRow
from data_prep.pack.best_fit import pack
from tests.helpers.made_inputs import transformers_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = DecoderConfig(96, 32, 80, 2, 4, 2, head_dim=8, max_length=128)
STEPS, ROWS, LENGTH = 5, 8, 64
CONFIG = TrainConfig(
    batch=BatchConfig(ROWS, microbatches=2),
    compute=ComputeConfig("float32", "full"),
    # AdamW divides a gradient's scale out again; only beside an epsilon of its size does clipping show.
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.2, weight_decay=0.1, epsilon=1e-3),
)


@dataclasses.dataclass(frozen=True)
class Document:
    ids: np.ndarray
    trained: np.ndarray  # bool: a prompt of unequal length is not


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model that transformers made and saved."""
    path = tmp_path_factory.mktemp("model")
    transformers_model(path, SMALL)
    return path


@pytest.fixture(scope="module")
def batches() -> list[list[list[Document]]]:
    """For each step, the documents of each row: of 5 to 40 tokens, several to a row, prompts of 1 to all but 2."""
    random = np.random.default_rng(0)
    steps = []
    for _ in range(STEPS):
        documents = []
        for length in random.integers(5, 41, 15):
            ids = np.concatenate([[1], random.integers(3, 96, length - 2), [2]])
            documents.append(Document(ids, np.arange(length) >= random.integers(1, length - 1)))
        rows = pack([len(d.ids) for d in documents], LENGTH)
        assert len(rows) <= ROWS
        steps.append([[documents[i] for i in row] for row in rows] + [[]] * (ROWS - len(rows)))
    assert max(len(row) for rows in steps for row in rows) >= 3
    return steps


@pytest.fixture(scope="module")
def plain_loop(folder: Path, batches: list) -> tuple[list[float], list[float]]:
    return theirs(folder, batches)


def array(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts]).astype(dtype)


def ours(folder: Path, batches: list, mesh_shape: tuple[int, int, int]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of our trainer."""
    model = build(names.read_config(folder))
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    optimizer = make_optimizer(CONFIG.optimizer, STEPS)
    shardings = state_shardings(mesh, model, optimizer)
    state = init_state(names.load_params(folder, model, param_shardings(mesh, model)), optimizer, shardings)
    step = make_train_step(CONFIG, model, STEPS, shardings, mesh, Kernel())
    losses, norms = [], []
    for rows in batches:
        unpacked = [
            unpack(
                PackedRow(
                    array([d.ids for d in row], int),
                    array([np.array([len(d.ids)]) for d in row], int),
                    array([d.trained for d in row], bool),
                ),
                LENGTH,
            )
            for row in rows
        ]
        batch = {name: np.stack([row[name] for row in unpacked]) for name in unpacked[0]}
        state, numbers = step(state, jax.device_put(batch, batch_sharding(mesh)))
        losses.append(float(numbers["loss"]))
        norms.append(float(numbers["grad_norm"]))
    return losses, norms


def theirs(folder: Path, batches: list) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of a plain loop: no packing, no mesh, no mask but the labels'."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    settings = CONFIG.optimizer
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if "norm" not in name], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in named if "norm" in name], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2),
                                  eps=settings.epsilon)  # fmt: skip
    warmup = math.ceil(settings.warmup_fraction * STEPS)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, STEPS)
    losses, norms = [], []
    for rows in batches:
        total, count = torch.zeros(()), 0
        for document in (document for row in rows for document in row):
            logits = model(torch.tensor(document.ids)[None]).logits[0, :-1]
            labels = torch.tensor(np.where(document.trained, document.ids, -100))[1:]
            total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            count += int((labels != -100).sum())
        loss = total / count
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return losses, norms


def test_five_steps_have_the_losses_of_a_plain_pytorch_loop(folder: Path, batches: list, plain_loop):
    our_losses, our_norms = ours(folder, batches, (1, 2, 1))
    their_losses, their_norms = plain_loop
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-4)
    np.testing.assert_allclose(our_norms, their_norms, rtol=1e-3)
    assert max(their_norms) > CONFIG.optimizer.clip_norm  # clipping took part
    # The steps did something: without them the last batch would have another loss.
    untrained, _ = theirs(folder, batches[-1:])
    assert abs(untrained[0] - their_losses[-1]) > 1e-2


def test_tensor_parallel_devices_train_the_same(folder: Path, batches: list, plain_loop):
    np.testing.assert_allclose(ours(folder, batches, (2, 1, 2))[0], plain_loop[0], rtol=1e-4)
