"""The types of atoms and tokens, and the spans of a sentence that are already assigned to atoms."""

from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = (
    "number", "quantity", "dose", "frequency", "date", "duration", "age", "code", "side", "finding", "negated finding",
    "drug", "test", "procedure", "abbreviation", "trend", "severity", "result", "treatment", "order", "outcome",
    "certainty", "person", "quality",
)  # fmt: skip


class Token(NamedTuple):
    """A word of a sentence: its stem and its offsets."""

    stem: str
    start: int
    end: int


@dataclass(frozen=True)
class Atom:
    """A checkable fact.

    `value` is compared with the source: a magnitude in the base unit of its dimension, a date, the stems of a name.
    `thing` is the adjacent term that the value belongs to, such as the test of a result or the drug of a dose.
    """

    kind: str
    text: str
    start: int
    end: int
    value: tuple[str | float | int | None, ...]
    thing: tuple[str, ...] = ()
    statuses: frozenset[str] = frozenset()  # as `clinical_text.statuses` reads them: absent, suspected, of a relative

    @property
    def amount(self) -> float:
        """The magnitude of a number, quantity, frequency, age or duration."""
        first = self.value[0]
        assert isinstance(first, int | float), self
        return float(first)


@dataclass
class Taken:
    """The spans of a sentence that one reader has used and later readers must skip."""

    spans: list[tuple[int, int]] = field(default_factory=list)

    def free(self, start: int, end: int) -> bool:
        return all(end <= first or last <= start for first, last in self.spans)

    def take(self, start: int, end: int) -> None:
        self.spans.append((start, end))
