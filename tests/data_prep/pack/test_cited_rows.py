"""Rows of answers that cite: the prompt of the chat template, and no example whose cited sentences were cut off."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.prompt.training_prompt import (
    CITED_TEMPLATE,
    TRAINING_TEMPLATE,
    chat_template,
    load_template,
    render_prompt,
)
from data_prep.contract.records import Example, Generation, Pair, Reject, Turn, read_parquet
from data_prep.contract.tokenizer import JsonTokenizer, SentencePieceTokenizer, encode_prompt
from data_prep.pack.documents import lost_citations
from tests.helpers.packed import documents, packed

MADE = Generation("offline", "rules-1", "h", 0, "stop")
NOTE = "COURSE:\nFever. Seen by Dr. Adams at 3.5 mg. A </s> was read.\n- aspirin 100 mg\n" + "She slept well. " * 40
EXAMPLE = Example(
    "e", "n", "r", "Question Answering", NOTE, "Which drug?", "Aspirin 100 mg [4].", "s", "CC0", "", MADE, MADE,
    cites=True,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["tokenizer.json", "SentencePiece"])
def test_packed_ids_are_those_of_the_chat_template(tmp_path: Path, small_tokenizer, mistral_tokenizer, kind: str):
    """The numbered prompt, the answer and a further turn, as transformers renders and encodes the plain note."""
    transformers = pytest.importorskip("transformers")
    source = mistral_tokenizer if kind == "SentencePiece" else small_tokenizer
    written = SentencePieceTokenizer(source) if kind == "SentencePiece" else JsonTokenizer(source)
    turn = Turn("Question Answering", "And who saw her?", "Dr. Adams [2].", MADE, MADE)
    example = replace(EXAMPLE, note=NOTE.replace("</s>", "<x>"), follow_ups=(turn,))
    folder = packed(tmp_path, [example], source, row_length=4096)
    assert read_manifest(folder, "packed")["prompt_template"] == CITED_TEMPLATE
    ((ids, mask),) = documents(folder)
    written.save(tmp_path / "hf")
    ours = JsonTokenizer(tmp_path / "hf")
    prompt = encode_prompt(ours, render_prompt(CITED_TEMPLATE, example.note, example.question))
    assert ids[: len(prompt)] == prompt
    assert not any(mask[: len(prompt)])
    bos, eos = ours.token(ours.bos_id), ours.token(ours.eos_id)
    template = chat_template(CITED_TEMPLATE, bos, eos, ours.special_tokens())
    (tmp_path / "hf/chat_template.jinja").write_text(template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = [example.note, example.question, example.answer, turn.question, turn.answer]
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    assert theirs.apply_chat_template(messages, return_dict=True)["input_ids"] == ids
    assert theirs.apply_chat_template(messages[:2], return_dict=True)["input_ids"] == prompt
    assert "[4] - aspirin 100 mg" in theirs.apply_chat_template(messages[:2], tokenize=False)


def test_an_example_whose_cited_sentence_was_cut_is_rejected(tmp_path: Path, small_tokenizer: Path):
    late = replace(EXAMPLE, id="late", answer="She slept well [44].", question="How did she sleep?")
    folder = packed(tmp_path, [EXAMPLE, late], small_tokenizer, row_length=640)
    manifest = read_manifest(folder, "packed")
    assert (manifest["rejected"], manifest["truncated"]) == ({"citation_cut": 1}, 1)
    (reject,) = read_parquet(folder / "rejected.parquet", Reject)
    assert (reject.id, reject.detail) == ("late", "the row has no room for the cited sentence 44")
    whole = packed(tmp_path / "whole", [EXAMPLE, late], small_tokenizer, row_length=2048)
    assert not read_manifest(whole, "packed")["rejected"]


def test_a_sentence_is_lost_unless_it_is_whole():
    note = "One. Two three."
    assert lost_citations(note, len(note), ("A [1, 2].",)) == 0
    assert lost_citations(note, len(note) - 1, ("A [1].", "B [2].")) == 2
    assert lost_citations(note, len(note) - 1, ("A [1].", "This is not stated.")) == 0
    assert lost_citations(note, 2, ("A [1, 2].",)) == 1


def test_both_answers_of_a_pair_keep_their_sentences(tmp_path: Path, small_tokenizer: Path):
    def pair(name: str, number: int) -> Pair:
        answers = f"She slept well [{number}].", f"She slept badly [{number}]."
        about = "Question Answering", NOTE, "How did she sleep?", *answers, "", "", True
        return Pair(name, "n", "r", *about, "s", "CC0", "", MADE, MADE, cites=True)

    folder = packed(tmp_path, [pair("early", 5), pair("late", 44)], small_tokenizer, row_length=1280)
    assert read_manifest(folder, "packed")["rejected"] == {"citation_cut": 1}
    assert read_manifest(folder, "packed")["prompt_template"] == CITED_TEMPLATE


@pytest.mark.parametrize(
    ("cites", "template", "error"),
    [
        (True, TRAINING_TEMPLATE, r"the answers of .* cite the numbers .* must contain \{numbered_note\}"),
        (False, CITED_TEMPLATE, r"the answers of .* do not cite the numbers .* must contain \{note\}"),
    ],
)
def test_answers_and_template_must_agree(tmp_path: Path, small_tokenizer: Path, cites: bool, template: str, error: str):
    (tmp_path / "prompt.txt").write_text(template)
    with pytest.raises(UserError, match=error):
        packed(tmp_path, [replace(EXAMPLE, cites=cites)], small_tokenizer, prompt_template=str(tmp_path / "prompt.txt"))


def test_a_folder_of_both_kinds_is_refused(tmp_path: Path, small_tokenizer: Path):
    with pytest.raises(UserError, match=r"example other does not cite .* pack them in two folders"):
        packed(tmp_path, [EXAMPLE, replace(EXAMPLE, id="other", cites=False)], small_tokenizer, row_length=2048)


def test_a_template_has_one_field_for_the_note(tmp_path: Path):
    file = tmp_path / "prompt.txt"
    file.write_text("{note} {numbered_note} {instruction}\n")
    with pytest.raises(UserError, match="only one of them"):
        load_template(str(file))
    file.write_text("{numbered_note} {numbered_note} {instruction}\n")
    with pytest.raises(UserError, match=r"\{numbered_note\} 2 times"):
        load_template(str(file))
    assert load_template(None) == TRAINING_TEMPLATE
    assert load_template(None, cites=True) == CITED_TEMPLATE
