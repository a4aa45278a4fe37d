"""brat's standoff files: a text, and beside it what was annotated in it.

    T4  Sign_symptom 65 70      fever               an entity: type, characters from and to, its words
    E2  Sign_symptom:T4                             an event, by the entity that triggers it
    R1  MODIFY Arg1:T6 Arg2:E3                      a relation between two of these
    *   OVERLAP E1 E2                               a relation without a direction, of two or more

Attributes (A), notes (#) and normalisations (N) are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets.tables import read_text
from data_prep.contract.errors import UserError


@dataclass(frozen=True)
class Entity:
    id: str
    type: str
    start: int  # characters; of a mention in pieces, the first piece's start and the last one's end
    end: int
    text: str


@dataclass(frozen=True)
class Relation:
    type: str
    first: Entity
    second: Entity


@dataclass(frozen=True)
class Document:
    name: str
    text: str
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]


def documents(folder: Path) -> Iterator[Document]:
    """Every annotated text of a folder, by name; UserError for a folder without any and for a line that is no brat."""
    paths = sorted(folder.glob("*.ann")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"{folder} holds no .ann file: name a folder of brat's .txt and .ann files")
    for path in paths:
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise UserError(f"{path} has no {text.name} beside it: the annotation needs its text")
        yield read(path, read_text(text))


def read(path: Path, text: str) -> Document:
    """One document. UserError for a line that cannot be read, with its place."""
    entities: dict[str, Entity] = {}
    triggers: dict[str, str] = {}
    pairs: list[tuple[str, str, str]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, _, rest = line.partition("\t")
        fields = rest.split("\t")[0].split()
        try:
            if name.startswith("T"):
                entities[name] = entity(name, rest, text)
            elif name.startswith("E"):
                triggers[name] = fields[0].split(":")[1]
            elif name.startswith("R"):
                pairs.append((fields[0], fields[1].split(":")[1], fields[2].split(":")[1]))
            elif name == "*":
                pairs += [(fields[0], first, second) for first, second in combinations(fields[1:], 2)]
        except (IndexError, ValueError) as error:
            raise UserError(f"{path.name}:{number}: not a line of brat: {line[:80]!r}") from error

    def resolved(name: str) -> Entity:
        found = entities.get(triggers.get(name, name))
        if found is None:
            raise UserError(f"{path.name}: a relation names {name}, which is not annotated")
        return found

    relations = tuple(Relation(kind, resolved(first), resolved(second)) for kind, first, second in pairs)
    return Document(path.stem, text, tuple(entities.values()), relations)


def entity(name: str, rest: str, text: str) -> Entity:
    """ValueError where the span does not lie in the text."""
    head, words = rest.split("\t")[:2]
    kind, _, places = head.partition(" ")
    pieces = [tuple(map(int, piece.split())) for piece in places.split(";")]
    start, end = pieces[0][0], pieces[-1][1]
    if not 0 <= start < end <= len(text):
        raise ValueError(f"{start} to {end} of {len(text)} characters")
    return Entity(name, kind, start, end, words)
