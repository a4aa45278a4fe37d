"""Answers of very different lengths: slots that finished answers free, against batches that wait for the longest.

Ours runs 32 slots; transformers runs batches of 8 on the same random weights of 58M parameters, in float32, greedily.
The number of new tokens of each answer is drawn from a lognormal distribution with a median of 32, between 4 and 256.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import step

PROMPTS, BATCH, ROUNDS = 96, 8, 2


def workload() -> tuple[list[list[int]], list[int]]:
    """Prompts and the number of new tokens of each."""
    draws = np.random.default_rng(0)
    prompts = [draws.integers(3, step.VOCABULARY, size).tolist() for size in draws.integers(16, 128, PROMPTS)]
    return prompts, np.clip(draws.lognormal(np.log(32), 1.0, PROMPTS), 4, 256).astype(int).tolist()


def measure(folder: Path) -> Iterator[list[str]]:
    """Rows of a table. `folder` has the weights, as transformers saves them."""
    import jax
    import torch
    from transformers import AutoModelForCausalLM

    from asclepius_jax.config import MeshConfig
    from asclepius_jax.distributed.sharding import make_mesh, param_shardings
    from asclepius_jax.generate.engine import Engine
    from asclepius_jax.generate.replica import Capacity, Request
    from asclepius_jax.model.decoder import build
    from asclepius_jax.model.huggingface.names import load_params, read_config

    prompts, lengths = workload()
    requests = [Request(tuple(prompt), new) for prompt, new in zip(prompts, lengths, strict=True)]
    model = build(read_config(folder))
    params = load_params(folder, model, param_shardings(make_mesh(MeshConfig(), jax.devices()[:1]), model))
    engine = Engine(model, params, (), Capacity(max_length=512), "float32")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def in_slots() -> list[list[int]]:
        found = {place: answer.tokens for place, answer in engine.run(requests)}
        return [found[place] for place in range(PROMPTS)]

    def in_batches() -> list[list[int]]:
        found = []
        for start in range(0, PROMPTS, BATCH):
            part, news = prompts[start : start + BATCH], lengths[start : start + BATCH]
            longest = max(map(len, part))
            ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in part])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in part])
            made = theirs.generate(ids, attention_mask=mask, max_new_tokens=max(news), do_sample=False,
                                   eos_token_id=None, pad_token_id=0)  # fmt: skip
            found += [row[longest:][:new] for row, new in zip(made.tolist(), news, strict=True)]
        return found

    in_slots()  # compiles
    seconds: dict[str, list[float]] = {"slots": [], "batches": []}
    for _ in range(ROUNDS):
        for name, run in (("slots", in_slots), ("batches", in_batches)):
            started = time.monotonic()
            made = run()
            seconds[name].append(time.monotonic() - started)
            seconds.setdefault(f"{name} wrote", []).append(hash(str(made)))
    total = sum(lengths)
    yield ["answers, new tokens", f"{PROMPTS}, {total:,}"]
    for name, told in (("slots", "ours, 32 slots"), ("batches", f"transformers, batches of {BATCH}")):
        yield [f"{told}, tokens/s", f"{total / min(seconds[name]):,.0f}"]
    yield ["ours to transformers", f"{min(seconds['batches']) / min(seconds['slots']):.2f}"]
    yield ["same tokens", str(seconds["slots wrote"] == seconds["batches wrote"])]
