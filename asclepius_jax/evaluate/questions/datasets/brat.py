"""Reader of brat's standoff format: a text, and a second file with its annotations.

    T4  Sign_symptom 65 70      fever               an entity: type, characters from and to, its words
    E2  Sign_symptom:T4                             an event, given by the entity that triggers it
    R1  MODIFY Arg1:T6 Arg2:E3                      a relation between two of these
    *   OVERLAP E1 E2                               an undirected relation between two or more of them

Attributes (A), notes (#) and normalisations (N) are ignored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.reading.characters import plain_text, plain_text_with_places
from data_prep.contract.tables import raw_text_file


@dataclass(frozen=True)
class Entity:
    id: str
    type: str
    start: int  # in characters; a mention in pieces spans from the first piece's start to the last one's end
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
    """Annotated texts of a folder, sorted by name. Raises UserError if there are none or a line cannot be read."""
    paths = sorted(folder.glob("*.ann")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"{folder} contains no .ann files: give a folder of brat .txt and .ann files")
    for path in paths:
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise UserError(f"{text}, the text of {path.name}, is missing: put it in the same folder")
        yield read(path, raw_text_file(text))


def read(path: Path, text: str) -> Document:
    """One document. Raises UserError with the place of a line that cannot be read.

    text: as it is in the file, because the annotations count its characters. The document has it with plain ones."""
    plain, at = plain_text_with_places(text)
    entities: dict[str, Entity] = {}
    triggers: dict[str, str] = {}
    pairs: list[tuple[str, str, str]] = []
    for number, line in enumerate(raw_text_file(path).splitlines(), 1):
        name, _, rest = line.partition("\t")
        fields = rest.split("\t")[0].split()
        try:
            if name.startswith("T"):
                entities[name] = entity(name, rest, at)
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
            raise UserError(f"{path.name}: a relation refers to {name}, which is not annotated")
        return found

    relations = tuple(Relation(kind, resolved(first), resolved(second)) for kind, first, second in pairs)
    return Document(path.stem, plain, tuple(entities.values()), relations)


def entity(name: str, rest: str, at: list[int]) -> Entity:
    """Entity from a T line. Raises ValueError if the line is malformed or its span lies outside the text.

    at: place in the plain text of each character of the text, and of its end."""
    head, words = rest.split("\t")[:2]
    kind, _, places = head.partition(" ")
    pieces = [tuple(map(int, piece.split())) for piece in places.split(";")]
    start, end = pieces[0][0], pieces[-1][1]
    if not 0 <= start < end < len(at):
        raise ValueError(f"{start} to {end} of {len(at) - 1} characters")
    return Entity(name, kind, at[start], at[end], plain_text(words))
