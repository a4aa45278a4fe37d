"""The text of an answer as its tokens arrive: the same as all at once, in whole characters, cut before stop strings."""

from pathlib import Path

import numpy as np
import pytest

from asclepius_jax.generate.serve.token_text import TokenText, Vocabulary
from data_prep.contract.tokenizer import JsonTokenizer, encode

TEXTS = (
    "fever 39.5 °C, 5×10⁹/L",
    "患者は発熱した。👩\u200d⚕️🙂 x",
    "  two  spaces\n\n\tand lines ",
    "é" * 9,
    "a\ufffdb",
)


@pytest.fixture(scope="module", params=["sentencepiece", "bytes"])
def vocabulary(request, small_tokenizer: Path, tmp_path_factory) -> Vocabulary:
    if request.param == "sentencepiece":
        return Vocabulary(JsonTokenizer(small_tokenizer))
    return Vocabulary(JsonTokenizer(byte_level(tmp_path_factory.mktemp("bytes"))))


def byte_level(folder: Path) -> Path:
    """A tokenizer of the kind of GPT-2, Llama 3 and Qwen, whose tokens are of bytes and may end within a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["</s>"])
    fast.train_from_iterator(TEXTS * 3, trainer)
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


def pieces(vocabulary: Vocabulary, ids: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    """The text in pieces of one token each."""
    text, found = TokenText(vocabulary, stops), []
    for token in ids:
        if text.add(token):
            break
        found.append(text.take(last=False))
    else:
        text.finish()
    return [*found, text.take(last=True)]


def test_the_pieces_of_a_text_are_the_text(vocabulary: Vocabulary):
    for text in TEXTS:
        ids = encode(vocabulary.tokenizer, text)
        found = pieces(vocabulary, ids)
        assert "".join(found) == vocabulary.decode(ids) == text
        assert text.count("\ufffd") == sum(piece.count("\ufffd") for piece in found)
        # Nine letters of two bytes are a single run of bytes, or a single token.
        assert len([piece for piece in found if piece]) > 1 or text == "é" * 9


def test_the_pieces_of_any_tokens_are_what_they_decode_to_at_once(vocabulary: Vocabulary):
    """Halves of characters, bytes that are none, control tokens and spaces, in any order."""
    random = np.random.default_rng(0)
    size = vocabulary.tokenizer.vocab_size
    for count in range(400):
        ids = random.integers(0, size, count % 40).tolist()
        assert "".join(pieces(vocabulary, ids)) == vocabulary.decode(ids), ids


def test_no_piece_ends_within_a_character(vocabulary: Vocabulary):
    ids = encode(vocabulary.tokenizer, "患者🙂é")
    assert all("\ufffd" not in piece for piece in pieces(vocabulary, ids))


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two"), "one "),
        ("one two three", ("o t",), "one tw"),
        ("one two three", ("four", "threes"), "one two three"),
        ("one two three", ("one",), ""),
        ("aaab", ("aab",), "a"),
        ("abcabcabd", ("abcabd",), "abc"),
        ("é🙂é", ("🙂",), "é"),
        ("one two three", ("three",), "one two "),
        ("two\n\nlines", ("\n\n",), "two"),
    ],
)
def test_a_text_ends_before_a_stop_string_and_never_shows_its_beginning(vocabulary: Vocabulary, text, stops, kept):
    ids = encode(vocabulary.tokenizer, text)
    found = pieces(vocabulary, ids, stops)
    assert "".join(found) == kept
    shown = ""
    for piece in found[:-1]:
        shown += piece
        assert kept.startswith(shown)


def test_what_began_as_a_stop_string_and_is_none_is_shown(vocabulary: Vocabulary):
    text = "one twice"
    assert "".join(pieces(vocabulary, encode(vocabulary.tokenizer, text), ("two",))) == text


def test_the_bytes_of_tokens_are_those_of_their_text(vocabulary: Vocabulary):
    for text in TEXTS:
        ids = encode(vocabulary.tokenizer, text)
        # SentencePiece begins a text with a space, which decoding removes.
        assert b"".join(map(vocabulary.bytes_of, ids)).decode() in (text, f" {text}")


def test_the_tokens_of_a_cut_text_are_those_that_begin_within_it(vocabulary: Vocabulary):
    ids = encode(vocabulary.tokenizer, "one two three")
    text = TokenText(vocabulary, ("two",))
    drawn = next(count for count, token in enumerate(ids, 1) if text.add(token))
    kept = ids[: text.tokens_within()]
    assert drawn < len(ids)
    assert vocabulary.decode(kept).startswith(text.text)
    assert not vocabulary.decode(kept[:-1]).startswith(text.text)
