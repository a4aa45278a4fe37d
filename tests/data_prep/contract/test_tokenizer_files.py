"""The files beside a tokenizer say here what they say to transformers, and a note is text whatever it spells out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer, encode, encode_prompt, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

PIECES = 320  # of the small tokenizer; the ids behind them are free
END, START = "<|im_end|>", "<|im_start|>"
Change = Callable[[dict[str, Any]], Any]


def rewrite(path: Path, change: Change) -> None:
    raw = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


@pytest.fixture
def folder(small_tokenizer: Path, tmp_path: Path) -> Path:
    """A folder with a tokenizer.json and its settings."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "json").mkdir(exist_ok=True)
        shutil.copyfile(small_tokenizer / name, tmp_path / "json" / name)
    return tmp_path / "json"


@pytest.fixture
def model_alone(small_tokenizer: Path, tmp_path: Path) -> Path:
    """A folder with a tokenizer.model, and the config.json by which transformers knows the family."""
    (tmp_path / "model").mkdir()
    shutil.copyfile(small_tokenizer / "tokenizer.model", tmp_path / "model/tokenizer.model")
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    return tmp_path / "model"


def added(number: int, content: str, special: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": special, **flags}


# ---------------------------------------------------------------- which token ends a text


@pytest.mark.parametrize("token", ["<unk>", {"content": "<unk>", "lstrip": False}])
@pytest.mark.parametrize(
    ("config", "older"),
    [
        ({"eos_token": ...}, True),  # named there alone
        ({}, True),  # named in both files
        ({"added_tokens_decoder": {}}, True),  # a file of today: the older one does not count
        ({"eos_token": "<unk>"}, False),
        ({"eos_token": {"content": "<unk>", "__type": "AddedToken"}}, False),
    ],
)
def test_the_end_of_text_is_the_one_that_transformers_takes(folder: Path, config: dict, older: bool, token: Any):
    path = folder / "tokenizer_config.json"
    raw = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))
    if older:
        (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": token}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert JsonTokenizer(folder).eos_id == theirs.eos_token_id


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [2, 7, 9]}, {"eos_token_id": 2}, (2, 7, 9)),
        ({"eos_token_id": [7, 9]}, {"eos_token_id": 2}, (7, 9)),
        ({"eos_token_id": 7}, {"eos_token_id": [2, 9]}, (7,)),
        ({"eos_token_id": [2, 7, 7]}, None, (2, 7)),
        (None, {"eos_token_id": [2, 7, 9]}, (2, 7, 9)),
        (None, {"eos_token_id": 7}, (2, 7)),
        ({"do_sample": False}, {"eos_token_id": [2, 9]}, (2, 9)),
        ({"eos_token_id": None}, {"eos_token_id": None}, (2,)),
        ({"eos_token_id": []}, None, (2,)),
        (None, None, (2,)),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "model_alone"])
def test_generation_stops_where_the_folder_says(
    request, tmp_path: Path, kind: str, generation: dict | None, config: dict | None, ends: tuple[int, ...]
):
    source = request.getfixturevalue(kind)
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        (source / name).unlink(missing_ok=True)
        if content is not None:
            (source / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(source)
    assert (tokenizer.eos_id, tokenizer.ends) == (2, ends)
    tokenizer.save(tmp_path / "import")
    tokenizer.save(tmp_path / "packed", trained=True)
    assert JsonTokenizer(tmp_path / "import").ends == ends
    # Tuning teaches the model to end in EOS.
    assert set(JsonTokenizer(tmp_path / "packed").ends) == {2, *ends}


@pytest.mark.parametrize("value", ["2", 2.0, True, -1, [2, "7"], [[2]], {"a": 1}, 10**9, [2, None]])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_an_end_that_is_no_id_is_refused(folder: Path, name: str, value: Any):
    (folder / name).write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(UserError, match=f"{name}: eos_token_id is .*, which is not an id or a list of ids"):
        JsonTokenizer(folder)


# ---------------------------------------------------------------- tokens beside a SentencePiece model


def by_map(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({START: PIECES + 1, END: PIECES}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": END}}))


def by_decoder(folder: Path) -> None:
    decoder = {"2": added(2, "</s>", True), str(PIECES): added(PIECES, END, True), str(PIECES + 1): added(0, START)}
    decoder = {number: {k: v for k, v in token.items() if k != "id"} for number, token in decoder.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "added_tokens_decoder": decoder}))


@pytest.mark.parametrize("naming", [by_map, by_decoder])
def test_tokens_added_to_a_sentencepiece_model_have_the_ids_of_transformers(
    model_alone: Path, tmp_path: Path, naming: Callable[[Path], None]
):
    plain = load_tokenizer(model_alone)
    naming(model_alone)
    theirs = transformers.AutoTokenizer.from_pretrained(model_alone)
    ours = load_tokenizer(model_alone)
    assert (ours.eos_id, ours.vocab_size) == (theirs.eos_token_id, len(theirs)) == (PIECES, PIECES + 2)
    assert ours.hash != plain.hash
    ours.save(tmp_path / "saved")
    saved = JsonTokenizer(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for token in (END, START, "</s>", "<s>", "<unk>"):
        assert (
            saved.fast.token_to_id(token) == theirs.convert_tokens_to_ids(token) == again.convert_tokens_to_ids(token)
        )
    assert (saved.hash, saved.vocab_size, saved.eos_id, saved.bos_id) == (ours.hash, ours.vocab_size, PIECES, 1)
    assert again.eos_token_id == PIECES
    text = f"fever {END} x </s> {START}\n"
    assert encode(saved, text) == encode(ours, text) == encode(plain, text)
    assert again(text, split_special_tokens=True)["input_ids"] == encode_prompt(ours, text)
    assert saved.decode([1, *encode(saved, text), PIECES]) == text
    assert {START, END, "</s>"} - set(saved.special_tokens()) <= {"</s>"}


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ({END: PIECES + 1}, rf"has the id {PIECES + 1}, not {PIECES}, the next one after the pieces"),
        ({END: 5}, "has the id 5, not 320"),
        ({"</s>": PIECES}, "the added token '</s>' has the id 320"),
        ({END: PIECES, START: PIECES}, "has the id 320, not 321"),
        ({"covid": PIECES}, "the added token 'covid' is ordinary text, which needs a tokenizer.json"),
        ({END: "320"}, "has the id '320': it must be one id"),
        ({END: -1}, "has the id -1: it must be one id"),
        ({END: 10**18}, "it must be one id"),
    ],
)
def test_added_tokens_with_other_ids_are_refused(model_alone: Path, tokens: dict[str, Any], told: str):
    (model_alone / "added_tokens.json").write_text(json.dumps(tokens))
    with pytest.raises(UserError, match=told):
        load_tokenizer(model_alone)


def test_an_end_of_text_that_no_file_holds_is_refused(model_alone: Path):
    (model_alone / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    with pytest.raises(UserError, match=r"eos_token '<\|im_end\|>' is not a control token of tokenizer.model"):
        load_tokenizer(model_alone)
    (model_alone / "tokenizer_config.json").write_text(json.dumps({"eos_token": "▁"}))
    with pytest.raises(UserError, match="is not a control token"):
        load_tokenizer(model_alone)


def test_a_folder_whose_texts_begin_without_bos_is_read_so(model_alone: Path, tmp_path: Path):
    (model_alone / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert load_tokenizer(model_alone).bos_id is None
    load_tokenizer(model_alone).save(tmp_path / "saved")
    assert JsonTokenizer(tmp_path / "saved").bos_id is None


def test_sampling_of_pieces_is_off(model_alone: Path, tmp_path: Path):
    plain = encode(load_tokenizer(model_alone), "fever for seven days")
    settings = {"sp_model_kwargs": {"enable_sampling": True, "nbest_size": -1, "alpha": 0.1}}
    (model_alone / "tokenizer_config.json").write_text(json.dumps(settings))
    load_tokenizer(model_alone).save(tmp_path / "saved")
    assert "sampling" not in (tmp_path / "saved/tokenizer_config.json").read_text()
    for tokenizer in (load_tokenizer(model_alone), JsonTokenizer(tmp_path / "saved")):
        assert {tuple(encode(tokenizer, "fever for seven days")) for _ in range(20)} == {tuple(plain)}


# ---------------------------------------------------------------- a note is text


@pytest.mark.parametrize(
    ("token", "settings"),
    [
        (added(2, "</s>"), {}),  # the end of text, not marked as special
        (added(1, "<s>"), {}),
        (added(PIECES, END), {}),
        (added(PIECES, "[INST]"), {}),
        (added(PIECES, "<<SYS>>"), {}),
        (added(PIECES, "STOP!"), {"eos_token": "STOP!"}),
        (added(PIECES, "STOP!"), {"additional_special_tokens": ["STOP!"]}),
        (added(PIECES, "STOP!"), {"extra_special_tokens": {"turn": {"content": "STOP!"}}}),
        (added(PIECES, "## User:"), {"chat_template": "## User:{{ messages[0].content }}"}),
        (added(PIECES, "## User:"), {"chat_template": [{"name": "default", "template": "## User:{{ 1 }}"}]}),
    ],
)
def test_a_control_token_in_a_note_is_text(folder: Path, tmp_path: Path, token: dict, settings: dict):
    plain = JsonTokenizer(folder)
    rewrite(folder / "tokenizer.json", lambda raw: raw["added_tokens"].append(token))
    rewrite(folder / "tokenizer_config.json", lambda raw: raw.update(settings))
    JsonTokenizer(folder).save(tmp_path / "imported")
    JsonTokenizer(folder).save(tmp_path / "trained", trained=True)
    declared = token["id"] < PIECES or token["content"] == "STOP!"
    text = f"fever {token['content']} and{token['content']}cough"
    for place in (folder, tmp_path / "imported", tmp_path / "trained"):
        tokenizer = JsonTokenizer(place)
        assert token["id"] not in encode(tokenizer, text)
        assert encode(tokenizer, text) == encode(plain, text)
        assert tokenizer.decode(encode(tokenizer, text)) == text
        assert token["content"] in tokenizer.special_tokens()
        # Only a token that the folder declares as special is left out, as in transformers.
        told = "" if declared or place.name == "trained" else token["content"]
        assert tokenizer.decode([*encode(tokenizer, text), token["id"]]) == text + told
        if place != folder:
            theirs = transformers.AutoTokenizer.from_pretrained(place)
            assert theirs.decode([token["id"]], skip_special_tokens=True) == told
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "trained", split_special_tokens=True)
    assert theirs(text)["input_ids"] == encode_prompt(plain, text)


def test_a_named_token_is_one_that_a_chat_template_must_break_up(folder: Path):
    """transformers finds every named token in a rendered chat."""
    rewrite(folder / "tokenizer_config.json", lambda raw: raw.update(pad_token="<0x41>", bos_token="<0x42>"))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert set(theirs.all_special_tokens) <= set(JsonTokenizer(folder).special_tokens())


def test_an_end_of_generation_in_a_note_is_text(folder: Path):
    plain = JsonTokenizer(folder)
    rewrite(folder / "tokenizer.json", lambda raw: raw["added_tokens"].append(added(PIECES, "STOP!")))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, PIECES]}))
    assert encode(JsonTokenizer(folder), "STOP! now") == encode(plain, "STOP! now")


@pytest.mark.parametrize("word", ["covid", "   ", "µg/mL", "user"])
def test_an_added_word_is_one_token_as_in_transformers(folder: Path, word: str):
    rewrite(folder / "tokenizer.json", lambda raw: raw["added_tokens"].append(added(PIECES, word)))
    template = "{% for m in messages %}   user covid{{ m.content }}{% endfor %}"
    rewrite(folder / "tokenizer_config.json", lambda raw: raw.update(chat_template=template))
    theirs = transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    tokenizer, text = JsonTokenizer(folder), f"fever {word} cough"
    assert PIECES in encode(tokenizer, text)
    assert encode_prompt(tokenizer, text) == theirs(text)["input_ids"]


def test_a_vocabulary_that_reads_its_end_of_text_in_a_note_is_refused(tmp_path: Path):
    vocabulary = {"<unk>": 0, "</s>": 1, "a": 2, "fever": 3}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": "<unk>"}))
    with pytest.raises(
        UserError, match="reads '</s>' in a text as its control token: use a tokenizer in which it stays"
    ):
        JsonTokenizer(tmp_path)


# ---------------------------------------------------------------- settings of training and of batches


def test_dropout_of_merges_is_off_here_and_in_the_copy(folder: Path, tmp_path: Path):
    plain = JsonTokenizer(folder)
    rewrite(folder / "tokenizer.json", lambda raw: raw["model"].update(dropout=0.5))
    JsonTokenizer(folder).save(tmp_path / "saved")
    text = "the patient was admitted with fever and cough " * 5
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for _ in range(5):
        assert (
            encode(JsonTokenizer(folder), text)
            == encode(JsonTokenizer(tmp_path / "saved"), text)
            == encode(plain, text)
        )
        assert theirs(text)["input_ids"] == encode_prompt(plain, text)
    assert JsonTokenizer(folder).hash == plain.hash


def test_truncation_and_padding_are_off_in_the_copy(folder: Path, tmp_path: Path):
    plain = JsonTokenizer(folder)
    fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.enable_truncation(4)
    fast.enable_padding(length=50)
    fast.save(str(folder / "tokenizer.json"))
    JsonTokenizer(folder).save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "a longer text than four tokens"
    assert theirs(text)["input_ids"] == encode_prompt(plain, text)
    assert (tmp_path / "saved/tokenizer.json").read_text() == plain.json.text or json.loads(
        (tmp_path / "saved/tokenizer.json").read_text()
    ) == json.loads(plain.json.text)


@pytest.mark.parametrize("before", [[], ["<s>"], ["<s>", "</s>"]])
@pytest.mark.parametrize("behind", [[], ["</s>"], ["</s>", "</s>"]])
def test_a_prompt_begins_as_the_tokenizer_says_and_does_not_end(folder: Path, before: list[str], behind: list[str]):
    ids = {"<s>": 1, "</s>": 2}

    def append(raw: dict[str, Any]) -> None:
        parts = [{"SpecialToken": {"id": token, "type_id": 0}} for token in (*before, "|", *behind)]
        parts[len(before)] = {"Sequence": {"id": "A", "type_id": 0}}
        special = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()}
        raw["post_processor"] = {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": parts,
            "special_tokens": special,
        }

    plain = JsonTokenizer(folder)
    rewrite(folder / "tokenizer.json", append)
    if len(before) > 1:
        with pytest.raises(UserError, match="puts 2 tokens before a text: only one BOS token is supported"):
            JsonTokenizer(folder)
        return
    expected = [*(ids[token] for token in before), *encode(plain, "fever\n")]
    assert encode_prompt(JsonTokenizer(folder), "fever\n") == expected


# ---------------------------------------------------------------- files that are not what they should be


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer_config.json", b"[]", "tokenizer_config.json is not JSON: it is not a JSON object"),
        ("tokenizer_config.json", b"", "is not JSON"),
        ("tokenizer_config.json", b'{"eos_token": 5}', "eos_token is 5, which is not the text of a token"),
        ("tokenizer_config.json", b'{"eos_token": ["</s>"]}', "which is not the text of a token"),
        ("tokenizer_config.json", b'{"eos_token": {"text": "</s>"}}', "which is not the text of a token"),
        ("tokenizer_config.json", b'{"eos_token": "</s>", "eos_token": "<s>"}', "eos_token occurs twice"),
        ("tokenizer_config.json", b'{"eos_token": ""}', "eos_token None is not in tokenizer.json"),
        ("tokenizer_config.json", b'{"eos_token": "\\ud800"}', "surrogates not allowed"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', "added_tokens_decoder is not a JSON object"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}', "has the id 'x'"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"3": 4}}', "is 4, which is not the text of a token"),
        ("tokenizer_config.json", b'{"model_max_length": NaN}', "NaN is not a JSON number"),
        ("tokenizer_config.json", '{"eos_token": "</s>"}'.encode("utf-16"), "is not JSON"),
        ("tokenizer_config.json", b"\xef\xbb\xbf{}", "BOM"),
        ("special_tokens_map.json", b"3", "special_tokens_map.json is not JSON: it is not"),
        ("special_tokens_map.json", b'{"bos_token": true}', "bos_token is True"),
        ("special_tokens_map.json", b'{"a":' * 100_000, "nested too deeply"),
        ("added_tokens.json", b'{"a": 1, "a": 2}', "a occurs twice"),
        ("added_tokens.json", b'{"not there": 400}', "the added token 'not there' is not in tokenizer.json"),
        ("generation_config.json", b"[2]", "generation_config.json is not JSON: it is not"),
        ("config.json", b"{", "config.json is not JSON"),
        ("chat_template.jinja", b"\xff\xfe", "chat_template.jinja is not UTF-8"),
        ("tokenizer.json", b"{}", "added_tokens is not a list of tokens"),
        ("tokenizer.json", b"[]", "tokenizer.json is not a tokenizer: it is not a JSON"),
        ("tokenizer.json", b'{"added_tokens": [3]}', "added_tokens is not a list of tokens"),
        ("tokenizer.json", b'{"added_tokens": [], "model": 3}', "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", b'{"added_tokens": [], "model": {"vocab": {"a": -1}}}', "-1 is not the id of a token"),
        ("tokenizer.json", b'{"added_tokens": [], "model": {"vocab": {"a": 99999999999}}}', "is not the id of a token"),
        ("tokenizer.json", b'{"added_tokens": [{"content": "a", "id": null}]}', "None is not the id of a token"),
        ("tokenizer.json", b'{"added_tokens": [], "model": {"vocab": {"a": 1, "b": 1}}}', "two pieces .* the same id"),
        ("tokenizer.json", b'{"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}', "tokenizer"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_line(folder: Path, name: str, content: bytes, told: str):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as refused:
        JsonTokenizer(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value).replace(str(folder), "")) < 250


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["post_processor"].update(single=[{"SpecialToken": {"id": "none", "type_id": 0}}]),  # panics
        lambda raw: raw.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # panics
        lambda raw: raw["model"].update(unk_token="none", byte_fallback=False),  # fails at the first unknown character
        lambda raw: raw["model"].update(merges=[["a", "none"]]),
        lambda raw: raw.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated"}),
    ],
)
def test_a_tokenizer_that_cannot_run_is_refused_in_one_line(folder: Path, capfd, change: Change):
    rewrite(folder / "tokenizer.json", change)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer: ") as refused:
        JsonTokenizer(folder)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""
