"""The chunked loss and the embedding against plain float64, alone and with the vocabulary split over devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, parallel_of
from asclepius_jax.model import output_loss
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.output_loss import Logits
from asclepius_jax.plan import hlo
from asclepius_jax.plan.preflight.float64_reference import loss_reference
from asclepius_jax.train.step import shard_map

B, T, D, V = 2, 12, 8, 24


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(output_loss, "CHUNK_TOKENS", 7)  # 24 tokens: four chunks of 6


def made(tokens: int = T) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    x_BTD, head_DV = random.normal(size=(B, tokens, D)), random.normal(size=(D, V))
    return (
        x_BTD,
        head_DV,
        random.integers(0, V, (B, tokens)),
        random.random((B, tokens)) * (random.random((B, tokens)) < 0.5),
    )


def expected(x_BTD, head_DV, targets_BT, weights_BT) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, dx, dhead in float64."""
    logits = x_BTD @ head_DV
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    probs = exp / exp.sum(-1, keepdims=True)
    hit = np.eye(V)[targets_BT]
    losses = -np.log((probs * hit).sum(-1))
    d_logits = (probs - hit) * weights_BT[..., None]
    return (losses * weights_BT).sum(), d_logits @ head_DV.T, np.einsum("BTD,BTV->DV", x_BTD, d_logits)


def compare(ours: Any, theirs: Any, tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        scale = max(np.abs(other).max(), 1e-9)
        assert np.abs(np.asarray(one, np.float64) - other).max() <= tolerance * scale


@pytest.mark.parametrize("axis", [0, 1], ids=["own matrix", "tied"])
@pytest.mark.parametrize("tokens", [T, 13], ids=["whole chunks", "a short chunk"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 3e-2)])
def test_value_and_gradient(tokens: int, axis: int, dtype: str, tolerance: float):
    x, head, targets, weights = made(tokens)
    x = np.asarray(jnp.asarray(x, dtype), np.float64)  # what bfloat16 leaves of it is where both start

    def loss(x_BTD, matrix):
        return output_loss.loss_sum(
            x_BTD.astype(dtype), matrix, targets, weights.astype(np.float32), Parallel(), Logits(axis)
        )

    matrix = jnp.asarray(head if axis == 0 else head.T, jnp.float32)
    value, (d_x, d_matrix) = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.asarray(x, jnp.float32), matrix)
    theirs = expected(x, head, targets, weights)
    compare((value, d_x, d_matrix if axis == 0 else d_matrix.T), theirs, tolerance)
    plain = jax.jit(loss)(jnp.asarray(x, jnp.float32), matrix)  # without a gradient it is another program
    assert float(plain) == pytest.approx(float(value), rel=1e-6)


def test_a_factor_behind_the_loss_reaches_the_gradients():
    x, head, targets, weights = made()

    def half(x_BTD, head_DV):
        return 0.5 * output_loss.loss_sum(x_BTD, head_DV, targets, weights.astype(np.float32), Parallel(), Logits())

    grads = jax.grad(half, (0, 1))(jnp.asarray(x, jnp.float32), jnp.asarray(head, jnp.float32))
    _, d_x, d_head = expected(x, head, targets, weights)
    compare(grads, (0.5 * d_x, 0.5 * d_head), 2e-6)


def test_no_weight_is_no_loss_and_no_gradient():
    x, head, targets, weights = made()
    loss = lambda x, head: output_loss.loss_sum(x, head, targets, 0 * weights.astype(np.float32), Parallel(), Logits())  # noqa: E731
    value, grads = jax.value_and_grad(loss, (0, 1))(jnp.asarray(x, jnp.float32), jnp.asarray(head, jnp.float32))
    assert float(value) == 0.0
    assert all(float(jnp.abs(grad).max()) == 0.0 for grad in grads)


@pytest.mark.parametrize("axis", [0, 1], ids=["own matrix", "tied"])
@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 2), (2, 1), (2, 4)])
def test_split_over_devices_it_is_the_same(fsdp: int, tensor: int, axis: int):
    """Rows over fsdp; the vocabulary and, for x, the positions over tensor."""
    x, head, targets, weights = made()
    mesh = make_mesh(MeshConfig(1, fsdp, tensor), jax.devices()[: fsdp * tensor])
    parallel = parallel_of(mesh, "float32")

    def local(x_BTD, matrix, targets_BT, weights_BT):
        loss = lambda x, head: output_loss.loss_sum(x, head, targets_BT, weights_BT, parallel, Logits(axis))  # noqa: E731
        value, (d_x, d_matrix) = jax.value_and_grad(loss, (0, 1))(x_BTD, matrix)
        return jax.lax.psum(value, "fsdp"), d_x, d_matrix

    x_spec, rows = PartitionSpec("fsdp", "tensor"), PartitionSpec("fsdp")
    split = PartitionSpec("fsdp", "tensor") if axis == 0 else PartitionSpec("tensor", "fsdp")
    spread = shard_map(local, mesh, (x_spec, split, rows, rows), (PartitionSpec(), x_spec, split))
    arrays = [np.asarray(each, np.float32) for each in (x, head if axis == 0 else head.T)]
    value, d_x, d_matrix = jax.jit(spread)(*arrays, targets, weights.astype(np.float32))
    compare((value, d_x, d_matrix if axis == 0 else d_matrix.T), expected(x, head, targets, weights), 2e-6)


# Logits have a standard deviation of 3. Of 24 columns: none, one, or all of the last tensor device's are padding.
@pytest.mark.parametrize(
    "logits",
    [Logits(0, None, 2.0), Logits(1, 23), Logits(0, 18, 2.0), Logits(1, 18, 30.0), Logits(0, 17)],
    ids=["cap", "padding tied", "both", "both tied", "padding"],
)
@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 1), (2, 4)])
def test_caps_and_padding_against_float64(fsdp: int, tensor: int, logits: Logits):
    x, head, targets, weights = made()
    targets %= logits.vocab_size or V
    mesh = make_mesh(MeshConfig(1, fsdp, tensor), jax.devices()[: fsdp * tensor])
    parallel = parallel_of(mesh, "float32")

    def local(x_BTD, matrix, targets_BT, weights_BT):
        loss = lambda x, head: output_loss.loss_sum(x, head, targets_BT, weights_BT, parallel, logits)  # noqa: E731
        value, (d_x, d_matrix) = jax.value_and_grad(loss, (0, 1))(x_BTD, matrix)
        return jax.lax.psum(jnp.stack([value, loss(x_BTD, matrix)]), "fsdp"), d_x, d_matrix

    x_spec, rows = PartitionSpec("fsdp", "tensor"), PartitionSpec("fsdp")
    split = PartitionSpec("fsdp", "tensor") if logits.axis == 0 else PartitionSpec("tensor", "fsdp")
    spread = shard_map(local, mesh, (x_spec, split, rows, rows), (PartitionSpec(), x_spec, split))
    arrays = [np.asarray(each, np.float32) for each in (x, head.T if logits.axis else head)]
    values, d_x, d_matrix = jax.jit(spread)(*arrays, targets, weights.astype(np.float32))
    loss, d_x_CD, d_head = loss_reference(x.reshape(-1, D), head, targets.ravel(), weights.ravel(), logits)
    d_matrix = np.asarray(d_matrix.T if logits.axis else d_matrix)
    compare((values, d_x, d_matrix), (np.repeat(loss, 2), d_x_CD.reshape(x.shape), d_head), 2e-6)
    np.testing.assert_array_equal(d_matrix[:, logits.vocab_size or V :], 0.0)


@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_lookup_and_its_gradient(fsdp: int, tensor: int):
    random = np.random.default_rng(1)
    table, tokens, d_out = random.normal(size=(V, D)), random.integers(0, V, (B, T)), random.normal(size=(B, T, D))
    mesh = make_mesh(MeshConfig(1, fsdp, tensor), jax.devices()[: fsdp * tensor])
    parallel = parallel_of(mesh, "float32")

    def local(embed_VD, tokens_BT, d_out_BTD):
        out, pull = jax.vjp(lambda embed: output_loss.lookup(embed, tokens_BT, parallel, "float32"), embed_VD)
        return out, pull(d_out_BTD)[0]

    table_spec, rows, out_spec = PartitionSpec("tensor", "fsdp"), PartitionSpec("fsdp"), PartitionSpec("fsdp", "tensor")
    spread = shard_map(local, mesh, (table_spec, rows, out_spec), (out_spec, table_spec))
    out, d_table = jax.jit(spread)(table.astype(np.float32), tokens, d_out.astype(np.float32))
    expected_d = np.zeros_like(table)
    np.add.at(expected_d, tokens, d_out)
    compare((out, d_table), (table[tokens], expected_d), 1e-6)


def test_a_frequent_tokens_gradient_does_not_stall():
    """4,096 times one thousandth: in bfloat16 the sum would stop where the addend is less than half of its last bit."""
    tokens, like = np.full((1, 4096), 3), jnp.ones((V, D))
    _, pull = jax.vjp(lambda embed: output_loss.lookup(embed, tokens, Parallel(), "bfloat16"), like)
    (d_table,) = pull(jnp.full((1, 4096, D), 2.0**-10, jnp.bfloat16))
    np.testing.assert_array_equal(d_table[3], np.full(D, 4.0))


def test_a_rows_logits_never_exist():
    x, head, targets, weights = made()
    loss = lambda x, head: output_loss.loss_sum(x, head, targets, weights.astype(np.float32), Parallel(), Logits())  # noqa: E731
    program = jax.jit(jax.grad(loss, (0, 1))).lower(np.float32(x), np.float32(head)).compile().as_text()
    sizes = {int(np.prod(shape)) for shape in hlo.buffer_shapes(program) if V in shape}
    assert 6 * V in sizes
    assert T * V not in sizes
    assert B * T * V not in sizes
