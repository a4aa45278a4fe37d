"""What can be checked in a sentence: its atoms, from all readers, and the words that they stand among.

read("Aspirin 100 mg bid for 2 weeks.").atoms
-> drug aspirin, dose 100 mg, frequency 2 a day, duration 14 days
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from data_prep.clinical_text.sentences import CITATION, FIGURE_REFERENCE, split_sentences
from data_prep.clinical_text.words import EMPTY, TOKEN, stem
from data_prep.faithfulness.atoms.dates import ORDINALS, find_times
from data_prep.faithfulness.atoms.kinds import Atom, Taken
from data_prep.faithfulness.atoms.quantities import SPELLED, find_quantities
from data_prep.faithfulness.atoms.sides import find_sides
from data_prep.faithfulness.atoms.terms import find_terms, short_forms

# How far a clause reaches to either side of an atom, in words that carry meaning.
NEAR = 7
# What any number, time or frequency holds; two in five sentences have none and are done with here.
COUNTED = re.compile(
    rf"\d|\b(?:{SPELLED}|one|half|once|twice|thrice|an? (?:second|minute|hour|day|week|month|year|decade)|every"
    rf"|each|per"
    rf"|{'|'.join(ORDINALS)}|[bt]id|qid|qd|qhs|qod|[btq]\.[ihd]\.|daily|nightly|hourly|weekly|biweekly|monthly"
    rf"|yearly|annually"
    r"|at bedtime|(?:grade|stage|type|class|phase|level|group|zone|category|NYHA|ASA) [IV]|Jan|Feb|Mar|Apr|May|Jun"
    r"|Jul|Aug"
    r"|Sep|Oct|Nov|Dec)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """One sentence as the gate sees it."""

    text: str
    atoms: tuple[Atom, ...]
    words: tuple[tuple[str, int, int], ...]  # (stem, start, end) of each word
    stems: frozenset[str]  # small letters, and abbreviations as they are written
    shorts: tuple[tuple[str, int, int], ...]  # tokens in capitals

    def near(self, atom: Atom) -> frozenset[str]:
        """The words around an atom that carry meaning, without its own; in a list, of its item."""
        first = self.text.rfind(";", 0, atom.start) + 1
        last = self.text.find(";", atom.end)
        last = len(self.text) if last < 0 else last
        item = [(w, s, e) for w, s, e in self.words if first <= s and e <= last]
        around = [(w, s) for w, s, e in item if (e <= atom.start or s >= atom.end) and tells(w)]
        before = [w for w, s in around if s < atom.start][-NEAR:]
        after = [w for w, s in around if s >= atom.end][:NEAR]
        return frozenset(before + after)


def tells(word: str) -> bool:
    return word not in EMPTY and not word[0].isdigit()


@lru_cache(maxsize=8192)
def read(sentence: str) -> Reading:
    words = tuple((stem(match[0]), match.start(), match.end()) for match in TOKEN.finditer(sentence))
    shorts = tuple(short_forms(sentence))
    taken = Taken()
    for pattern in (FIGURE_REFERENCE, CITATION):
        for match in pattern.finditer(sentence):
            taken.take(match.start(), match.end())
    terms = find_terms(sentence)
    # A number within a name is part of the name: "vitamin B12", "CA 19-9".
    for term in terms:
        taken.take(term.start, term.end)
    atoms: list[Atom] = []
    if COUNTED.search(sentence):
        atoms += [*find_times(sentence, taken), *find_quantities(sentence, taken, terms)]
    atoms += [term for term in terms if term.kind != "site"]
    atoms += find_sides(sentence, words)
    # "afebrile" speaks of fever.
    said = [w for term in terms for w in term.value if isinstance(w, str)]
    stems_here = frozenset([w for w, _, _ in words] + [s for s, _, _ in shorts] + said)
    return Reading(sentence, tuple(sorted(atoms, key=lambda atom: atom.start)), words, stems_here, shorts)


def read_text(text: str) -> list[Reading]:
    return [read(sentence) for sentence in split_sentences(text)]
