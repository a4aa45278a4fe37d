"""Settings of decoding, and the choice of the next token.

Shape suffixes: S sequence, V vocabulary.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from data_prep.contract.errors import UserError

MOST_SEED = 2**32 - 1
LEAST_TEMPERATURE = 1e-6  # lower ones take the most likely token as well, until float32 makes them 0


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Decoding settings."""

    max_new_tokens: int = 256
    """Most tokens to generate."""
    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: float = 1.0
    """Sample from the most likely tokens whose probabilities add up to this."""
    seed: int = 0
    """Random seed for sampling. Each prompt draws from its own key, made from the seed and its place in the batch."""
    seeds: tyro.conf.Suppress[tuple[int, ...]] = ()
    """Seeds of the prompts, one each, instead of `seed`: the answer to a prompt then does not depend on its place."""


def check_sampling(sampling: Sampling) -> None:
    """Raise UserError for settings that no text can be generated with."""
    rules = {
        "max_new_tokens": (sampling.max_new_tokens >= 1, "it must be 1 or more"),
        "temperature": (
            sampling.temperature == 0 or LEAST_TEMPERATURE <= sampling.temperature < math.inf,
            f"it must be 0, which takes the most likely token, or {LEAST_TEMPERATURE:g} or more",
        ),
        "top_p": (0 < sampling.top_p <= 1, "it must be above 0 and at most 1, which samples from all tokens"),
        "seed": (0 <= sampling.seed <= MOST_SEED, f"it must be from 0 to {MOST_SEED:,}"),
    }
    for name, (fits, told) in rules.items():
        if not fits:
            raise UserError(f"sampling.{name} is {getattr(sampling, name)}: {told}")


def keys_of(sampling: Sampling, count: int) -> np.ndarray:
    """Data of one random key per prompt, (count, 2). Token n of an answer is drawn with the key folded with n."""
    if sampling.seeds:
        assert len(sampling.seeds) == count, "one seed per prompt"
        keys = jax.vmap(jax.random.key)(np.array(sampling.seeds, np.uint32))
    else:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(sampling.seed), jnp.arange(count))
    return np.asarray(jax.random.key_data(keys))


def pick(logits_SV: jax.Array, keys_S: jax.Array, temperature_S: jax.Array, top_p_S: jax.Array) -> jax.Array:
    """Choose the next token of each sequence from its logits."""
    greedy_S = jnp.argmax(logits_SV, axis=-1).astype(jnp.int32)

    def sampled() -> jax.Array:
        # Below 0, so that a small temperature sends all but the largest to -infinity and none to infinity.
        below_SV = logits_SV - jnp.max(logits_SV, axis=-1, keepdims=True)
        scaled_SV = below_SV / jnp.where(temperature_S > 0, temperature_S, 1.0)[:, None]
        scaled_SV = jax.lax.cond(jnp.any(top_p_S < 1), lambda x: nucleus(x, top_p_S), lambda x: x, scaled_SV)
        drawn_S = jax.vmap(jax.random.categorical)(keys_S, scaled_SV).astype(jnp.int32)
        return jnp.where(temperature_S > 0, drawn_S, greedy_S)

    return jax.lax.cond(jnp.any(temperature_S > 0), sampled, lambda: greedy_S)


def nucleus(logits_SV: jax.Array, top_p_S: jax.Array) -> jax.Array:
    """The logits, with -infinity for all but the most likely tokens whose probabilities add up to top_p."""
    sorted_SV = jnp.sort(logits_SV, axis=-1, descending=True)
    probs_SV = jax.nn.softmax(sorted_SV, axis=-1)
    before_SV = jnp.cumsum(probs_SV, axis=-1) - probs_SV
    # The logit of the least likely token within the nucleus, which always contains the most likely token.
    within_SV = jnp.where(before_SV < top_p_S[:, None], sorted_SV, sorted_SV[:, :1])
    least_S1 = jnp.where(top_p_S < 1, jnp.min(within_SV, axis=-1), -jnp.inf)[:, None]
    return jnp.where(logits_SV >= least_S1, logits_SV, -jnp.inf)
