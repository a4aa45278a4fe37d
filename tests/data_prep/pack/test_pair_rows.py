"""Pairs to rows: two documents side by side with one prompt, their weights, and the tokens that carry loss."""

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
from data_prep.contract.records import PackedRow, Pair, Reject, read_parquet
from data_prep.contract.tokenizer import JsonTokenizer, encode_prompt
from data_prep.pack.pair_documents import differing
from data_prep.pack.run import PackConfig, run
from tests.helpers.made_inputs import pair, sentences, write_records
from tests.helpers.packed import documents, packed, read_rows

ROW = 512
QUESTION = "What was given?"


def made_pairs(count: int) -> list[Pair]:
    texts = sentences(count, 30)
    return [
        pair(f"p{k}", text, QUESTION, f"She was given {k} mg.", f"She was given {k}0 mg.")
        for k, text in enumerate(texts)
    ]


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def segments(folder: Path) -> list[tuple[list[int], list[bool], float, int]]:
    """Tokens, loss mask, weight and number of pair of each segment, row by row."""
    found = []
    for row in read_rows(folder):
        ends = list(itertools.accumulate(row.segment_lengths.tolist()))
        assert np.isnan(row.reference).all()
        for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            mask = row.loss_mask[start:end].tolist()
            found.append((row.tokens[start:end].tolist(), mask, float(row.weights[k]), int(row.pairs[k])))
    return found


def with_loss(tokenizer: JsonTokenizer, ids: list[int], mask: list[bool]) -> str:
    """The text of the tokens with loss; the end-of-text token is <eos>."""
    trained = [token for token, kept in zip(ids, mask, strict=True) if kept]
    end = "<eos>" if trained and trained[-1] == tokenizer.eos_id else ""
    return tokenizer.decode(trained).strip() + end


def test_a_pair_is_two_documents_with_one_prompt_side_by_side(tmp_path: Path, small_tokenizer: Path):
    pairs = made_pairs(9)
    folder = packed(tmp_path, pairs, small_tokenizer, row_length=1024, shared_tokens="loss")
    tokenizer = JsonTokenizer(small_tokenizer)
    found = segments(folder)
    assert len(found) == 2 * len(pairs)
    texts = {}
    for (chosen, mask, weight, number), (rejected, other_mask, other_weight, other) in zip(
        found[::2], found[1::2], strict=True
    ):
        assert (weight, other_weight) == (1.0, -1.0)
        assert number == other > 0
        prompt = mask.index(True)
        assert chosen[:prompt] == rejected[: other_mask.index(True)]
        assert chosen[-1] == rejected[-1] == tokenizer.eos_id
        assert mask == sorted(mask)
        texts[tokenizer.decode(chosen)] = tokenizer.decode(rejected)
    prompts = [render_prompt(TRAINING_TEMPLATE, each.note, each.question) for each in pairs]
    expected = {prompt + each.chosen: prompt + each.rejected for prompt, each in zip(prompts, pairs, strict=True)}
    assert texts == expected
    manifest = read_manifest(folder)
    assert (manifest["phase"], manifest["pairs"], manifest["documents"]) == ("preference", 9, 18)
    assert manifest["most_documents"] == max(len(row.segment_lengths) for row in read_rows(folder))
    assert manifest["loss_tokens"] == sum(sum(mask) for _, mask, _, _ in found)


def test_the_pairs_of_a_row_are_numbered_from_one(tmp_path: Path, small_tokenizer: Path):
    short = [pair(f"p{k}", "fever", QUESTION, "Yes.", "No.") for k in range(6)]
    folder = packed(tmp_path, short, small_tokenizer, row_length=2048)
    (row,) = read_rows(folder)
    assert row.pairs.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert row.weights.tolist() == [1, -1] * 6


def test_an_answer_without_a_partner_is_one_document(tmp_path: Path, small_tokenizer: Path):
    records = [
        dataclasses.replace(pair("good", "fever " * 99, QUESTION, "Aspirin.", ""), weight=0.5),  # first in its row
        dataclasses.replace(pair("bad", "cough", QUESTION, "", "Heparin."), weight=2.0),
        pair("both", "asthma", QUESTION, "Aspirin.", "Heparin."),
    ]
    folder = packed(tmp_path, records, small_tokenizer, row_length=2048)
    tokenizer = JsonTokenizer(small_tokenizer)
    found = {(weight, number): with_loss(tokenizer, ids, mask) for ids, mask, weight, number in segments(folder)}
    assert set(found) == {(0.5, 0), (-2.0, 0), (1.0, 1), (-1.0, 1)}
    assert (found[0.5, 0], found[-2.0, 0]) == ("Aspirin.<eos>", "Heparin.<eos>")
    (row,) = read_rows(folder)
    assert row.pairs.tolist() == [0, 0, 1, 1]
    assert read_manifest(folder)["pairs"] == 1


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize(
    ("chosen", "rejected", "right", "wrong"),
    [
        ("aspirin 5 mg daily.", "aspirin 7 mg daily.", "5", "7"),
        ("There was no fever.", "There was fever.", "no", "fever"),  # where words are left out, the word that follows
        ("No fever", "No fever then", "<eos>", "then"),
        ("Yes.", "No.", "Yes", "No"),
    ],
)
def test_only_the_tokens_that_differ_carry_loss(
    tmp_path: Path, mistral_tokenizer: Path, chosen: str, rejected: str, right: str, wrong: str
):
    folder = packed(tmp_path, [pair("p", "fever", QUESTION, chosen, rejected)], mistral_tokenizer, row_length=ROW)
    tokenizer = JsonTokenizer(folder / "tokenizer")
    assert [with_loss(tokenizer, ids, mask) for ids, mask, _, _ in segments(folder)] == [right, wrong]


def test_masks_of_the_tokens_that_differ():
    for one, other, expected in (
        ([1, 2, 3, 9], [1, 5, 3, 9], ([1], [1])),
        ([1, 2, 2, 9], [1, 2, 9], ([2], [2])),
        ([1, 9], [1, 2, 3, 9], ([1], [1, 2])),
        ([1, 2, 9], [9], ([0, 1], [0])),
    ):
        masks = differing(one, other)
        assert tuple([place for place, kept in enumerate(mask) if kept] for mask in masks) == expected
        assert tuple([place for place, kept in enumerate(mask) if kept] for mask in differing(other, one)) == tuple(
            reversed(expected)
        )


# ---------------------------------------------------------------- length


def test_a_long_pair_loses_the_end_of_its_note_in_both(tmp_path: Path, small_tokenizer: Path):
    long = pair("long", " ".join(f"finding {k}," for k in range(400)), QUESTION, "Aspirin.", "Heparin, for a week.")
    folder = packed(tmp_path, [long], small_tokenizer, row_length=ROW)
    tokenizer = JsonTokenizer(small_tokenizer)
    (chosen, mask, *_), (rejected, other_mask, *_) = segments(folder)
    texts = [tokenizer.decode(ids) for ids in (chosen, rejected)]
    assert [text.rpartition("### Answer\n")[2] for text in texts] == [long.chosen, long.rejected]
    prompts = {text.rpartition("### Answer\n")[0] for text in texts}
    assert len(prompts) == 1
    kept = prompts.pop().partition("### Note\n")[2].partition("\n\n### Instruction")[0]
    assert long.note.startswith(kept)
    assert long.note[len(kept)] == " "  # whole words, of which no further one would have fitted
    more = long.note[: long.note.index(" ", len(kept) + 1)]
    now, then = (
        len(encode_prompt(tokenizer, render_prompt(TRAINING_TEMPLATE, note, QUESTION))) for note in (kept, more)
    )
    assert len(chosen) + len(rejected) <= ROW < len(chosen) + len(rejected) + 2 * (then - now)
    assert read_manifest(folder)["truncated"] == 1
    assert any(mask)
    assert any(other_mask)


def test_pairs_that_cannot_be_packed_are_rejected(tmp_path: Path, small_tokenizer: Path):
    records = [
        pair("unfit", "fever", QUESTION, "very " * 100, "very " * 101),
        pair("same", "fever", QUESTION, "Aspirin.", " Aspirin.\n"),
        pair("none", "fever", QUESTION, "", ""),
        pair("good", "fever", QUESTION, "Aspirin.", "Heparin."),
    ]
    folder = packed(tmp_path, records, small_tokenizer, row_length=ROW)
    rejects = {reject.id: reject.reason for reject in read_parquet(folder / "rejected.parquet", Reject)}
    assert rejects == {"unfit": "longer_than_row", "same": "no_difference", "none": "no_difference"}
    assert read_manifest(folder)["rejected"] == {"longer_than_row": 1, "no_difference": 2}
    assert len(documents(folder)) == 2


# ---------------------------------------------------------------- the folder


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, small_tokenizer: Path):
    source = write_records(tmp_path / "source", made_pairs(40), per_file=17)
    for workers in (1, 2):
        run(PackConfig(source, tmp_path / f"{workers}", small_tokenizer, ROW, shards=4, workers=workers))
    for file in sorted(path.name for path in (tmp_path / "1").iterdir() if path.is_file()):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file


def test_settings_of_plain_text_are_refused(tmp_path: Path, small_tokenizer: Path):
    from data_prep.pack.plain_text import TextConfig

    source = write_records(tmp_path / "source", made_pairs(2))
    with pytest.raises(UserError, match=r"--licence MIT is for plain text, and .* contains pairs"):
        run(PackConfig(source, tmp_path / "packed", small_tokenizer, ROW, text=TextConfig(licence="MIT")))


# ---------------------------------------------------------------- bytes

PLAIN = PackedRow(np.array([1, 500, 65_535, 2, 7]), np.array([3, 2]), np.array([0, 1, 1, 0, 1], bool))


def test_the_bytes_of_ordinary_rows_are_locked():
    digests = [hashlib.sha256(PLAIN.to_bytes(dtype)).hexdigest()[:16] for dtype in ("uint16", "uint32")]
    assert PLAIN.to_bytes("uint16").hex() == "0200000003000000020000000100f401ffff0200070068"
    assert digests == ["93b5bc12415470de", "189c1b1a6730795d"]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_row_with_weights_reads_back_what_was_written(dtype: str):
    row = dataclasses.replace(
        PLAIN,
        weights=np.array([0.5, -0.5], np.float32),
        pairs=np.array([70_000, 70_000]),
        reference=np.array([np.nan, -3.25], np.float32),
    )
    data = row.to_bytes(dtype)
    back = PackedRow.from_bytes(data, dtype, weighted=True)
    assert back.tokens.tolist() == PLAIN.tokens.tolist()
    assert back.loss_mask.tolist() == PLAIN.loss_mask.tolist()
    assert back.weights.tolist() == [0.5, -0.5]
    assert back.pairs.tolist() == [70_000, 70_000]
    assert np.isnan(back.reference[0])
    assert back.reference[1] == -3.25
    assert data.startswith(PLAIN.to_bytes(dtype))
    for wrong, weighted in ((data, False), (PLAIN.to_bytes(dtype), True), (data[:-1], True), (data + b"x", True)):
        with pytest.raises(ValueError, match="bytes are not a row"):
            PackedRow.from_bytes(wrong, dtype, weighted)
    ordinary = PackedRow.from_bytes(PLAIN.to_bytes(dtype), dtype)
    assert (ordinary.weights, ordinary.pairs, ordinary.reference) == (None, None, None)
