"""The type of an atom, and which characters of a sentence are spoken for."""

from dataclasses import dataclass, field

KINDS = (
    "number", "quantity", "dose", "frequency", "date", "duration", "age", "code", "side", "finding", "negated finding",
    "drug", "test", "procedure", "abbreviation",
)  # fmt: skip


@dataclass(frozen=True)
class Atom:
    """A fact that can be checked.

    `value` is what is compared: a magnitude in the dimension's own unit, a date, the stems of a name. `thing` is what
    stands right beside it: the test that a value belongs to, the drug of a dose.
    """

    kind: str
    text: str
    start: int
    end: int
    value: tuple[str | float | int | None, ...]
    thing: tuple[str, ...] = ()

    @property
    def amount(self) -> float:
        """The magnitude of what is counted or measured."""
        first = self.value[0]
        assert isinstance(first, int | float), self
        return float(first)


@dataclass
class Taken:
    """Spans of a sentence that a reader has used; a later reader leaves them alone."""

    spans: list[tuple[int, int]] = field(default_factory=list)

    def free(self, start: int, end: int) -> bool:
        return all(end <= first or last <= start for first, last in self.spans)

    def take(self, start: int, end: int) -> None:
        self.spans.append((start, end))
