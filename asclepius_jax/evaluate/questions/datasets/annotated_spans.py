"""Questions about annotated texts: entities, relations, order in time and coreference.

The corpora differ in their files and in the names of their annotations. Instructions and references are the same.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from asclepius_jax.evaluate.questions.datasets.brat import Entity, Relation
from asclepius_jax.evaluate.questions.datasets.references import dump, normal
from asclepius_jax.evaluate.records import Question
from data_prep.contract.records import seeded_fraction

# Limits per note, so that an answer does not become a test of patience.
MOST_PAIRS = 10
MOST_CLUSTERS = 5
ORDERS = ("before", "after", "overlap")


@dataclass(frozen=True)
class Link:
    """Kind of relation to ask for."""

    types: tuple[str, ...]  # relation types
    first: tuple[str, ...]  # types of the first entity; empty for any
    second: tuple[str, ...]
    instruction: str


def find_words(words: str, note: str) -> tuple[int, int]:
    """First place (start, end) of whole words in a note, whatever their case and spacing; (-1, -1) if absent."""
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words.split())) + r"(?!\w)"
    match = re.search(pattern, note, re.IGNORECASE)
    return match.span() if match else (-1, -1)


def question(base: Question, suffix: str, task: str, instruction: str, reference: str) -> Question:
    """Question on the note of `base`, which also gives its source."""
    return replace(base, id=f"{base.note_id}-{suffix}", task=task, instruction=instruction, reference=reference)


def entity_question(base: Question, entities: Iterable[Entity], names: dict[str, str]) -> Question | None:
    """Question for all mentions of some types, each once; None if there are none.

    names: annotation types and the plain words for them."""
    types = list(dict.fromkeys(names.values()))
    gold: dict[tuple[str, str], list] = {}
    for entity in sorted(entities, key=lambda entity: entity.start):
        if entity.type in names and normal(entity.text):
            name = names[entity.type]
            gold.setdefault((name, normal(entity.text)), [name, entity.start, entity.end, entity.text])
    if not gold:
        return None
    kinds = ", ".join(types)
    instruction = (
        f"List what the note names of these types: {kinds}. Give each one once, in the words of the note, one a line, "
        f'as "type: words".'
    )
    reference = dump("entities", types=types, gold=list(gold.values()))
    return question(base, "entities", "Named Entity Recognition", instruction, reference)


def link_questions(base: Question, relations: Iterable[Relation], links: Sequence[Link]) -> list[Question]:
    """One question for each kind of relation that occurs in the note."""
    relations = list(relations)
    made = []
    for number, link in enumerate(links):
        pairs = dict.fromkeys(
            (relation.first.text, relation.second.text)
            for relation in relations
            if relation.type in link.types
            and (not link.first or relation.first.type in link.first)
            and (not link.second or relation.second.type in link.second)
        )
        gold = [list(pair) for pair in pairs if all(map(normal, pair))]
        if gold:
            reference = dump("pairs", gold=gold)
            made.append(question(base, f"relation{number}", "Relation Extraction", link.instruction, reference))
    return made


def occurs_once(words: str, note: str) -> bool:
    return len(re.findall(r"(?<!\w)" + re.escape(words) + r"(?!\w)", note, re.IGNORECASE)) == 1


def order_question(
    base: Question, pairs: Iterable[tuple[str, str, str]], seed: int, instruction: str = ""
) -> Question | None:
    """Question about the order in time of some pairs; None if there are none to ask about.

    pairs: (first, one of ORDERS, second). Pairs whose words occur more than once in the note are skipped, as are pairs
    annotated with contradicting orders."""
    annotated: dict[tuple[str, str], set[str]] = {}
    swapped = {"before": "after", "after": "before", "overlap": "overlap"}
    for first, order, second in pairs:
        a, b = (first, second) if first <= second else (second, first)
        annotated.setdefault((a, b), set()).add(order if a == first else swapped[order])
    clear = [
        (a, b, next(iter(orders)))
        for (a, b), orders in annotated.items()
        if len(orders) == 1 and a != b and occurs_once(a, base.note) and occurs_once(b, base.note)
    ]
    # Seeded, so that the choice follows neither the position in the note nor the alphabet. About half of the pairs are
    # turned around, so that no order is more frequent by construction.
    drawn = sorted(clear, key=lambda pair: seeded_fraction(seed, base.note_id, *pair))
    # Annotators mark overlapping events in large groups. Without a quota, hardly any pair would have an order.
    ordered = [pair for pair in drawn if pair[2] != "overlap"][: MOST_PAIRS - MOST_PAIRS // 3]
    rest = [pair for pair in drawn if pair[2] == "overlap"][: MOST_PAIRS // 3]
    chosen = sorted(ordered + rest, key=lambda pair: seeded_fraction(seed, "place", base.note_id, *pair))
    turned = [
        (b, a, swapped[order]) if seeded_fraction(seed, "turn", base.note_id, a, b) < 0.5 else (a, b, order)
        for a, b, order in chosen
    ]
    if not turned:
        return None
    lines = "\n".join(f'{number}. "{a}" and "{b}"' for number, (a, b, _) in enumerate(turned, 1))
    text = instruction or (
        "For each numbered pair from the note, say whether the first happened before the second, after it, or whether "
        'they overlap in time. Answer one line a pair, as "number. before", "number. after" or "number. overlap".'
    )
    reference = dump("labels", options=list(ORDERS), gold=[order for _, _, order in turned])
    return question(base, "order", "Temporal Information Extraction", f"{text}\n{lines}", reference)


def chains(links: Iterable[tuple[Entity, Entity]]) -> list[list[Entity]]:
    """Groups of entities that are linked directly or through others, each in the order of the text."""
    group: dict[str, dict[str, Entity]] = {}
    for first, second in links:
        merged = {**group.get(first.id, {first.id: first}), **group.get(second.id, {second.id: second})}
        group.update(dict.fromkeys(merged, merged))
    unique = {id(members): members for members in group.values()}
    return [sorted(members.values(), key=lambda entity: (entity.start, entity.end)) for members in unique.values()]


def coreference_questions(base: Question, groups: Iterable[Sequence[Entity]], seed: int) -> list[Question]:
    """Questions that give the last mention of a chain in its sentence and ask for the other expressions.

    Chains that use the same words throughout are skipped. At most MOST_CLUSTERS questions per note."""
    made: list[Question] = []
    chosen = sorted(groups, key=lambda group: seeded_fraction(seed, base.note_id, group[0].start))
    for group in chosen:
        last = group[-1]
        others: dict[str, list] = {}
        for entity in group[:-1]:
            if normal(entity.text) not in ("", normal(last.text)):
                others.setdefault(normal(entity.text), ["mention", entity.start, entity.end, entity.text])
        if not others or len(made) == MOST_CLUSTERS:
            continue
        instruction = (
            f'Which other expressions in the note stand for the same thing as "{one_line(last.text)}" in '
            f'"{sentence_around(last, base.note)}"? Give each one once, in the words of the note, one a line.'
        )
        reference = dump("entities", types=["mention"], gold=list(others.values()))
        made.append(question(base, f"same{len(made)}", "Coreference Resolution", instruction, reference))
    return made


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def sentence_around(entity: Entity, note: str) -> str:
    """Text around an entity, from the previous sentence end or line break to the next."""
    before = [match.end() for match in re.finditer(r"[.!?]\s+|\n", note[: entity.start])]
    after = re.search(r"[.!?](?=\s|$)|\n", note[entity.end :])
    end = entity.end + after.start() if after else len(note)
    return one_line(note[before[-1] if before else 0 : end])
