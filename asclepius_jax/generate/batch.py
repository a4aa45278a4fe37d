"""Answers to a list of prompts, for evaluation and for `asclepius generate`."""

from collections.abc import Sequence

import numpy as np

from asclepius_jax.generate.engine import Engine
from asclepius_jax.generate.programs import DType
from asclepius_jax.generate.replica import Capacity, Request
from asclepius_jax.generate.sampling import Sampling, check_sampling, keys_of
from asclepius_jax.model.decoder import Model, Params
from data_prep.contract.errors import UserError


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    ends: int | Sequence[int],
    sampling: Sampling,
    dtype: DType,
) -> list[list[int]]:
    """Generate token ids for each prompt, up to but not including the first of `ends`, the ids that end a text.

    Raises UserError for invalid settings, for an empty prompt, or if prompt and new tokens exceed the model's maximum
    length.
    """
    check_sampling(sampling)
    if not prompts:
        return []
    longest = max(map(len, prompts))
    if longest + sampling.max_new_tokens > model.config.context:
        raise UserError(
            f"{longest} prompt tokens and {sampling.max_new_tokens} new tokens exceed the model's maximum length of "
            f"{model.config.context} (max_position_embeddings of a Hugging Face folder): "
            "shorten the note or reduce --sampling.max-new-tokens"
        )
    slots = min(len(prompts), Capacity().slots)
    capacity = Capacity(slots, max_length=longest + sampling.max_new_tokens)
    engine = Engine(model, params, np.atleast_1d(ends).tolist(), capacity, dtype)
    found: list[list[int]] = [[]] * len(prompts)
    for place, answer in engine.run(requests_of(prompts, sampling)):
        found[place] = answer.tokens
    return found


def requests_of(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Request]:
    keys = keys_of(sampling, len(prompts)).tolist()
    return [
        Request(tuple(prompt), sampling.max_new_tokens, sampling.temperature, sampling.top_p, tuple(key))
        for prompt, key in zip(prompts, keys, strict=True)
    ]
