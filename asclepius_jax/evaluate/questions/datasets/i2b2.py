"""Shared tasks of i2b2, as n2c2 distributes them, each unpacked into a folder.

2010, concepts and relations: in any subfolders (concept/, rel/, txt/)
    record-13.txt    one sentence per line, words separated by spaces
    record-13.con    c="chest pain" 2:4 2:5||t="problem"                     lines count from 1, words from 0
    record-13.rel    c="aspirin" 3:0 3:0||r="TrAP"||c="chest pain" 2:4 2:5
2011, coreference: in any subfolders (docs/, chains/)
    clinical-1.txt
    clinical-1.txt.chains    c="patient" 12:0 12:0||c="mr. smith" 19:0 19:1||t="coref person"
2012, order in time:
    12.xml    <ClinicalNarrativeTemporalAnnotation> <TEXT> ... </TEXT> <TAGS>
              <EVENT id="E1" start="1" end="9" text="admission" type="OCCURRENCE" ... />
              <TLINK id="TL0" fromID="E1" fromText="admission" toID="E0" toText="..." type="BEFORE" />
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from asclepius_jax.evaluate.questions.datasets import annotated_spans
from asclepius_jax.evaluate.questions.datasets.annotated_spans import Link
from asclepius_jax.evaluate.questions.datasets.brat import Entity, Relation
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.reading.characters import plain_text_with_places
from data_prep.contract.tables import raw_text_file, read_text_file

CONCEPT = re.compile(r'c="(.*?)" (\d+):(\d+) (\d+):(\d+)')
CONCEPT_LINE = re.compile(CONCEPT.pattern + r'\|\|t="(\w+)"\s*')
RELATION_LINE = re.compile(CONCEPT.pattern + r'\|\|r="(\w+)"\|\|' + CONCEPT.pattern + r"\s*")
TYPES = {"problem": "problem", "test": "test", "treatment": "treatment"}
AS_PAIRS = "Use the words of the note, one pair a line, as"
LINKS = (
    Link(
        ("TrAP",),
        (),
        (),
        f'For each treatment in the note that was given for a problem, name that problem. {AS_PAIRS} "treatment -> '
        'problem".',
    ),
    Link(
        ("TrIP", "TrWP", "TrCP"),
        (),
        (),
        f'Which treatments in the note improved, worsened or caused a problem? {AS_PAIRS} "treatment -> problem".',
    ),
    Link(
        ("TrNAP",),
        (),
        (),
        "Which treatments in the note were stopped or not given because of a problem? "
        f'{AS_PAIRS} "treatment -> problem".',
    ),
    Link(
        ("TeRP", "TeCP"),
        (),
        (),
        f'Which tests in the note revealed a problem or were done to look for one? {AS_PAIRS} "test -> problem".',
    ),
    Link(("PIP",), (), (), f'Which problems in the note indicate another one? {AS_PAIRS} "problem -> problem".'),
)
ORDERS = {"BEFORE": "before", "AFTER": "after", "OVERLAP": "overlap", "SIMULTANEOUS": "overlap"}
# Ampersands that begin no entity, which some files of 2012 contain unescaped. CDATA sections are matched as a whole,
# because their ampersands must stay unescaped.
BARE = re.compile(r"(<!\[CDATA\[.*?\]\]>)|&(?!#?\w+;)", re.DOTALL)


class Words:
    """Text with the positions of its words by line, as i2b2 counts them."""

    def __init__(self, text: str):
        self.text, at = plain_text_with_places(text)
        self.starts: list[list[tuple[int, int]]] = []
        place = 0
        for line in text.split("\n"):
            spans = ((place + match.start(), place + match.end()) for match in re.finditer(r"\S+", line))
            self.starts.append([(at[start], at[end]) for start, end in spans])
            place += len(line) + 1

    def entity(self, kind: str, places: tuple[str, str, str, str], name: str) -> Entity:
        """Entity at the given words. Raises ValueError if the text has no such words.

        places: first line and word, last line and word."""
        line, word, last_line, last_word = map(int, places)
        try:
            start = self.starts[line - 1][word][0]
            end = self.starts[last_line - 1][last_word][1]
        except IndexError as error:
            raise ValueError(f"{name}: the text has no words {line}:{word} to {last_line}:{last_word}") from error
        return Entity(f"{start}-{end}", kind, start, end, self.text[start:end])


def annotations(source: Path, suffix: str) -> list[tuple[str, Path, str]]:
    """Name, annotation file and text of every annotated record below the folder."""
    found = {}
    for path in sorted(source.rglob(f"*{suffix}")) if source.is_dir() else []:
        found[path.name.removesuffix(suffix).removesuffix(".txt")] = path
    if not found:
        raise UserError(f"{source} contains no *{suffix} files: give the unpacked folder of the shared task")
    texts = {path.stem: path for path in source.rglob("*.txt")}
    if missing := [name for name in found if name not in texts]:
        raise UserError(f"{source} contains no {missing[0]}.txt, the text of {found[missing[0]].name}")
    return [(name, path, raw_text_file(texts[name])) for name, path in found.items()]


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, each with its place (file:line)."""
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}:{number}", line.strip()


def entity_of(words: Words, kind: str, groups: tuple, place: str) -> Entity:
    try:
        return words.entity(kind, groups[1:5], groups[0])
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def record(name: str, text: str, year: str) -> Question:
    return Question("", f"i2b2-{year}-{name}", "", text, "", "", "clinical record", f"i2b2 {year}", "", restricted=True)


def concepts(source: Path, seed: int) -> Iterator[Question]:
    """2010: questions about entities, and about relations if there are .rel files."""
    relations = {path.name.removesuffix(".rel"): path for path in source.rglob("*.rel")}
    for name, path, text in annotations(source, ".con"):
        words = Words(text)
        base = record(name, words.text, "2010")
        entities = []
        for place, line in lines_of(path):
            match = CONCEPT_LINE.fullmatch(line)
            if match is None:
                raise UserError(f'{place}: not a concept such as c="pain" 2:4 2:4||t="problem": {line[:80]!r}')
            entities.append(entity_of(words, match[6].lower(), match.groups(), place))
        if asked := annotated_spans.entity_question(base, entities, TYPES):
            yield asked
        if name in relations:
            yield from annotated_spans.link_questions(base, linked(relations[name], words), LINKS)


def linked(path: Path, words: Words) -> Iterator[Relation]:
    for place, line in lines_of(path):
        match = RELATION_LINE.fullmatch(line)
        if match is None:
            raise UserError(f'{place}: not a relation such as c="x" 1:0 1:0||r="TrAP"||c="y" 1:2 1:2: {line[:80]!r}')
        first = entity_of(words, "", match.groups()[:5], place)
        second = entity_of(words, "", match.groups()[6:11], place)
        yield Relation(match[6], first, second)


def coreference(source: Path, seed: int) -> Iterator[Question]:
    """2011: questions about chains of mentions, without persons, nearly all of whom are the patient."""
    for name, path, text in annotations(source, ".chains"):
        words, groups = Words(text), []
        for place, line in lines_of(path):
            kind = re.search(r't="(?:coref )?(\w+)"$', line)
            mentions = [entity_of(words, "mention", match.groups(), place) for match in CONCEPT.finditer(line)]
            if kind is None or len(mentions) < 2:
                raise UserError(f'{place}: not a chain such as c="x" 1:0 1:0||c="y" 2:0 2:1||t="coref problem"')
            if kind[1].lower() != "person":
                groups.append(sorted(mentions, key=lambda mention: mention.start))
        yield from annotated_spans.coreference_questions(record(name, words.text, "2011"), groups, seed)


def temporal(source: Path, seed: int) -> Iterator[Question]:
    """2012: questions about the order of events, without dates and times, whose order is evident."""
    paths = sorted(source.rglob("*.xml")) if source.is_dir() else []
    if not paths:
        raise UserError(f"{source} contains no .xml files: give the unpacked folder of the shared task")
    for path in paths:
        try:
            root = ElementTree.fromstring(BARE.sub(lambda match: match[1] or "&amp;", read_text_file(path)))
        except ElementTree.ParseError as error:
            raise UserError(f"{path}: not XML ({error})") from error
        text, tags = root.findtext("TEXT"), root.find("TAGS")
        if text is None or tags is None:
            raise UserError(f"{path}: TEXT or TAGS is missing, so this is not a file of the 2012 task")
        events = {event.get("id"): annotated_spans.one_line(event.get("text", "")) for event in tags.iter("EVENT")}
        pairs = [
            (events[link.get("fromID")], ORDERS[link.get("type", "")], events[link.get("toID")])
            for link in tags.iter("TLINK")
            if link.get("type") in ORDERS and link.get("fromID") in events and link.get("toID") in events
        ]
        base = record(path.stem.removesuffix(".xml"), text.strip(), "2012")
        if asked := annotated_spans.order_question(base, pairs, seed):
            yield asked
