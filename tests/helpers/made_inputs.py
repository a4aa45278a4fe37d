"""Small inputs for the tests: a tokenizer, notes, examples, packed folders, and a model that they fit."""

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from asclepius_jax.model.kernels.paged_cache import PAGE, PagedCache, empty_pages
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import Example, Generation, Note, PackedRow, Pair, file_hash
from data_prep.contract.tokenizer import SentencePieceTokenizer, train_sentencepiece
from data_prep.pack import run as pack

# 320 pieces hold the 256 bytes of the made tokenizer and what it learns beside them.
TOKEN_IDS: dict[str, int | None] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODEL = DecoderConfig(320, 32, 64, 2, 4, 2, head_dim=8, max_length=256)
GENERATION = Generation("offline", "rules", "0" * 16, 0, "stop")
WORDS = (
    "the patient was admitted with fever cough dyspnea and left chest pain history of asthma CT showed no embolism "
    "amoxicillin 500 mg was given for 7 days discharged home stable"
).split()


def sentences(count: int, longest: int, seed: int = 0) -> list[str]:
    """Made texts of 3 to `longest` words, each with a newline somewhere."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        words = list(random.choice(WORDS, random.integers(3, longest + 1)))
        words.insert(len(words) // 2, "\n")
        texts.append(" ".join(words).strip())
    return texts


def make_tokenizer(folder: Path, vocab_size: int = MODEL.vocab_size) -> Path:
    """A folder with the `tokenizer.json` of a SentencePiece model trained here."""
    folder.mkdir(parents=True, exist_ok=True)
    train_sentencepiece(sentences(200, 30), folder / "trained.model", vocab_size)
    SentencePieceTokenizer(folder / "trained.model").save(folder)
    return folder


def note(name: str, text: str) -> Note:
    return Note(name, f"report-{name}", "discharge summary", text, "made", "CC0", "article", GENERATION)


def example(name: str, text: str, question: str, answer: str) -> Example:
    origin = (f"note-{name}", f"report-{name}", "Question Answering")
    return Example(name, *origin, text, question, answer, "made", "CC0", "article", GENERATION, GENERATION)


def pair(name: str, text: str, question: str, chosen: str, rejected: str, **changed: Any) -> Pair:
    origin = (f"note-{name}", f"report-{name}", "Question Answering")
    made = ("made", "CC0", "article", GENERATION, GENERATION)
    return dataclasses.replace(Pair(name, *origin, text, question, chosen, rejected, "", "", True, *made), **changed)


def cache_for(config: DecoderConfig, batch: int, length: int) -> PagedCache:
    """An empty cache in which sequences take pages in turns, so that none has neighbouring ones."""
    pages = -(-length // PAGE)
    table = np.arange(1, batch * pages + 1, dtype=np.int32).reshape(pages, batch).T
    return PagedCache(*empty_pages(config, batch * pages, "float32"), table)


KINDS: dict[type, str] = {Note: "notes", Example: "instructions", Pair: "pairs"}


def write_records(folder: Path, records: list[Note] | list[Example] | list[Pair], per_file: int = 1000) -> Path:
    """The finished folder of a stage, as the stage would write it."""
    kind = KINDS[type(records[0])]
    with writing_folder(folder, kind, {}) as writer:
        for start in range(0, len(records), per_file):
            writer.add_shard(records[start : start + per_file], type(records[0]))
        writer.counts["in"] = len(records)
    return folder


def packed_notes(folder: Path, tokenizer: Path, count: int, row_length: int, seed: int = 0) -> Path:
    """`count` made notes, packed for pretraining."""
    texts = sentences(count, row_length // 4, seed)
    write_records(folder / "notes", [note(f"n{i:03d}", text) for i, text in enumerate(texts)])
    pack.run(pack.PackConfig(folder / "notes", folder / "packed", tokenizer, row_length, workers=1))
    return folder / "packed"


def packed_rows(folder: Path, tokenizer: Path, rows: list[PackedRow], row_length: int) -> Path:
    """A packed folder of exactly these rows."""
    source = write_records(folder / "notes", [note("n", "well")])
    pack.run(pack.PackConfig(source, folder / "packed", tokenizer, row_length, workers=1))
    from array_record.python.array_record_module import ArrayRecordWriter

    manifest = json.loads((folder / "packed/manifest.json").read_text())
    name = manifest["files"][0]["name"]
    writer = ArrayRecordWriter(str(folder / "packed" / name), "group_size:1")
    for row in rows:
        writer.write(row.to_bytes(manifest["token_dtype"]))
    writer.close()
    manifest["files"][0]["records"] = manifest["rows"] = manifest["out"] = len(rows)
    manifest["most_documents"] = max(len(row.segment_lengths) for row in rows)
    manifest["files"][0]["sha256"] = file_hash(folder / "packed" / name)
    (folder / "packed/manifest.json").write_text(json.dumps(manifest))
    return folder / "packed"


def transformers_model(folder: Path, config: DecoderConfig, noise: float = 0.1, max_shard_size: str = "5GB") -> Any:
    """A random model that transformers makes from our config.json and saves itself; returned in float32.

    `noise` moves every parameter: norm scales that are all 1 would hide a mix-up, near-equal logits a wrong argmax.
    """
    import pytest

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from asclepius_jax.model.huggingface.names import write_config

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(write_config(config, "float32", TOKEN_IDS))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    model.float().eval().save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def random_folder(
    folder: Path, config: DecoderConfig = MODEL, dtype: Any = np.float32, seed: int = 0
) -> dict[str, Any]:
    """The weights and config.json of a random model, in one safetensors file; returns its tensors."""
    from safetensors.numpy import save_file

    from asclepius_jax.model.decoder import build
    from asclepius_jax.model.huggingface.names import hf_shapes, write_config

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = {name: random.normal(0, 0.1, shape).astype(dtype) for name, shape in hf_shapes(build(config)).items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(write_config(config, np.dtype(dtype).name, TOKEN_IDS))
    return tensors


def to_hf(row: tuple[str, str, str], value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The Hugging Face tensors of one of our parameters, by the layout as it is written in the table."""
    _, theirs, layout = row
    back = " -> ".join(reversed(layout.split(" -> ")))
    stacked = "{}" in theirs
    for layer, part in enumerate(value if stacked else [value]):
        yield theirs.format(layer), np.ascontiguousarray(rearrange(part, back))


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def job_flags(address: str, process_id: int, processes: int = 2) -> list[str]:
    """Of `asclepius train`, for one process of a job on this machine."""
    values = {"coordinator": address, "process-id": process_id, "processes": processes, "timeout-seconds": 60}
    return [f"--job.{name}={value}" for name, value in values.items()]
