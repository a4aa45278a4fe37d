"""The text of an answer as its tokens arrive: whole characters, cut before a stop string.

The pieces that `take` returns are together the text that the tokenizer decodes from all tokens at once.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from data_prep.contract.tokenizer import JsonTokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """A tokenizer's decoding, of texts and of single tokens."""

    def __init__(self, tokenizer: JsonTokenizer):
        self.tokenizer = tokenizer
        self.silent = tokenizer.silent
        self.bytes_by_id: dict[int, bytes] = {}

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def is_byte(self, token: int) -> bool:
        return BYTE.fullmatch(self.tokenizer.token(token)) is not None

    @cached_property
    def byte_of(self) -> dict[str, int]:
        """The byte of each letter of the vocabulary, empty if letters are not those of bytes.

        The table is that of GPT-2: printable characters of Latin-1 are themselves, and the others follow from 256 on.
        """
        if '"ByteLevel"' not in json.dumps(json.loads(self.tokenizer.fast.to_str())["decoder"]):
            return {}
        plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in plain]
        return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token stands for; a special token stands for its name."""
        if token not in self.bytes_by_id:
            piece: Any = self.tokenizer.token(token)
            if found := BYTE.fullmatch(piece):
                value = bytes([int(found[1], 16)])
            elif self.byte_of and all(letter in self.byte_of for letter in piece):
                value = bytes(self.byte_of[letter] for letter in piece)
            else:
                value = piece.replace("▁", " ").encode()
            self.bytes_by_id[token] = value
        return self.bytes_by_id[token]


class TokenText:
    """The text of one answer. `text` is what its tokens say for sure, and ends before a stop string."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str] = ()):
        self.vocabulary, self.stops = vocabulary, stops
        self.shown: list[int] = []  # the tokens that leave something in a text
        self.begins: list[int] = []  # length of the text before each token
        self.start = self.end = 0  # the tokens that were decoded last, as context for the next ones
        self.text, self.taken, self.stopped = "", 0, False

    def add(self, token: int) -> bool:
        """Add a token. Returns True if the text has reached a stop string, after which no token may be added."""
        self.begins.append(len(self.text))
        if token in self.vocabulary.silent:
            return False
        self.shown.append(token)
        # Bytes in a row are decoded together: they are characters if all of them are, and otherwise none is.
        if self.vocabulary.is_byte(token):
            return False
        text = self.vocabulary.decode(self.shown[self.start :])
        if text.endswith(REPLACEMENT):  # part of a character; its rest may follow
            return False
        before = self.vocabulary.decode(self.shown[self.start : self.end])
        self.start, self.end = self.end, len(self.shown)
        return self.extend(text[len(before) :])

    def add_all(self, tokens: Sequence[int]) -> None:
        """Add all tokens of an answer at once, where nobody reads along and no stop string may end it."""
        self.begins = [0] * len(tokens)
        self.text = self.vocabulary.decode(tokens)

    def finish(self) -> bool:
        """Add what is left when no more tokens follow. Returns True if that reaches a stop string."""
        whole = self.vocabulary.decode(self.shown)
        return self.extend(whole[len(self.text) :])

    def extend(self, piece: str) -> bool:
        searched = max(0, len(self.text) - max(map(len, self.stops), default=0))
        self.text += piece
        places = [place for stop in self.stops if (place := self.text.find(stop, searched)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True
        return self.stopped

    def take(self, last: bool) -> str:
        """The text since the last call, without an end that may become a stop string unless this is the `last`."""
        end = len(self.text) if last else len(self.text) - self.held()
        piece, self.taken = self.text[self.taken : end], max(self.taken, end)
        return piece

    def held(self) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        lengths = range(min(max(map(len, self.stops), default=0), len(self.text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self.text[-n:]) for stop in self.stops)), 0)

    def tokens_within(self) -> int:
        """Number of tokens that begin within the text, where a stop string has cut it."""
        return sum(begin < len(self.text) for begin in self.begins) if self.stopped else len(self.begins)
