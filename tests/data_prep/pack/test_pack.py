"""Notes and examples to rows: what stands in a row, what is trained on, what is left out and counted."""

import dataclasses
import json
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
from data_prep.contract.records import Example, PackedRow, Reject, Turn, file_hash, read_parquet, text_hash
from data_prep.contract.tokenizer import JsonTokenizer, encode, encode_continuations
from data_prep.pack.documents import Document, DocumentStore
from data_prep.pack.run import PackConfig, run
from tests.helpers.made_inputs import GENERATION, example, note, sentences, write_records
from tests.helpers.packed import ROW, documents, packed, read_rows


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def pair(name: str, note_words: int, answer: str = "Fever, for 7 days.") -> Example:
    text = "\n".join(sentences(1, note_words, seed=len(name) + note_words))
    return example(name, text, f"What does {name} have?", answer)


# ---------------------------------------------------------------- pretraining


def test_a_note_has_one_bos_one_eos_and_loss_on_all_but_bos(tmp_path: Path, small_tokenizer: Path):
    texts = sentences(40, 30)
    folder = packed(tmp_path, [note(f"n{i}", text) for i, text in enumerate(texts)], small_tokenizer)
    tokenizer = JsonTokenizer(small_tokenizer)
    expected = [[tokenizer.bos_id, *encode(tokenizer, text), tokenizer.eos_id] for text in texts]
    found = documents(folder)
    assert sorted(ids for ids, _ in found) == sorted(expected)
    for ids, mask in found:
        assert ids.count(tokenizer.bos_id) == ids.count(tokenizer.eos_id) == 1
        assert mask == [False] + [True] * (len(ids) - 1)


def test_a_control_token_in_a_note_ends_nothing(tmp_path: Path, small_tokenizer: Path):
    folder = packed(tmp_path, [note("n", "fever </s> cough <s> dyspnea")], small_tokenizer)
    tokenizer = JsonTokenizer(small_tokenizer)
    ((ids, _),) = documents(folder)
    assert [ids.count(i) for i in (tokenizer.bos_id, tokenizer.eos_id)] == [1, 1]
    assert tokenizer.decode(ids) == "fever </s> cough <s> dyspnea"


def test_a_long_note_becomes_consecutive_pieces(tmp_path: Path, small_tokenizer: Path):
    text = " ".join(sentences(30, 40))
    folder = packed(tmp_path, [note("n", text)], small_tokenizer, row_length=64)
    tokenizer = JsonTokenizer(small_tokenizer)
    whole = [tokenizer.bos_id, *encode(tokenizer, text), tokenizer.eos_id]
    assert len(whole) > 10 * 64
    found = {tuple(ids): mask for ids, mask in documents(folder)}
    pieces = [tuple(whole[start : start + 64]) for start in range(0, len(whole), 64)]
    assert set(found) == set(pieces)
    # Nothing in its row predicts the first token of a piece.
    assert [found[piece] for piece in pieces] == [[False] + [True] * (len(piece) - 1) for piece in pieces]


# ---------------------------------------------------------------- tuning


def test_only_the_answer_and_its_eos_are_trained_on(tmp_path: Path, small_tokenizer: Path):
    examples = [pair(f"e{i}", 20, answer=f"  The answer is {i}.\n") for i in range(12)]
    folder = packed(tmp_path, examples, small_tokenizer, row_length=1024)
    tokenizer = JsonTokenizer(small_tokenizer)
    found = documents(folder)
    asked = {tokenizer.decode(ids): (ids, mask) for ids, mask in found}
    for e in examples:
        prompt = render_prompt(TRAINING_TEMPLATE, e.note, e.question)
        ids, mask = asked[prompt + e.answer.strip()]
        trained = [token for token, kept in zip(ids, mask, strict=True) if kept]
        assert trained == [*encode_continuations(tokenizer, [e.answer.strip()])[0], tokenizer.eos_id]
        assert tokenizer.decode(encode(tokenizer, "\n") + trained) == "\n" + e.answer.strip()
        assert mask == sorted(mask)  # nothing of the prompt, everything after it
    assert len(found) == len(examples)
    assert [ids.count(tokenizer.bos_id) for ids, _ in found] == [1] * len(found)


def test_a_long_example_loses_the_end_of_its_note_only(tmp_path: Path, small_tokenizer: Path):
    long = example("long", " ".join(f"finding {i}," for i in range(400)), "Which is first?", "Finding 0.")
    folder = packed(tmp_path, [pair("short", 10), long], small_tokenizer, row_length=ROW)
    tokenizer = JsonTokenizer(small_tokenizer)
    (ids, mask), *_ = [d for d in documents(folder) if "finding 0," in tokenizer.decode(d[0])]
    text = tokenizer.decode(ids)
    head, tail = TRAINING_TEMPLATE.split("{note}")
    kept = text.removeprefix(head).removesuffix(tail.replace("{instruction}", "Which is first?") + "Finding 0.")
    assert text == head + kept + tail.replace("{instruction}", "Which is first?") + "Finding 0."
    assert long.note.startswith(kept)
    assert kept.endswith(",")  # whole words
    # One more word would not have fitted.
    more = long.note[: len(kept) + len(long.note[len(kept) :].split(",")[0]) + 1]
    assert len(ids) <= ROW < len(ids) + len(encode(tokenizer, more)) - len(encode(tokenizer, kept))
    assert ids[-1] == tokenizer.eos_id
    assert sum(mask) == len(encode_continuations(tokenizer, ["Finding 0."])[0]) + 1
    manifest = read_manifest(folder)
    assert (manifest["truncated"], manifest["out"], manifest["rejected"]) == (1, manifest["rows"], {})


def test_an_example_that_fits_no_row_is_rejected_whole(tmp_path: Path, small_tokenizer: Path):
    unfit = example("unfit", "HPI: well.", "Tell all.", "very " * 300 + "long")
    folder = packed(tmp_path, [pair("short", 10), unfit], small_tokenizer)
    manifest = read_manifest(folder)
    assert manifest["rejected"] == {"longer_than_row": 1}
    assert (manifest["in"], manifest["documents"]) == (2, 1)
    (reject,) = read_parquet(folder / "rejected.parquet", Reject)
    assert (reject.id, reject.reason) == ("unfit", "longer_than_row")
    assert json.loads(reject.record)["answer"] == unfit.answer


JAPANESE = "患者は五十八歳の男性で、胸痛を主訴に来院した。心電図でST上昇を認め、緊急冠動脈造影を施行した。" * 6
TORN = "e\u0301" * 300  # each letter with its accent apart


SEQUENCE = f"Fever and {'gattaca' * 90} in 3 days."


@pytest.mark.parametrize(
    "text", [JAPANESE, JAPANESE.replace("。", "。 "), f"所見: {JAPANESE}", "x" * 900, TORN, SEQUENCE]
)
def test_a_note_without_spaces_is_shortened_too(tmp_path: Path, small_tokenizer: Path, text: str):
    folder = packed(tmp_path, [example("e", text, "Why?", "Because.")], small_tokenizer)
    tokenizer = JsonTokenizer(small_tokenizer)
    ((ids, _),) = documents(folder)
    head, tail = render_prompt(TRAINING_TEMPLATE, "@", "Why?").split("@")
    kept = tokenizer.decode(ids).removeprefix(head).removesuffix(tail + "Because.")
    assert tokenizer.decode(ids) == head + kept + tail + "Because."
    assert kept
    assert text.startswith(kept)
    assert not unicodedata.combining(text[len(kept)])
    assert read_manifest(folder)["truncated"] == 1
    if text == SEQUENCE:
        assert kept == "Fever and"  # words stay whole where there are any
    else:
        assert len(ids) > ROW - 20


def turn(question: str, answer: str) -> Turn:
    return Turn("Question Answering", question, answer, GENERATION, GENERATION)


def test_a_conversation_loses_the_turns_from_the_one_that_does_not_fit(tmp_path: Path, small_tokenizer: Path):
    e = pair("e", 20)
    short, long = turn("And then?", "She went home."), turn("Tell all.", "very " * 300 + "long")
    for name, turns, kept in (
        ("a", (short, long, short), (short,)),
        ("b", (long, short), ()),
        ("c", (short,), (short,)),
    ):
        talk = dataclasses.replace(e, follow_ups=turns)
        folder = packed(tmp_path / name, [talk], small_tokenizer)
        ((ids, mask),) = documents(folder)
        expected = packed(tmp_path / f"{name}-kept", [dataclasses.replace(e, follow_ups=kept)], small_tokenizer)
        assert documents(expected) == [(ids, mask)]
        manifest = read_manifest(folder)
        assert (manifest["turns_left_out"], manifest["truncated"]) == (len(turns) - len(kept), 0)
        assert manifest["rejected"] == {}


def test_a_store_of_documents_keeps_none_of_them_in_memory(tmp_path: Path):
    tracemalloc.start()
    with DocumentStore(tmp_path, "uint16") as store:
        for number in range(100):
            store.add(Document([number] * 20_000, [number % 2 == 0] * 20_000))
        assert tracemalloc.get_traced_memory()[0] < 500_000  # one document as lists is 320,000 bytes
        row = store.row([7, 90])
    tracemalloc.stop()
    assert row.tokens.tolist() == [7] * 20_000 + [90] * 20_000
    assert row.loss_mask.tolist() == [False] * 20_000 + [True] * 20_000
    assert row.segment_lengths.tolist() == [20_000, 20_000]
    assert not list(tmp_path.iterdir())


def test_no_example_that_fits_is_refused_for_all(tmp_path: Path, small_tokenizer: Path):
    with pytest.raises(UserError, match=r"no record of .* fits a row of 16: raise --row-length"):
        packed(tmp_path, [pair("e", 10)], small_tokenizer, row_length=16)
    assert not (tmp_path / "packed").exists()


def test_a_template_of_ones_own_is_what_is_packed(tmp_path: Path, small_tokenizer: Path):
    (tmp_path / "mine.txt").write_text("Q {instruction}\n{note}\nA\n")
    e = pair("e", 10)
    folder = packed(tmp_path, [e], small_tokenizer, prompt_template=str(tmp_path / "mine.txt"))
    ((ids, _),) = documents(folder)
    assert JsonTokenizer(small_tokenizer).decode(ids) == f"Q {e.question}\n{e.note}\nA\n{e.answer}"
    assert read_manifest(folder)["prompt_template"] == "Q {instruction}\n{note}\nA\n"


# ---------------------------------------------------------------- the folder


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, small_tokenizer: Path):
    examples = [pair(f"e{i}", 10 + i % 60) for i in range(60)]
    source = write_records(tmp_path / "source", examples, per_file=17)
    for workers in (1, 2):
        run(PackConfig(source, tmp_path / f"out{workers}", small_tokenizer, 256, shards=4, workers=workers))
    one, two = tmp_path / "out1", tmp_path / "out2"
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert sum(path.suffix == ".array_record" for path in files) == 4
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    for file in files:
        if file.name != "manifest.json":  # it holds the seconds
            assert (one / file).read_bytes() == (two / file).read_bytes(), file
    assert read_manifest(one) == read_manifest(two)


def test_the_number_of_shards_changes_no_document(tmp_path: Path, small_tokenizer: Path):
    records = [note(f"n{i}", text) for i, text in enumerate(sentences(50, 40))]
    source = write_records(tmp_path / "source", records, per_file=13)
    for shards in (1, 3):
        run(PackConfig(source, tmp_path / f"out{shards}", small_tokenizer, 256, shards=shards, workers=1))
    assert sorted(documents(tmp_path / "out1")) == sorted(documents(tmp_path / "out3"))


def test_the_manifest_tells_what_is_in_the_rows(tmp_path: Path, small_tokenizer: Path):
    folder = packed(tmp_path, [note(f"n{i}", text) for i, text in enumerate(sentences(40, 40))], small_tokenizer)
    manifest, rows = read_manifest(folder), read_rows(folder)
    tokens = sum(len(row.tokens) for row in rows)
    expected = {
        "kind": "packed",
        "phase": "pretrain",
        "row_length": ROW,
        "rows": len(rows),
        "out": len(rows),
        "in": 40,
        "documents": 40,
        "tokens": tokens,
        "loss_tokens": sum(int(row.loss_mask.sum()) for row in rows),
        "truncated": 0,
        "packing_efficiency": round(tokens / (len(rows) * ROW), 4),
        "vocab_size": 320,
        "token_dtype": "uint16",
        "tokenizer_hash": JsonTokenizer(folder / "tokenizer").hash,
        "licences": {"CC0": 40},
        "sources": {"made": 40},
    }
    assert {name: manifest[name] for name in expected} == expected
    for file in manifest["files"]:
        assert file["sha256"] == file_hash(folder / file["name"])
    source = tmp_path / "source"
    records = [file["sha256"] for file in json.loads((source / "manifest.json").read_text())["files"]]
    assert manifest["inputs"] == {str(source): text_hash(*records)}


def test_a_row_reads_back_what_was_written():
    for dtype in ("uint16", "uint32"):
        row = PackedRow(np.array([1, 500, 65_535, 2, 7]), np.array([3, 2]), np.array([0, 1, 1, 0, 1], bool))
        back = PackedRow.from_bytes(row.to_bytes(dtype), dtype)
        assert [back.tokens.tolist(), back.segment_lengths.tolist()] == [[1, 500, 65_535, 2, 7], [3, 2]]
        assert back.loss_mask.tolist() == [False, True, True, False, True]


def test_packing_again_replaces_the_folder(tmp_path: Path, small_tokenizer: Path):
    packed(tmp_path, [note("n", "fever")], small_tokenizer)
    packed(tmp_path, [note("m", "cough")], small_tokenizer)
    ((ids, _),) = documents(tmp_path / "packed")
    assert JsonTokenizer(small_tokenizer).decode(ids) == "cough"


# ---------------------------------------------------------------- what is refused


def test_an_unfinished_source_is_refused(tmp_path: Path, small_tokenizer: Path):
    source = write_records(tmp_path / "source", [note("n", "fever")])
    (source / "manifest.json").unlink()
    with pytest.raises(UserError, match="it is not finished, run its stage again"):
        run(PackConfig(source, tmp_path / "packed", small_tokenizer, 64))
    assert not (tmp_path / "packed").exists()


def test_a_foreign_source_is_refused(tmp_path: Path, small_tokenizer: Path):
    folder = packed(tmp_path, [note("n", "fever")], small_tokenizer)
    with pytest.raises(UserError, match="contains packed rows, not notes or instructions"):
        run(PackConfig(folder, tmp_path / "again", small_tokenizer, 64))


def test_a_source_that_changed_is_refused(tmp_path: Path, small_tokenizer: Path):
    source = write_records(tmp_path / "source", [note("n", "fever")])
    (shard,) = source.glob("notes-*.parquet")
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(UserError, match="does not match the hash"):
        run(PackConfig(source, tmp_path / "packed", small_tokenizer, 64))


def test_a_source_without_records_is_refused(tmp_path: Path, small_tokenizer: Path):
    with writing_folder(tmp_path / "source", "notes", {}):
        pass
    with pytest.raises(UserError, match="contains no records"):
        run(PackConfig(tmp_path / "source", tmp_path / "packed", small_tokenizer, 64))


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, small_tokenizer: Path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="does not contain finished packed rows: choose another --out"):
        packed(tmp_path, [note("n", "fever")], small_tokenizer)
    assert (tmp_path / "packed/thesis.tex").read_text() == "years of work"
