"""One text, one list of ids: in TensorFlow Text, SentencePiece, tokenizers and transformers alike."""

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import (
    JsonTokenizer,
    SentencePieceTokenizer,
    encode,
    encode_continuations,
    load_tokenizer,
    train_sentencepiece,
)
from tests.helpers.made_inputs import WORDS
from tests.helpers.places import shared

sentencepiece = pytest.importorskip("sentencepiece")

Encode = Callable[[list[str]], list[list[int]]]
FRAGMENTS = (
    *("</s>", "<s>", "<unk>", "<0x0A>", "[INST]", "▁", " ", "  ", "       ", "\n", "\n\n", "\r\n", "\t", "\u00a0"),
    *("Pt", " c/o", " SOB", "12.5 mg", " µg", "5×10⁹/L", " –", "“q”", "é", "e\u0301", "ﬁ", "Ω", "½", "™"),
    *("患者", "は", "пациент", "مريض", "🙂", "👩\u200d⚕️", "\u200b", "\ufeff", "\x07", "\U0010fffd", "aaaaaaaa"),
)


def generated_strings(count: int) -> list[str]:
    """Fragments and arbitrary characters in any order, most with white space where it hurts."""
    generator = random.Random(0)

    def character() -> str:
        code = generator.choice((0x80, 0x3000, 0x10000, 0x110000))
        # Surrogates are no characters, and a NUL ends a string in C.
        while 0xD800 <= (drawn := generator.randrange(1, code)) < 0xE000:
            pass
        return chr(drawn)

    def fragment() -> str:
        return character() if generator.random() < 0.4 else generator.choice(FRAGMENTS)

    return ["".join(fragment() for _ in range(generator.randrange(25))) for _ in range(count)]


def real_texts() -> dict[str, list[str]]:
    """Every text of the real inputs, by file."""

    def of_jsonl(path: Path) -> list[str]:
        return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]

    def of_csv(path: Path) -> list[str]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [cell for row in csv.reader(file) for cell in row]

    folder = shared("data")
    csvs = [*folder.glob("aci_bench/*.csv"), *folder.glob("mts_dialog/*.csv"), folder / "medec_ms_validation.csv"]
    return {
        **{name: of_jsonl(folder / name) for name in ("case_reports.jsonl", "mtsamples.jsonl")},
        "maccrobat": [path.read_text(encoding="utf-8") for path in sorted(folder.glob("maccrobat/*.txt"))],
        **{path.name: of_csv(path) for path in csvs},
    }


@pytest.fixture(scope="module", params=["mistral", "trained here"])
def model_file(request, tmp_path_factory) -> Path:
    if request.param == "mistral":
        return request.getfixturevalue("mistral_tokenizer")
    # Indented and spaced texts: pieces of white space alone are among those that it learns.
    indented = [f"{' ' * i}Rx:{' ' * (j + 1)}{word}" for i in range(9) for j in range(9) for word in WORDS]
    path = tmp_path_factory.mktemp("trained") / "trained.model"
    train_sentencepiece(indented, path, 400)
    return path


@pytest.fixture(scope="module")
def saved(model_file: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    SentencePieceTokenizer(model_file).save(folder)
    return folder


@pytest.fixture(scope="module")
def encoders(model_file: Path, saved: Path) -> dict[str, Encode]:
    """The four readers of one vocabulary; each turns texts into ids without BOS."""
    import tokenizers
    import transformers

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    fast = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    automatic = transformers.AutoTokenizer.from_pretrained(saved, split_special_tokens=True)
    return {
        "tensorflow_text": SentencePieceTokenizer(model_file).encode_batch,
        "sentencepiece": processor.encode,
        "tokenizers": lambda texts: [e.ids for e in fast.encode_batch(texts, add_special_tokens=False)],
        "transformers": lambda texts: automatic(texts, add_special_tokens=False)["input_ids"],
    }


def disagreements(encoders: dict[str, Encode], texts: list[str]) -> Iterator[tuple[str, str]]:
    """(reader, text) wherever a reader gives other ids than sentencepiece."""
    expected = encoders["sentencepiece"](texts)
    for name, encoder in encoders.items():
        for text, ours, theirs in zip(texts, encoder(texts), expected, strict=True):
            if ours != theirs:
                yield name, text[:80]


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_real_texts_have_the_same_ids_everywhere(encoders: dict[str, Encode], every: int):
    texts = real_texts()
    assert len(texts["case_reports.jsonl"]) == 1449
    assert len(texts["mtsamples.jsonl"]) == 1176
    assert len(texts["maccrobat"]) == 98
    for file, of_file in texts.items():
        assert not list(disagreements(encoders, of_file[::every]))[:3], file


def test_generated_strings_have_the_same_ids_everywhere(encoders: dict[str, Encode]):
    texts = generated_strings(5000)
    assert sum("</s>" in text for text in texts) > 100
    assert sum(text.startswith("  ") for text in texts) > 100
    assert sum("\n" in text and "\t" in text for text in texts) > 100
    assert not list(disagreements(encoders, texts))[:3]


def test_runs_of_white_space_have_the_same_ids_everywhere(encoders: dict[str, Encode]):
    """Equal scores let a run be joined in several ways; which one is taken must not differ."""
    runs = [space * count for space in (" ", "\n", "\t", " \n", "a", "-") for count in range(1, 70)]
    texts = [before + run + after for run in runs for before in ("", "x") for after in ("", "y")]
    assert not list(disagreements(encoders, texts))[:3]


def test_a_control_token_in_a_text_is_text(encoders: dict[str, Encode], model_file: Path):
    control = {0, SentencePieceTokenizer(model_file).bos_id, SentencePieceTokenizer(model_file).eos_id}
    texts = ["</s>", "<s>", "a </s> b", "<s> a</s>\n", "</s></s>", "<unk>"]
    for name, encoder in encoders.items():
        assert not [ids for ids in encoder(texts) if control & set(ids)], name
        assert all(len(ids) > 1 for ids in encoder(texts)), name


def test_ids_lead_back_to_the_text(saved: Path):
    tokenizer = JsonTokenizer(saved)
    for text in ["Pt c/o SOB.\n\n  BP 120/80", "a </s> b", "5×10⁹/L 患者 🙂", "\tx", "y "]:
        ids = encode(tokenizer, text)
        assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == text


# ---------------------------------------------------------------- prompt and answer


@settings(max_examples=300, deadline=None)
@given(prompt=st.text(), answer=st.text(min_size=1).filter(lambda text: not text[0].isspace()))
def test_prompt_and_answer_apart_are_prompt_and_answer_together(small_tokenizer: Path, prompt: str, answer: str):
    tokenizer = JsonTokenizer(small_tokenizer)
    apart = encode(tokenizer, prompt + "\n") + encode_continuations(tokenizer, [answer])[0]
    assert apart == encode(tokenizer, prompt + "\n" + answer)


def test_real_prompt_and_answer_apart_are_together(model_file: Path):
    tokenizer = SentencePieceTokenizer(model_file)
    texts = [text for text in real_texts()["mtsamples.jsonl"][:200] if not text[0].isspace()]
    prompts = tokenizer.encode_batch([text[:300] + "\n" for text in texts])
    answers = encode_continuations(tokenizer, [text[300:600].strip() for text in texts])
    together = tokenizer.encode_batch([text[:300] + "\n" + text[300:600].strip() for text in texts])
    assert [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)] == together
    # By itself, an answer would begin with a space that it does not have behind its prompt.
    assert encode(tokenizer, "well") != encode_continuations(tokenizer, ["well"])[0]


# ---------------------------------------------------------------- beginning and end of text


def test_bos_is_what_the_tokenizer_itself_puts_first(saved: Path, tmp_path: Path):
    assert JsonTokenizer(saved).bos_id == 1
    assert JsonTokenizer(saved).eos_id == 2
    bare = json.loads((saved / "tokenizer.json").read_text())
    bare["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(bare))
    # It still names a BOS token; nothing at inference would put it there.
    (tmp_path / "tokenizer_config.json").write_text((saved / "tokenizer_config.json").read_text())
    assert JsonTokenizer(tmp_path).bos_id is None


def test_transformers_begins_a_text_as_training_does(saved: Path):
    import transformers

    automatic = transformers.AutoTokenizer.from_pretrained(saved, split_special_tokens=True)
    tokenizer = JsonTokenizer(saved)
    assert automatic("a </s> b")["input_ids"] == [tokenizer.bos_id, *encode(tokenizer, "a </s> b")]
    assert automatic.eos_token_id == tokenizer.eos_id
    assert automatic.pad_token_id not in (tokenizer.bos_id, tokenizer.eos_id)


def test_padding_and_truncation_of_a_saved_tokenizer_are_off(saved: Path, tmp_path: Path):
    import tokenizers

    fast = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    fast.enable_truncation(4)
    fast.enable_padding(length=50)
    fast.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text((saved / "tokenizer_config.json").read_text())
    text = "a longer text than four tokens"
    assert encode(JsonTokenizer(tmp_path), text) == encode(JsonTokenizer(saved), text)


# ---------------------------------------------------------------- which vocabulary


def test_a_model_and_its_saved_folder_are_one_vocabulary(model_file: Path, saved: Path):
    assert load_tokenizer(model_file).hash == load_tokenizer(saved).hash
    assert load_tokenizer(model_file).vocab_size == load_tokenizer(saved).vocab_size


def test_two_vocabularies_have_two_hashes(small_tokenizer: Path, tmp_path: Path):
    raw = json.loads((small_tokenizer / "tokenizer.json").read_text())
    vocabulary = raw["model"]["vocab"]
    vocabulary["<s>"], vocabulary["</s>"] = vocabulary["</s>"], vocabulary["<s>"]
    raw["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    (tmp_path / "tokenizer_config.json").write_text((small_tokenizer / "tokenizer_config.json").read_text())
    assert JsonTokenizer(tmp_path).hash != JsonTokenizer(small_tokenizer).hash


def test_saving_again_changes_nothing(saved: Path, tmp_path: Path):
    JsonTokenizer(saved).save(tmp_path)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model_type": "unigram"}, "model_type BPE"),
        ({"normalization_rule_name": "nmt_nfkc"}, "no normalization"),
        ({"byte_fallback": False}, "byte_fallback"),
        ({"add_dummy_prefix": False}, "add_dummy_prefix"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"user_defined_symbols": ["<note>"]}, "no user-defined pieces"),
        ({"eos_id": -1}, "a BOS, an EOS"),
    ],
)
def test_a_model_that_is_not_llamas_is_refused(tmp_path: Path, options: dict[str, object], told: str):
    trainer = sentencepiece.SentencePieceTrainer
    usual = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": True,
        "remove_extra_whitespaces": False,
    }
    lines = [f"patient {i} has a fever of {i} degrees" for i in range(200)]
    prefix = str(tmp_path / "other")
    settings = {**usual, **options}
    trainer.train(sentence_iterator=iter(lines), model_prefix=prefix, vocab_size=300, hard_vocab_limit=False,
                  minloglevel=2, **settings)  # fmt: skip
    with pytest.raises(UserError, match=told):
        load_tokenizer(tmp_path / "other.model")


def test_a_damaged_model_is_refused(mistral_tokenizer: Path, tmp_path: Path):
    (tmp_path / "cut.model").write_bytes(mistral_tokenizer.read_bytes()[:-1000])
    (tmp_path / "text.model").write_text("this is a text, not a model\n" * 20)
    (tmp_path / "empty.model").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(UserError, match=f"{name}.model"):
            load_tokenizer(tmp_path / f"{name}.model")


def test_a_path_without_a_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"pass a SentencePiece \.model file or a folder with tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_folder_that_names_no_end_of_text_is_refused(small_tokenizer: Path, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((small_tokenizer / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match=r"tokenizer_config.json is missing"):
        JsonTokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(UserError, match="eos_token '<end>' is not in"):
        JsonTokenizer(tmp_path)


def test_training_keeps_every_byte_and_splits_digits(tmp_path: Path):
    train_sentencepiece(["dose 125 mg, again 125 mg, and 125"] * 50, tmp_path / "t.model", 290)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    assert [processor.id_to_piece(i) for i in processor.encode("125")] == ["▁", "1", "2", "5"]
    assert processor.decode(processor.encode("✚ 患者")) == "✚ 患者"
    assert [path.name for path in tmp_path.iterdir()] == ["t.model"]
