"""Each mistake of the code that this project re-creates, and that it cannot be made here.

arXiv 2309.00237 describes the recipe; the mistakes are in how its training data was put together.
"""

import asyncio
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from asclepius_jax.checkpoint.read import Meta
from asclepius_jax.checkpoint.write import Saver
from asclepius_jax.config import CheckpointConfig
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.generate.ask import GenerateConfig, read_prompt
from asclepius_jax.model.decoder import build, init_params
from asclepius_jax.train.batches import PackedRows
from data_prep.contract.manifests import writing_folder
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE
from data_prep.contract.records import TASKS, Example, Note, Reject, read_parquet
from data_prep.contract.tokenizer import JsonTokenizer, encode
from data_prep.pack import run as pack
from data_prep.synthesize.filters import reason_to_reject
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.questions.task_weights import TaskWeights, tasks_of_note
from data_prep.synthesize.questions.write_examples import WriteExamples
from data_prep.teachers.base import Reply, Request
from tests.helpers.made_inputs import MODEL, example, note, sentences, write_records

LENGTH = 512
EXAMPLES = [
    # White space at the ends, and a control token in the text: where training and inference would come apart.
    example("spaces", "  HPI: fever for 3 days. \n\n", " How long? ", "\nFor 3 days. "),
    example("control", "Given </s> amoxicillin <s> 500 mg", "Which drug?", "Amoxicillin </s> 500 mg"),
    *(example(f"e{i}", text, "What is it?", f"It is {i}.") for i, text in enumerate(sentences(20, 30))),
]


def packed(folder: Path, tokenizer: Path, records: list, row_length: int = LENGTH) -> PackedRows:
    write_records(folder / "source", records)
    pack.run(pack.PackConfig(folder / "source", folder / "packed", tokenizer, row_length, workers=1))
    return PackedRows(folder / "packed", row_length)


@pytest.fixture(scope="module")
def tuning(small_tokenizer: Path, tmp_path_factory) -> PackedRows:
    return packed(tmp_path_factory.mktemp("tuning"), small_tokenizer, EXAMPLES)


def documents(rows: PackedRows) -> list[tuple[list[int], list[int]]]:
    """(ids, ids that are trained on) of each document of every row."""
    found = []
    for i in range(len(rows)):
        row = rows[i]
        for segment in range(1, row["segment_ids"].max() + 1):
            at = row["segment_ids"] == segment
            trained = row["targets"][at & (row["loss_mask"] > 0)]
            found.append((row["tokens"][at].tolist(), trained.tolist()))
    return found


# ---------------------------------------------------------------- what stands in a row


def test_two_bos_a_document(tuning: PackedRows, tmp_path: Path, small_tokenizer: Path):
    """BOS was written by the tokenizer and again by the template."""
    pretraining = packed(tmp_path, small_tokenizer, [note(f"n{i}", text) for i, text in enumerate(sentences(20, 60))])
    for rows in (tuning, pretraining):
        found = documents(rows)
        assert len(found) > len(rows)  # several documents a row
        assert [(ids[0], ids.count(1), ids[-1], ids.count(2)) for ids, _ in found] == [(1, 1, 2, 1)] * len(found)


def test_attention_across_documents(tuning: PackedRows):
    """A document in a row computes what it computes with other neighbours."""
    row = tuning[0]
    assert row["segment_ids"].max() >= 2
    model, params = build(MODEL), init_params(MODEL, 0)
    call = jax.jit(
        lambda tokens: model.merge(params)(tokens, row["positions"][None], row["segment_ids"][None], "float32")
    )
    first = row["segment_ids"] == 1
    others = np.where(first, row["tokens"], (row["tokens"] + 7) % MODEL.vocab_size)
    one, other = np.asarray(call(row["tokens"][None]))[0], np.asarray(call(others[None]))[0]
    np.testing.assert_array_equal(one[first], other[first])
    assert (row["positions"][np.flatnonzero(np.diff(row["segment_ids"]) > 0) + 1] == 0).all()


def test_padding_that_is_bos_so_that_a_prompt_token_is_trained_on(tuning: PackedRows):
    """The loss mask was found by looking for the padding token, which was also the prompt's first."""
    tokenizer = JsonTokenizer(tuning.folder / "tokenizer")
    texts = {tokenizer.decode(encode(tokenizer, "\n") + trained) for _, trained in documents(tuning)}
    assert texts == {"\n" + e.answer.strip() for e in EXAMPLES}
    for _, trained in documents(tuning):
        assert trained[-1] == tokenizer.eos_id
        assert tokenizer.bos_id not in trained
    for i in range(len(tuning)):
        padding = tuning[i]["segment_ids"] == 0
        assert not tuning[i]["loss_mask"][padding].any()


def test_padding_of_an_exported_tokenizer_is_neither_bos_nor_eos(tuning: PackedRows):
    raw = json.loads((tuning.folder / "tokenizer/tokenizer_config.json").read_text())
    assert raw["pad_token"] not in (raw["bos_token"], raw["eos_token"])


def test_truncation_that_cuts_the_answer(small_tokenizer: Path, tmp_path: Path):
    long = [example(f"e{i}", " ".join(sentences(20 + i, 30)), "What is it?", f"Answer number {i}.") for i in range(5)]
    rows = packed(tmp_path, small_tokenizer, long, 320)
    assert rows.manifest["truncated"] == 5
    tokenizer = JsonTokenizer(small_tokenizer)
    found = sorted(tokenizer.decode(ids) for ids, _ in documents(rows))
    tail = TRAINING_TEMPLATE.split("{note}")[1].replace("{instruction}", "What is it?")
    assert len(found) == 5
    assert all(any(text.endswith(f"{tail}Answer number {i}.") for text in found) for i in range(5))


# ---------------------------------------------------------------- training and inference


def ids_that_generate_sees(e: Example, tokenizer: JsonTokenizer, folder: Path) -> list[int]:
    (folder / "note.txt").write_text(e.note, encoding="utf-8")
    config = GenerateConfig(folder, note=folder / "note.txt", instruction=e.question)
    return [tokenizer.bos_id, *encode(tokenizer, read_prompt(config, TRAINING_TEMPLATE))]


def test_a_prompt_that_differs_between_training_and_inference(tuning: PackedRows, tmp_path: Path):
    """Packed ids, up to the answer, are those that `generate` makes of the same note and instruction."""
    tokenizer = JsonTokenizer(tuning.folder / "tokenizer")
    prompts = sorted(ids[: len(ids) - len(trained)] for ids, trained in documents(tuning))
    assert prompts == sorted(ids_that_generate_sees(e, tokenizer, tmp_path) for e in EXAMPLES)


def test_a_prompt_that_differs_between_training_and_the_exported_chat_template(tuning: PackedRows, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    ours = JsonTokenizer(tuning.folder / "tokenizer")
    meta = Meta(MODEL, ours.hash, tuning.manifest["prompt_template"], LENGTH, "instruct", {})
    saver = Saver(tmp_path / "run", CheckpointConfig())
    saver.save(1, {"params": init_params(MODEL, 0)}, meta)
    saver.finish(last=True)
    ours.save(tmp_path / "run/tokenizer")
    run_export(ExportConfig(tmp_path / "run", tmp_path / "hf"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    packed_prompts = [ids[: len(ids) - len(trained)] for ids, trained in documents(tuning)]
    for e in EXAMPLES:
        messages = [{"role": "system", "content": e.note}, {"role": "user", "content": e.question}]
        seen = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
        if e.id == "control":  # broken up by a space, or it would be read as a control token
            assert [seen.count(1), seen.count(2)] == [1, 0]
        else:
            assert seen in packed_prompts


# ---------------------------------------------------------------- generation


def test_a_task_choice_without_a_seed():
    """Tasks were drawn from the global generator: another order or another process, other tasks."""
    weights = TaskWeights().by_task()
    names = [f"note-{i}" for i in range(50)]
    tasks = {name: tasks_of_note(name, 1, weights, 0) for name in names}
    assert tasks == {name: tasks_of_note(name, 1, weights, 0) for name in reversed(names)}
    # By value: any change of the draw changes what an earlier corpus would be.
    assert [TASKS.index(tasks[name][0]) for name in names[:8]] == [6, 3, 3, 5, 2, 5, 6, 5]
    assert tasks != {name: tasks_of_note(name, 1, weights, 1) for name in names}


class Faltering:
    """A teacher whose answers to some notes fail or are cut short."""

    name = "openai"

    async def close(self):
        pass

    async def ask(self, request: Request) -> Reply:
        if request.kind == "question":
            return Reply("How long did the fever last?", "stop", "m")
        broken = {"n1": Reply("connection lost", "error", ""), "n2": Reply("The fever las", "length", "m")}
        return broken.get(request.record_id.split("-")[0], Reply("For three days.", "stop", "m"))


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """The examples of four notes, of which the second's request failed and the third's answer was cut."""
    work = WriteExamples(1, 0, TaskWeights().by_task(), 0, {}, frozenset(), GateConfig())
    notes: list[Note] = [note(f"n{i}", "HPI: fever for three days.") for i in range(4)]
    with writing_folder(tmp_path / "examples", "instructions", {}) as folder:
        results = [made for n in notes for made in asyncio.run(work(n, Faltering()))]
        folder.add_shard([made for made in results if isinstance(made, Example)], Example)
        folder.reject(made for made in results if isinstance(made, Reject))
    return tmp_path / "examples"


def test_a_failed_request_that_crashes_the_next_stage(answered: Path, small_tokenizer: Path, tmp_path: Path):
    pack.run(pack.PackConfig(answered, tmp_path / "packed", small_tokenizer, LENGTH, workers=1))
    rows = PackedRows(tmp_path / "packed", LENGTH)
    tokenizer = JsonTokenizer(small_tokenizer)
    assert ["For three days." in tokenizer.decode(ids) for ids, _ in documents(rows)] == [True, True]
    assert not any("connection lost" in tokenizer.decode(ids) for ids, _ in documents(rows))


def test_a_truncated_generation_that_is_kept(answered: Path):
    (shard,) = answered.glob("instructions-*.parquet")
    assert [e.note_id for e in read_parquet(shard, Example)] == ["n0", "n3"]
    rejects = {reject.id: reject.reason for reject in read_parquet(answered / "rejected.parquet", Reject)}
    assert rejects == {"n1-0": "error", "n2-0": "truncated"}
    for kind in ("note", "question", "answer"):
        whole = Reply("The fever lasted for three days and nights. " * 3, "stop", "m")
        assert reason_to_reject(kind, whole) is None
        assert reason_to_reject(kind, dataclasses.replace(whole, finish_reason="length"))[0] == "truncated"
