"""General text in two parts, a small model and small helpers, as the studies of this folder use them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asclepius_jax as asc
from asclepius_jax.checkpoint.read import find_step
from asclepius_jax.train.mixture import open_rows
from data_prep.contract.manifests import MANIFEST
from data_prep.contract.records import Reject, seeded_fraction
from data_prep.pack import plain_text


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def once(folder: Path, make: Callable[[], Any]) -> None:
    """Make a finished folder, unless an earlier run did."""
    if not (folder / MANIFEST).is_file():
        make()


def trained(config: asc.TrainConfig, updates: int) -> Path:
    """The folder of a run with as many passes over its rows as give this number of updates.

    Raises KeyboardInterrupt if Ctrl-C or SIGTERM ended it before.
    """
    epochs = updates * config.batch.global_batch / len(open_rows(config.data))
    run_dir = asc.train(dataclasses.replace(config, data=dataclasses.replace(config.data, epochs=epochs)))
    if int(find_step(run_dir)[1].name) < updates:
        raise KeyboardInterrupt
    return run_dir


def split_general(source: Path, out: Path, held_out: float, seed: int) -> list[str]:
    """Write the documents of general text to train.jsonl and held_out.jsonl, drawn at random.

    Args:
        source: a file or folder of plain text, as `asclepius pack` takes it.
        out: folder for the two files.
        held_out: fraction of the documents to hold out, at least one.
        seed: of the draw.

    Returns:
        The texts to train on.
    """
    reading = plain_text.TextConfig()
    found = plain_text.documents_in(plain_text.open_corpus(source, reading), reading)
    documents = [document for document in found if not isinstance(document, Reject)]
    drawn = sorted(documents, key=lambda document: seeded_fraction(seed, document.id, document.text))
    apart = {document.id for document in drawn[: max(1, round(held_out * len(drawn)))]}
    sides: dict[str, list[str]] = {"train": [], "held_out": []}
    for document in documents:
        sides["held_out" if document.id in apart else "train"].append(document.text)
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in sides.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return sides["train"]


def small_model(folder: Path, pieces: int, width: int, layers: int, context: int) -> Path:
    """A folder with the config.json of a small LLaMA, whose width is a multiple of 64."""
    folder.mkdir(exist_ok=True)
    shape = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": pieces,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(shape, indent=2))
    return folder
