"""The analysis of a sentence: its atoms, from all readers, and its words.

read("Aspirin 100 mg bid for 2 weeks.").atoms
-> drug aspirin, dose 100 mg, frequency 2 per day, duration 14 days
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from data_prep.clinical_text.number_words import MONTH, ORDINALS, SPELLED
from data_prep.clinical_text.sentences import CITATION, FIGURE_REFERENCE
from data_prep.clinical_text.words import EMPTY, TOKEN, stem
from data_prep.faithfulness.atoms.dates import find_times
from data_prep.faithfulness.atoms.kinds import Atom, Taken, Token
from data_prep.faithfulness.atoms.quantities import find_quantities
from data_prep.faithfulness.atoms.sides import find_sides
from data_prep.faithfulness.atoms.terms import find_terms, short_forms

# Number of content words to either side of an atom that count as its clause.
NEAR = 7
# Every number, time and frequency matches this pattern; two in five sentences do not and need no further search.
COUNTED = re.compile(
    rf"\d|\b(?:{SPELLED}|one|half|once|twice|thrice|an? (?:second|minute|hour|day|week|month|year|decade)|every"
    rf"|each|per"
    rf"|{'|'.join(ORDINALS)}|[bt]id|qid|qd|qhs|qod|[btq]\.[ihd]\.|daily|nightly|hourly|weekly|biweekly|monthly"
    rf"|yearly|annually"
    r"|at bedtime|fortnight(?:ly)?|annual|alternat(?:e|ing) days?"
    r"|(?:grade|stage|type|class|phase|level|group|zone|segment|category|NYHA|ASA) [IV]"
    rf"|{MONTH}|(?-i:[B-E]|(?<=[a-z] )A|[IVX]{{1,4}})\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """One sentence with its atoms and words."""

    text: str
    atoms: tuple[Atom, ...]
    words: tuple[Token, ...]
    stems: frozenset[str]  # stems of all words in lower case, and abbreviations in their original case
    shorts: tuple[tuple[str, int, int], ...]  # (abbreviation, start, end)

    def near(self, atom: Atom) -> frozenset[str]:
        """The stems of content words within NEAR words of the atom, within the same item of a list; not its own."""
        item_start = self.text.rfind(";", 0, atom.start) + 1
        item_end = self.text.find(";", atom.end)
        item_end = len(self.text) if item_end < 0 else item_end
        content = [
            token
            for token in self.words
            if item_start <= token.start and token.end <= item_end and is_content(token.stem)
        ]
        before = [token.stem for token in content if token.end <= atom.start][-NEAR:]
        after = [token.stem for token in content if token.start >= atom.end][:NEAR]
        return frozenset(before + after)


def is_content(word: str) -> bool:
    return word not in EMPTY and not word[0].isdigit()


@lru_cache(maxsize=8192)
def read(sentence: str) -> Reading:
    words = tuple(Token(stem(match[0]), match.start(), match.end()) for match in TOKEN.finditer(sentence))
    shorts = tuple(short_forms(sentence))
    taken = Taken()
    for pattern in (FIGURE_REFERENCE, CITATION):
        for match in pattern.finditer(sentence):
            taken.take(match.start(), match.end())
    terms = find_terms(sentence)
    # A number inside a name is part of the name: "vitamin B12", "CA 19-9".
    for term in terms:
        taken.take(term.start, term.end)
    atoms: list[Atom] = []
    if COUNTED.search(sentence):
        atoms += [*find_times(sentence, taken), *find_quantities(sentence, taken, terms)]
    atoms += [term for term in terms if term.kind != "site"]
    atoms += find_sides(sentence, words)
    # "afebrile" is about fever.
    term_stems = [word for term in terms for word in term.value if isinstance(word, str)]
    stems = frozenset([token.stem for token in words] + [short for short, _, _ in shorts] + term_stems)
    return Reading(sentence, tuple(sorted(atoms, key=lambda atom: atom.start)), words, stems, shorts)
