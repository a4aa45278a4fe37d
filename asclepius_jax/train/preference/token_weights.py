"""Preference tuning by token weights: the gradient of DPO is that of cross entropy with signed weights.

The loss of a pair is -log sigmoid(m), where m is its margin (DPO, arXiv 2305.18290, equation 7):

    m = beta ((log p(chosen) - log r(chosen)) - (log p(rejected) - log r(rejected)))

p is the model, and the log-probabilities under the reference model r are stored with the rows. The derivative by the
log-probability of a chosen or rejected token is -beta sigmoid(-m) or +beta sigmoid(-m). So a first forward pass gives
the margins, these give every token a weight, and with the weights the loss of tuning has the gradient of DPO.

Shape suffixes: B batch, T position, P number of the pair in its row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from asclepius_jax.config import PreferenceConfig
from asclepius_jax.train.batches import Batch

Scalars = dict[str, jax.Array]
# Of a sample to be made less likely, the least 1 - p. The gradient of its logits stays exact where p rounds to 1.
LEAST_REST = 1e-6


class Counts(NamedTuple):
    """Numbers in the global batch, by which its losses are divided."""

    pairs: jax.Array
    chosen_tokens: jax.Array  # with loss, of pairs
    unpaired_tokens: jax.Array  # with loss


def counts_of(batch: Batch) -> Counts:
    """The counts of the global batch, from this device's part of it. For use inside shard_map, as all of this file."""
    mask, paired = batch["loss_mask"], batch["pairs"] > 0
    pairs = jnp.sum(jax.lax.pmax(jnp.max(batch["pairs"], axis=1), "context")).astype(jnp.float32)
    chosen, unpaired = jnp.sum(mask * (paired & (batch["weights"] > 0))), jnp.sum(mask * ~paired)
    tokens = jax.lax.psum((chosen, unpaired), ("data", "fsdp", "context"))
    return Counts(jax.lax.psum(pairs, ("data", "fsdp")), *tokens)


def token_weights(
    losses_BT: jax.Array, batch: Batch, settings: PreferenceConfig, counts: Counts
) -> tuple[jax.Array, Scalars]:
    """Weights (B, T) with which cross entropy has the gradient of the whole loss, and this device's share of that loss.

    The loss is the mean of the pairs' losses, plus `anchor_weight` times the mean cross entropy of chosen tokens, plus
    the mean loss of unpaired tokens: cross entropy times its weight where that is positive, unlikelihood
    -log(1 - p) where it is negative (arXiv 1908.04319).

    Args:
        losses_BT: cross entropy of every token under the current parameters, without gradient.
        batch: loss_mask, weights, pairs and reference, (B, T) each.
        settings: beta and anchor_weight.
        counts: of the global batch.
    """
    counts = Counts(*(jnp.maximum(count, 1.0) for count in counts))
    signed_BT, paired_BT = batch["weights"], batch["pairs"] > 0
    margin_BP, weight_BP = margins(losses_BT, batch, settings.beta)
    slope_BP = settings.beta * jax.nn.sigmoid(-margin_BP) * weight_BP / counts.pairs
    of_pairs_BT = jnp.sign(signed_BT) * jnp.take_along_axis(slope_BP, batch["pairs"], axis=1)
    anchor_BT = jnp.where(signed_BT > 0, settings.anchor_weight / counts.chosen_tokens, 0.0)

    rest_BT = jnp.maximum(-jnp.expm1(-losses_BT), LEAST_REST)  # 1 - p of the token
    slope_BT = jnp.where(signed_BT > 0, 1.0, (1 - rest_BT) / rest_BT) * signed_BT / counts.unpaired_tokens
    loss_BT = jnp.where(signed_BT > 0, losses_BT * signed_BT, jnp.log(rest_BT) * signed_BT)

    weights_BT = jnp.where(paired_BT, of_pairs_BT + anchor_BT, slope_BT) * batch["loss_mask"]
    once = (jax.lax.axis_index("context") == 0).astype(jnp.float32)  # devices with parts of a row know all its pairs
    real_BP = (weight_BP > 0) * once / counts.pairs
    measured = {
        "preference_loss": jnp.sum(jax.nn.softplus(-margin_BP) * weight_BP * real_BP),
        "preference_accuracy": jnp.sum((margin_BP > 0) * real_BP),
        "preference_margin": jnp.sum(margin_BP * real_BP),
        "chosen_loss": jnp.sum(losses_BT * batch["loss_mask"] * (paired_BT & (signed_BT > 0))) / counts.chosen_tokens,
    }
    unpaired = jnp.sum(jnp.where(paired_BT, 0.0, loss_BT) * batch["loss_mask"]) / counts.unpaired_tokens
    loss = measured["preference_loss"] + settings.anchor_weight * measured["chosen_loss"] + unpaired
    return weights_BT, {"loss": loss, **measured}


def margins(losses_BT: jax.Array, batch: Batch, beta: float) -> tuple[jax.Array, jax.Array]:
    """Margin and weight of every pair of this device's rows, (B, P) each; entry 0 and unused ones have weight 0."""
    signed_BT, mask_BT = batch["weights"], batch["loss_mask"]
    log_ratio_BT = -losses_BT * mask_BT * jnp.sign(signed_BT) - batch["reference"]
    P = losses_BT.shape[1] * jax.lax.axis_size("context") // 2 + 1  # a pair has two tokens at least

    def by_pair(add: object, values_BT: jax.Array) -> jax.Array:
        return jax.vmap(lambda values_T, pairs_T: add(values_T, pairs_T, P))(values_BT, batch["pairs"])  # type: ignore

    margin_BP = beta * jax.lax.psum(by_pair(jax.ops.segment_sum, log_ratio_BT), "context")
    weight_BP = jax.lax.pmax(by_pair(jax.ops.segment_max, jnp.abs(signed_BT)), "context")
    weight_BP = jnp.maximum(weight_BP, 0.0).at[:, 0].set(0.0)  # the largest of no entries is -inf
    return jnp.where(weight_BP > 0, margin_BP, 0.0), weight_BP
