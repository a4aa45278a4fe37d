"""Documents of tokens: whole texts for pretraining, prompts with answers for tuning, and a store for many of them."""

import dataclasses
import itertools
import re
import tempfile
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.clinical_text.words import UNSPACED
from data_prep.contract.prompt.cited_sentences import cited, numbered_sentences
from data_prep.contract.prompt.training_prompt import render_follow_up, render_prompt
from data_prep.contract.records import Example, Note, PackedRow, Pair
from data_prep.contract.tokenizer import (
    Tokenizer,
    beginning,
    encode_after_end,
    encode_continuations,
    encode_prompt,
)
from data_prep.pack.best_fit import cut
from data_prep.pack.plain_text import PlainText

WITHOUT_SPACES = re.compile(f"[{UNSPACED}]")


@dataclasses.dataclass(frozen=True)
class Document:
    """Tokens that stay together in one row, and the mask of those with loss."""

    tokens: list[int]
    loss_mask: list[bool]
    weight: float = 1.0  # negative for an answer that is to become less likely


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An example as a document, or None with the reason that it is in no row."""

    document: Document | None
    note_shortened: bool = False
    turns_left_out: int = 0
    reason: str = "longer_than_row"
    detail: str = ""


class DocumentStore:
    """Documents in two temporary files, so that a shard of any size needs little memory: 28 bytes a document.

    An item is one document, or two that lie next to each other in one row. `weighted`: rows have weights and numbers of
    pairs.
    """

    def __init__(self, folder: Path, dtype: str, weighted: bool = False):
        self.tokens, self.masks = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115, closed below
        self.dtype, self.weighted = np.dtype(dtype), weighted
        self.lengths, self.ends, self.weights = array("I"), array("q", [0]), array("f")  # of documents
        self.items, self.item_lengths = array("q", [0]), array("I")  # first document after an item, its tokens
        self.loss_tokens = 0

    def __enter__(self) -> "DocumentStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.tokens.close()
        self.masks.close()

    def add(self, *item: Document) -> None:
        for document in item:
            self.tokens.write(np.asarray(document.tokens, self.dtype).tobytes())
            self.masks.write(bytes(document.loss_mask))
            self.lengths.append(len(document.tokens))
            self.ends.append(self.ends[-1] + len(document.tokens))
            self.weights.append(document.weight)
            self.loss_tokens += sum(document.loss_mask)
        self.items.append(len(self.lengths))
        self.item_lengths.append(sum(len(document.tokens) for document in item))

    def documents_of(self, items: Sequence[int]) -> list[range]:
        """The numbers of the documents of each of these items."""
        return [range(self.items[item], self.items[item + 1]) for item in items]

    def row(self, items: Sequence[int]) -> PackedRow:
        """The documents of the items of these numbers, end to end."""
        tokens, masks = [], []
        groups = self.documents_of(items)
        documents = list(itertools.chain.from_iterable(groups))
        for start, length in ((self.ends[number], self.lengths[number]) for number in documents):
            self.tokens.seek(start * self.dtype.itemsize)
            tokens.append(self.tokens.read(length * self.dtype.itemsize))
            self.masks.seek(start)
            masks.append(self.masks.read(length))
        row = PackedRow(
            tokens=np.frombuffer(b"".join(tokens), self.dtype),
            segment_lengths=np.array([self.lengths[number] for number in documents]),
            loss_mask=np.frombuffer(b"".join(masks), bool),
        )
        if not self.weighted:
            return row
        numbers = itertools.accumulate(len(group) == 2 for group in groups)
        pairs = [number if len(group) == 2 else 0 for group, number in zip(groups, numbers, strict=True) for _ in group]
        return dataclasses.replace(
            row,
            weights=np.array([self.weights[number] for number in documents], np.float32),
            pairs=np.array(pairs, np.uint32),
            reference=np.full(len(documents), np.nan, np.float32),
        )


def text_documents(texts: Sequence[Note | PlainText], tokenizer: Tokenizer, row_length: int) -> Iterator[Document]:
    """The documents of texts, from BOS (if the tokenizer has one) to EOS; texts longer than a row are cut."""
    for ids in tokenizer.encode_batch([each.text for each in texts]):
        tokens = beginning(tokenizer) + ids + [tokenizer.eos_id]
        for start, end in cut(len(tokens), row_length):
            # The first token of a piece has no loss, because no token precedes it in its document.
            yield Document(tokens[start:end], [False] + [True] * (end - start - 1))


def example_documents(
    examples: Sequence[Example], tokenizer: Tokenizer, row_length: int, template: str
) -> Iterator[Fitted]:
    """The document of each example.

    One that is longer than a row loses the end of its note. One that is longer even with no more than the first
    character of its note loses its last turns, those from the one on that does not fit. One whose answers cite
    sentences that its note has lost is not trained on.
    """
    prompts = tokenizer.encode_batch([render_prompt(template, e.note, e.question) for e in examples])
    conversations = turn_documents(examples, tokenizer, template)
    for example, prompt_ids, turns in zip(examples, prompts, conversations, strict=True):
        prompt = beginning(tokenizer) + prompt_ids
        ends = list(itertools.accumulate(len(turn.tokens) for turn in turns))
        room = row_length - ends[-1]
        if len(prompt) <= room:
            yield Fitted(joined(prompt, turns))
            continue
        shortest = encode_prompt(tokenizer, render_prompt(template, example.note[:1], example.question))
        kept = sum(len(shortest) + end <= row_length for end in ends)
        if not kept:
            detail = f"the instruction and the answer, {len(shortest) + ends[0]} tokens, exceed a row of {row_length}"
            yield Fitted(None, detail=detail)
            continue
        room = row_length - ends[kept - 1]
        shortened = len(prompt) > room
        if shortened:
            prompt, end = shorten_note(example, tokenizer, room, template) or (shortest, 1)
            answers = (example.answer, *(turn.answer for turn in example.follow_ups[: kept - 1]))
            if example.cites and (lost := lost_citations(example.note, end, answers)):
                yield Fitted(None, reason="citation_cut", detail=f"the row has no room for the cited sentence {lost}")
                continue
        yield Fitted(joined(prompt, turns[:kept]), shortened, len(turns) - kept)


def joined(prompt: list[int], turns: Sequence[Document]) -> Document:
    tokens = [*prompt, *itertools.chain.from_iterable(turn.tokens for turn in turns)]
    loss_mask = [False] * len(prompt)
    return Document(tokens, [*loss_mask, *itertools.chain.from_iterable(turn.loss_mask for turn in turns)])


def turn_documents(examples: Sequence[Example], tokenizer: Tokenizer, template: str) -> Iterator[list[Document]]:
    """The turns of each example: its answer, then each follow-up question with its answer.

    Answers and their end-of-text tokens have loss.
    """
    follow_ups = [turn for example in examples for turn in example.follow_ups]
    questions = encode_after_end(tokenizer, [render_follow_up(template, turn.question) for turn in follow_ups])
    texts = [example.answer for example in examples] + [turn.answer for turn in follow_ups]
    answers = encode_continuations(tokenizer, [text.strip() for text in texts])
    first, later = answers[: len(examples)], iter(zip(questions, answers[len(examples) :], strict=True))
    for example, answer in zip(examples, first, strict=True):
        pairs = [([], answer), *itertools.islice(later, len(example.follow_ups))]
        yield [
            Document([*question, *reply, tokenizer.eos_id], [False] * len(question) + [True] * (len(reply) + 1))
            for question, reply in pairs
        ]


def lost_citations(note: str, end: int, answers: Sequence[str]) -> int:
    """The first number that the answers cite and that is not complete in note[:end]; 0 if there is none."""
    whole_sentences = {sentence.number for sentence in numbered_sentences(note) if sentence.end <= end}
    numbers = {number for text in answers for sentence in numbered_sentences(text) for number in cited(sentence.text)}
    return min(numbers - whole_sentences, default=0)


def shorten_note(
    example: Example | Pair, tokenizer: Tokenizer, room: int, template: str
) -> tuple[list[int], int] | None:
    """The prompt with as many words from the start of the note as fit into `room` tokens, and where the note ends.

    A note whose first word is too long is cut within it. None if not even one character fits.
    """
    note = example.note
    between_words = [
        place for place in range(1, len(note)) if note[place].isspace() or WITHOUT_SPACES.match(note[place - 1])
    ]
    for ends in (between_words, range(1, len(note))):
        best, low, high = None, 0, len(ends) - 1
        while low <= high:
            middle = (low + high) // 2
            end = whole(note, ends[middle])
            prompt = encode_prompt(tokenizer, render_prompt(template, note[:end], example.question))
            if len(prompt) <= room:
                best, low = (prompt, end), middle + 1
            else:
                high = middle - 1
        if best is not None:
            return best
    return None


def whole(text: str, end: int) -> int:
    """The last place up to `end` that parts no letter from its accents."""
    while 0 < end < len(text) and unicodedata.category(text[end]) in ("Mn", "Me", "Mc", "Cf"):
        end -= 1
    return end
