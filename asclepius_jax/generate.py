"""Greedy or sampled decoding with a cache on a mesh, for `asclepius generate` and for evaluation."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from asclepius_jax.checkpoint.adapters import whole_params
from asclepius_jax.checkpoint.read import of_newest, read_meta
from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import Model, Params, build, empty_cache
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, load_template, render_prompt
from data_prep.contract.tables import read_text_file
from data_prep.contract.tokenizer import JsonTokenizer, encode_prompt

MOST_SEED = 2**32 - 1
LEAST_TEMPERATURE = 1e-6  # lower ones take the most likely token as well, until float32 makes them 0
# Prompts are padded to a multiple of this, so that only a few lengths are compiled.
BUCKET = 64


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


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Ask a checkpoint a question."""

    checkpoint: Path
    """Run folder (its newest step), or RUN/checkpoints/STEP."""
    prompt: str = ""
    """Text to continue as it is, without the prompt template."""
    note: Path | None = None
    """File that holds a note; used with --instruction, in the prompt template of training."""
    instruction: str = ""
    """Instruction or question about the note."""
    prompt_template: str | None = None
    """File that replaces the checkpoint's own prompt template."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the computation."""


def run(config: GenerateConfig) -> None:
    check_sampling(config.sampling)
    trained = of_newest(config.checkpoint, read_meta).prompt_template or TRAINING_TEMPLATE
    prompt = read_prompt(config, load_template(config.prompt_template) if config.prompt_template else trained)
    model, params, tokenizer = load_checkpoint(config.checkpoint, config.mesh)
    ids = encode_prompt(tokenizer, prompt)
    print(tokenizer.decode(generate(model, params, [ids], tokenizer.ends, config.sampling, config.dtype)[0]))


def read_prompt(config: GenerateConfig, template: str) -> str:
    if config.prompt and (config.note or config.instruction):
        raise UserError("--prompt cannot be combined with --note and --instruction; use either")
    if config.prompt:
        return config.prompt
    if config.note is None or not config.instruction:
        raise UserError("no prompt: set --prompt TEXT, or --note FILE with --instruction TEXT")
    if not config.note.is_file():
        raise UserError(f"--note {config.note}: no such file; check the path")
    return render_prompt(template, read_text_file(config.note), config.instruction)


class Checkpoint(NamedTuple):
    """A checkpoint in memory. `params` is a nested dict of arrays, adapters merged into their base."""

    model: Model
    params: Params
    tokenizer: JsonTokenizer


def load_checkpoint(path: str | Path, mesh: MeshConfig | None = None) -> Checkpoint:
    """Load a checkpoint's model, parameters and tokenizer.

    Args:
        path: a run folder (its newest step), or RUN/checkpoints/STEP.
        mesh: devices along each axis; None shards the parameters over all devices.

    Raises:
        UserError: there is no complete checkpoint, its checksums do not match, or its tokenizer was replaced.
    """
    return of_newest(Path(path), functools.partial(load_step, mesh=mesh or MeshConfig()))


def load_step(step_folder: Path, mesh: MeshConfig) -> Checkpoint:
    run_dir, meta = step_folder.parent.parent, read_meta(step_folder)
    tokenizer = JsonTokenizer(run_dir / "tokenizer")
    if tokenizer.hash != meta.tokenizer_hash:
        raise UserError(
            f"{run_dir}/tokenizer is not the tokenizer that {step_folder} was trained with: restore the original folder"
        )
    model = build(meta.model)
    params = whole_params(step_folder, model, param_shardings(make_mesh(mesh), model))
    return Checkpoint(model, params, tokenizer)


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    ends: int | Sequence[int],
    sampling: Sampling,
    dtype: str,
) -> list[list[int]]:
    """Generate token ids for each prompt, up to but not including the first of `ends`, the ids that end a text.

    Raises UserError for invalid settings, for an empty prompt, or if prompt and new tokens exceed the model's maximum
    length.
    """
    check_sampling(sampling)
    if not prompts:
        return []
    if not min(map(len, prompts)):
        raise UserError("a prompt is empty: it needs at least the token that begins a text")
    longest = max(map(len, prompts))
    if longest + sampling.max_new_tokens > model.config.context:
        raise UserError(
            f"{longest} prompt tokens and {sampling.max_new_tokens} new tokens exceed the model's maximum length of "
            f"{model.config.context} (max_position_embeddings of a Hugging Face folder): "
            "shorten the note or reduce --sampling.max-new-tokens"
        )
    tokens_BT = np.zeros((len(prompts), -(-longest // BUCKET) * BUCKET), np.int32)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
    decode = compiled(model.config, dtype, sampling.max_new_tokens, sampling.temperature, sampling.top_p)
    ends_E = np.atleast_1d(np.asarray(ends, np.int32))
    new_BT = np.asarray(decode(params, tokens_BT, lengths_B, ends_E, keys_of(sampling, len(prompts))))
    places = [np.flatnonzero(np.isin(row, ends_E)) for row in new_BT]
    return [row[: found[0] if len(found) else len(row)].tolist() for row, found in zip(new_BT, places, strict=True)]


def keys_of(sampling: Sampling, count: int) -> jax.Array:
    """One key per prompt, (B,)."""
    if not sampling.seeds:
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(sampling.seed), jnp.arange(count))
    assert len(sampling.seeds) == count, "one seed per prompt"
    return jax.vmap(jax.random.key)(np.array(sampling.seeds, np.uint32))


@functools.lru_cache(maxsize=8)
def compiled(config: DecoderConfig, dtype: str, max_new_tokens: int, temperature: float, top_p: float) -> Any:
    """Make the jitted function (params, tokens_BT, lengths_B, ends_E, keys_B) -> new tokens (B, max_new_tokens).

    The tokens after the end of a sequence are the first of the ids that end a text.
    """
    model = build(config)

    def pick_all(logits_BV: jax.Array, keys_B: jax.Array, n: Any) -> jax.Array:
        return jax.vmap(lambda logits_V, key: pick(logits_V, jax.random.fold_in(key, n), temperature, top_p))(
            logits_BV, keys_B
        )

    def decode(params: Params, tokens_BT: Any, lengths_B: Any, ends_E: Any, keys_B: Any) -> jax.Array:
        decoder = model.merge(params)
        B, T = tokens_BT.shape
        cache = empty_cache(config, B, T + max_new_tokens, dtype)
        # Padding after a prompt fills cache slots, which its new tokens overwrite before any token can see them.
        positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        x_BTD, cache = decoder.decode(tokens_BT, positions_BT, cache, dtype)
        last_B1D = jnp.take_along_axis(x_BTD, (lengths_B - 1)[:, None, None], axis=1)
        first_B = pick_all(decoder.logits(last_B1D)[:, 0], keys_B, 0)
        new_BT = jnp.full((B, max_new_tokens), ends_E[0], jnp.int32).at[:, 0].set(first_B)

        def unfinished(carry: Any) -> jax.Array:
            n, _, _, done_B = carry
            return (n < max_new_tokens) & ~jnp.all(done_B)

        def step(carry: Any) -> Any:
            n, new_BT, cache, done_B = carry
            token_B1 = jax.lax.dynamic_slice_in_dim(new_BT, n - 1, 1, axis=1)
            x_B1D, cache = decoder.decode(token_B1, (lengths_B + n - 1)[:, None], cache, dtype)
            next_B = pick_all(decoder.logits(x_B1D)[:, 0], keys_B, n)
            next_B = jnp.where(done_B, ends_E[0], next_B)
            new_BT = jax.lax.dynamic_update_slice_in_dim(new_BT, next_B[:, None], n, axis=1)
            return n + 1, new_BT, cache, done_B | jnp.isin(next_B, ends_E)

        carry = (jnp.int32(1), new_BT, cache, jnp.isin(first_B, ends_E))
        return jax.lax.while_loop(unfinished, step, carry)[1]

    return jax.jit(decode)


def pick(logits_V: jax.Array, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """Choose the next token of a sequence from its logits. Leading axes, if any, are sequences that share the key."""
    if temperature == 0.0:
        return jnp.argmax(logits_V, axis=-1).astype(jnp.int32)
    # Below 0, so that a small temperature sends all but the largest to -infinity and none to infinity.
    logits_V = (logits_V - jnp.max(logits_V, axis=-1, keepdims=True)) / temperature
    if top_p < 1.0:
        sorted_V = jnp.sort(logits_V, axis=-1)[..., ::-1]
        before_V = jnp.cumsum(jax.nn.softmax(sorted_V, axis=-1), axis=-1) - jax.nn.softmax(sorted_V, axis=-1)
        # The logit of the least likely token within the nucleus, which always contains the most likely token.
        within_V = jnp.where(before_V < top_p, sorted_V, sorted_V[..., :1])
        logits_V = jnp.where(logits_V >= jnp.min(within_V, axis=-1, keepdims=True), logits_V, -jnp.inf)
    return jax.random.categorical(key, logits_V).astype(jnp.int32)
