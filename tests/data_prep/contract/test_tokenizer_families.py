"""The tokenizers of other model families give the ids, ends, names and conversations that transformers gives."""

import dataclasses
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, chat_template
from data_prep.contract.records import Turn
from data_prep.contract.tokenizer import (
    JsonTokenizer,
    check_vocabulary,
    encode,
    encode_after_end,
    encode_prompt,
    load_tokenizer,
)
from data_prep.pack.documents import example_documents, text_documents
from tests.helpers.huggingface.family_tokenizers import FAMILIES, make_family, real_tokenizers, texts
from tests.helpers.made_inputs import GENERATION, example, note

transformers = pytest.importorskip("transformers")

COUNT = 2000  # texts for each tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("families")
    return {name: make_family(name, base / name.replace(" ", "_")) for name in FAMILIES}


@pytest.fixture(params=list(FAMILIES))
def folder(request, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def opened(folder: Path, split: bool = True) -> Any:
    """The tokenizer of a folder in transformers; `split` reads control tokens in a text as text."""
    return transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=split)


def saved(folder: Path, out: Path) -> tuple[Path, Path]:
    """The folder after an import, and as packed rows carry it."""
    for name in ("imported", "trained"):
        load_tokenizer(folder).save(out / name, trained=name == "trained")
    return out / "imported", out / "trained"


def control_ids(tokenizer: JsonTokenizer) -> set[int]:
    """Ids of control tokens. The one for what is unknown stands in a text for characters without a piece."""
    unknown = tokenizer.files.named.get("unk_token", "")
    tokens = set(tokenizer.special_tokens()) - (
        {unknown} if unknown not in map(tokenizer.token, tokenizer.ends) else set()
    )
    return {tokenizer.fast.token_to_id(token) for token in tokens}


# ---------------------------------------------------------------- comparison


def ids_problem(folder: Path, out: Path) -> str:
    """The first difference between this project and transformers on one tokenizer, or ""."""
    ours, sample = JsonTokenizer(folder), texts(COUNT)
    imported, trained = saved(folder, out)
    expected, original = ours.encode_batch(sample), opened(folder)(sample, add_special_tokens=False)["input_ids"]
    whole = [encode_prompt(ours, text) for text in sample[:50]]
    undeclared = ours.json.undeclared
    forbidden = control_ids(ours)
    for place, spared in ((folder, undeclared), (imported, undeclared), (trained, ())):
        theirs = opened(place)(sample, add_special_tokens=False)["input_ids"]
        for text, mine, other in zip(sample, expected, theirs, strict=True):
            if mine != other and not any(token in text for token in spared):
                return f"{place.name} reads {text!r:.90} as {other}, not {mine}"
        if opened(place)(sample[:50])["input_ids"] != whole:
            return f"{place.name} begins a text otherwise"
    if opened(imported)(sample, add_special_tokens=False)["input_ids"] != original:
        return "an import changes ids"
    if wrong := next((text for text, ids in zip(sample, expected, strict=True) if forbidden & set(ids)), None):
        return f"{wrong!r:.90} has a control token"
    return decoding_problem(folder, imported, sample)


def decoding_problem(folder: Path, imported: Path, sample: list[str]) -> str:
    """Ids lead back to the text, and a text that transformers reads with its control tokens to the same text."""
    ours, theirs, again = JsonTokenizer(folder), opened(folder, split=False), opened(imported, split=False)
    nfc = type(ours.fast.normalizer).__name__ == "NFC"
    for text in sample:
        back = ours.decode(encode_prompt(ours, text))
        if "▁" not in text and back != (unicodedata.normalize("NFC", text) if nfc else text):
            return f"{text!r:.90} comes back as {back!r:.90}"
        ids = theirs(text)["input_ids"]
        read = [each.decode(ids, skip_special_tokens=True) for each in (theirs, again)]
        if not ours.decode(ids) == read[0] == read[1]:
            return f"{ids} are {ours.decode(ids)!r:.90} here, {read[0]!r:.90} there and {read[1]!r:.90} afterwards"
    return ""


def conversation_problem(folder: Path, out: Path, count: int = COUNT) -> str:
    """The first conversation whose packed row differs from its rendered chat template, or ""."""
    ours, sample = JsonTokenizer(folder), [text for text in texts(count, seed=1) if text.strip()]
    theirs, forbidden = opened(saved(folder, out)[1], split=False), control_ids(ours)
    theirs.chat_template = chat_template(
        TRAINING_TEMPLATE, ours.token(ours.bos_id), ours.token(ours.eos_id), ours.special_tokens()
    )
    draws = [[sample[(step * i + step) % len(sample)] for step in (1, 3, 5, 7, 11)] for i in range(len(sample))]
    examples = [
        dataclasses.replace(
            example(str(i), text, question, answer), follow_ups=(Turn("QA", *more, GENERATION, GENERATION),)
        )
        for i, (text, question, answer, *more) in enumerate(draws)
    ]
    roles = ("system", "user", "assistant", "user", "assistant")
    for contents, packed in zip(draws, example_documents(examples, ours, 10**6, TRAINING_TEMPLATE), strict=True):
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        ids = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
        spelled = any(token in content for content in contents for token in ours.special_tokens())
        assert packed.document is not None
        # The template breaks the letters of a control token up, so that other ids than the packed ones remain text.
        rows = [[i for i in row if i in forbidden] if spelled else row for row in (packed.document.tokens, ids)]
        if rows[0] != rows[1]:
            return f"{contents}: {rows}"
    return ""


def test_every_text_has_the_ids_of_transformers(folder: Path, tmp_path: Path):
    assert not ids_problem(folder, tmp_path)


# A template that looks for a thousand control tokens takes 50 ms a conversation.
@pytest.mark.parametrize("count", [150, pytest.param(COUNT, marks=pytest.mark.slow)])
def test_a_packed_conversation_is_the_rendered_chat(folder: Path, tmp_path: Path, count: int):
    assert not conversation_problem(folder, tmp_path, count)


@pytest.mark.slow
@pytest.mark.parametrize("real", real_tokenizers())
def test_a_real_tokenizer_gives_what_transformers_gives(real: Path, tmp_path: Path):
    assert not ids_problem(real, tmp_path)
    assert not conversation_problem(real, tmp_path)


# ---------------------------------------------------------------- names, ends and templates


def test_an_import_keeps_names_ends_and_the_chat_template(folder: Path, tmp_path: Path):
    imported, trained = saved(folder, tmp_path)
    theirs, again, ours = opened(folder), opened(imported), JsonTokenizer(folder)
    assert again.chat_template == theirs.chat_template
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(again, name) == getattr(theirs, name)
        assert getattr(opened(trained), name) == getattr(theirs, name)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ours.ends == JsonTokenizer(imported).ends == tuple(ends if isinstance(ends, list) else [ends])
    assert set(JsonTokenizer(trained).ends) == {ours.eos_id, *ours.ends}
    assert JsonTokenizer(trained).files.chat_template == ""
    if not (folder / "config.json").is_file():  # by which transformers would choose a class of its own
        assert len(again) == len(theirs) == ours.vocab_size


@pytest.mark.parametrize("name", ["Qwen", "OLMo"])
def test_a_document_of_a_tokenizer_without_bos_begins_with_its_text(folders: dict[str, Path], name: str):
    tokenizer = JsonTokenizer(folders[name])
    assert tokenizer.bos_id is None
    (document,) = text_documents([note("a", "Fever.")], tokenizer, 64)
    assert document.tokens == [*encode(tokenizer, "Fever."), tokenizer.eos_id]


def test_tags_of_a_conversation_stay_in_an_answer(folders: dict[str, Path], tmp_path: Path):
    """They are not special in Qwen's files, so that transformers and servers can find them in an answer."""
    imported, trained = saved(folders["Qwen"], tmp_path)
    answer = "<think>\nx\n</think>\n<tool_call>"
    ids = opened(folders["Qwen"], split=False)(answer)["input_ids"]
    for place in (folders["Qwen"], imported):
        assert JsonTokenizer(place).decode(ids) == opened(place).decode(ids, skip_special_tokens=True) == answer
    # In a note they are text; packed rows and the tokenizer that they carry agree on it.
    assert (
        not set(ids) & {JsonTokenizer(trained).fast.token_to_id("<think>")} & set(opened(trained)(answer)["input_ids"])
    )


def test_tags_of_a_web_page_are_the_tokens_that_gemma_has(folders: dict[str, Path]):
    tokenizer = JsonTokenizer(folders["Gemma"])
    assert tokenizer.fast.token_to_id("<table>") in encode(tokenizer, "x<table>y")
    assert tokenizer.fast.token_to_id("<unused7>") not in encode(tokenizer, "x<unused7>y")
    assert "<table>" not in tokenizer.special_tokens()


# ---------------------------------------------------------------- what a chat template must break up


def test_a_template_for_thousands_of_tokens_is_short_and_renders(folders: dict[str, Path]):
    tokens = [f"<unused{i}>" for i in range(6242)] + ["<bos>", "<eos>"]
    template = chat_template(TRAINING_TEMPLATE, "<bos>", "<eos>", tokens)
    assert len(template) < 2000
    theirs = opened(folders["Gemma"], split=False)
    messages = [{"role": "system", "content": "a <unused0> <unused6241><eos>"}, {"role": "user", "content": "b<bos>"}]
    rendered = theirs.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert "a < unused0> < unused6241>< eos>" in rendered
    assert rendered.count("<bos>") == 1


@pytest.mark.parametrize("content", ["|||a|||a|||a|||a|||", "<<SYS>>", "<<s>>", "<s<s>>", "<x1><x12>"])
def test_no_control_token_is_left_where_tokens_overlap(folders: dict[str, Path], content: str):
    tokens = ["|||a|||", "<<SYS>>", "<SYS>", "<s>", *(f"<x{i}>" for i in range(20))]
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "b"}]
    template = chat_template("{note}|{instruction}\n", "", "<e>", tokens)
    rendered = opened(folders["Qwen"]).apply_chat_template(messages, chat_template=template, tokenize=False)
    assert not [token for token in tokens if token in rendered]
    assert rendered.replace(" ", "") == f"{content}|b\n"


# ---------------------------------------------------------------- ends with flags, and rows of the embedding


def flagged(folder: Path, out: Path, token: str, flag: str) -> JsonTokenizer:
    shutil.copytree(folder, out)
    raw = json.loads((out / "tokenizer.json").read_text())
    for each in raw["added_tokens"]:
        each[flag] = each[flag] or each["content"] == token
    (out / "tokenizer.json").write_text(json.dumps(raw))
    return JsonTokenizer(out)


def test_white_space_that_an_end_of_text_takes_is_not_in_the_rows(folders: dict[str, Path], tmp_path: Path):
    tokenizer = flagged(folders["Qwen"], tmp_path / "changed", "<|im_end|>", "rstrip")
    rendered = opened(tmp_path / "changed", split=False)("x<|im_end|>\n\n### Next")["input_ids"]
    assert encode_after_end(tokenizer, ["\n\n### Next"])[0] == rendered[-len(encode(tokenizer, "### Next")) :]
    assert not conversation_problem(tmp_path / "changed", tmp_path)


def test_an_end_of_text_that_is_not_found_behind_an_answer_is_refused(folders: dict[str, Path], tmp_path: Path):
    tokenizer = flagged(folders["Qwen"], tmp_path / "changed", "<|im_end|>", "single_word")
    with pytest.raises(UserError, match="in an unsupported way: use data without follow-up turns"):
        encode_after_end(tokenizer, ["\n\nx"])


def test_a_control_token_needs_no_row_but_an_end_does(folders: dict[str, Path], capsys):
    tokenizer = JsonTokenizer(folders["Gemma"])
    assert tokenizer.token(tokenizer.vocab_size - 1) == "<image_soft_token>"
    check_vocabulary(tokenizer, tokenizer.vocab_size - 1, "model")
    assert "1 control tokens without a row of the embedding are never used" in capsys.readouterr().out
    with pytest.raises(UserError, match="add embedding rows for the new pieces, such as"):
        check_vocabulary(tokenizer, tokenizer.vocab_size - 2, "model")
    for ends in ([tokenizer.vocab_size - 1], [tokenizer.eos_id, tokenizer.vocab_size - 1]):
        tokenizer.ends = tuple(ends)
        with pytest.raises(UserError, match="such as '<image_soft_token>'"):
            check_vocabulary(tokenizer, tokenizer.vocab_size - 1, "model")


@pytest.mark.parametrize("name", ["tekken.json", "qwen.tiktoken", "vocab.json"])
def test_a_vocabulary_in_another_form_is_refused_with_the_remedy(tmp_path: Path, name: str):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"not {name}: load the tokenizer with transformers and save it again"):
        load_tokenizer(tmp_path)


def test_a_tiktoken_file_under_the_name_of_a_sentencepiece_model_is_refused(tmp_path: Path):
    pytest.importorskip("sentencepiece")
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n" * 100)
    with pytest.raises(UserError, match=r"pass the folder of its tokenizer\.json instead"):
        load_tokenizer(tmp_path)
