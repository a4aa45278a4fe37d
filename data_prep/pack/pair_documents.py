"""Documents of pairs: one prompt with the chosen answer, and the same prompt with the rejected one.

By default, tokens that both answers share carry no loss, so that training against a wrong answer takes no probability
from the words that are right in both. What is shared is the common beginning and the common end of the two answers'
tokens. A planted error is one change in one place, so that exactly its tokens are left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_prep.contract.prompt.training_prompt import render_prompt
from data_prep.contract.records import Pair
from data_prep.contract.tokenizer import Tokenizer, beginning, encode_continuations, encode_prompt
from data_prep.pack.documents import Document, lost_citations, shorten_note


@dataclass(frozen=True)
class FittedPair:
    """The documents of a pair, chosen before rejected; none, with a reason and its detail, if they fit no row."""

    documents: tuple[Document, ...]
    note_shortened: bool = False
    reason: str = ""
    detail: str = ""


def pair_documents(
    pairs: Sequence[Pair], tokenizer: Tokenizer, row_length: int, template: str, shared_loss: bool
) -> Iterator[FittedPair]:
    """The documents of each pair, which lie in one row, or the one document of an unpaired answer.

    A pair that is longer than a row loses the end of its note, the same in both documents. `shared_loss` keeps the loss
    of tokens that both answers share.
    """
    prompts = tokenizer.encode_batch([render_prompt(template, pair.note, pair.question) for pair in pairs])
    texts = [text.strip() for pair in pairs for text in (pair.chosen, pair.rejected)]
    encoded = iter(encode_continuations(tokenizer, texts))
    for pair, prompt_ids, *answers in zip(pairs, prompts, encoded, encoded, strict=True):
        sides = [
            ([*ids, tokenizer.eos_id], weight)
            for ids, weight in zip(answers, (pair.weight, -pair.weight), strict=True)
            if ids
        ]
        tokens = [ids for ids, _ in sides]
        if not sides or (len(sides) == 2 and tokens[0] == tokens[1]):
            detail = "both answers have the same tokens" if sides else "both answers are empty"
            yield FittedPair((), reason="no_difference", detail=detail)
            continue
        prompt, room = beginning(tokenizer) + prompt_ids, (row_length - sum(map(len, tokens))) // len(sides)
        shortened = len(prompt) > room
        if shortened:
            shortest = encode_prompt(tokenizer, render_prompt(template, pair.note[:1], pair.question))
            if len(shortest) > room:
                total = len(sides) * len(shortest) + sum(map(len, tokens))
                detail = f"the instruction and the answers, {total} tokens, exceed a row of {row_length}"
                yield FittedPair((), reason="longer_than_row", detail=detail)
                continue
            prompt, end = shorten_note(pair, tokenizer, room, template) or (shortest, 1)
            if pair.cites and (lost := lost_citations(pair.note, end, (pair.chosen, pair.rejected))):
                detail = f"the row has no room for the cited sentence {lost}"
                yield FittedPair((), reason="citation_cut", detail=detail)
                continue
        masks = [[True] * len(ids) for ids in tokens]
        if len(sides) == 2 and not shared_loss:
            masks = differing(*tokens)
        documents = [
            Document([*prompt, *ids], [*[False] * len(prompt), *mask], weight)
            for (ids, weight), mask in zip(sides, masks, strict=True)
        ]
        yield FittedPair(tuple(documents), shortened)


def differing(one: Sequence[int], other: Sequence[int]) -> list[list[bool]]:
    """Masks of the tokens between the common beginning and the common end of two different sequences.

    A sequence that lacks what the other has keeps the token that it has in that place, so that neither mask is empty.
    """
    shorter = min(len(one), len(other))
    start = next((place for place in range(shorter) if one[place] != other[place]), shorter)
    tail = 0
    while tail < shorter - start and one[-1 - tail] == other[-1 - tail]:
        tail += 1
    ends = [max(len(ids) - tail, start + 1) for ids in (one, other)]
    return [[start <= place < end for place in range(len(ids))] for ids, end in zip((one, other), ends, strict=True)]
