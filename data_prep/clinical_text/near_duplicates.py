"""Detection of near-duplicate texts, and of runs of words that one text shares with another."""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO
from zlib import crc32

import numpy as np

from data_prep.clinical_text.words import UNSPACED

SHINGLE_WORDS = 5
# Hash functions of MinHash; the standard error of an estimated similarity is at most 0.5 / sqrt(PERMUTATIONS) = 0.044.
PERMUTATIONS = 128
# The least probability with which a pair at the threshold is compared exactly.
RECALL = 0.999
STANDARD_ERRORS = 4  # by which an estimate may be below the threshold for the pair to be compared exactly
RUN_WORDS = 13  # Words. Texts share shorter runs by chance, clinical charts above all.
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
RANDOM = np.random.default_rng(0)
MULTIPLIERS, SCALES, OFFSETS = (
    RANDOM.integers(2**64, size=size, dtype=np.uint64) | odd
    for size, odd in ((SHINGLE_WORDS, np.uint64(1)), (PERMUTATIONS, np.uint64(1)), (PERMUTATIONS, np.uint64(0)))
)
INVISIBLE = ("Mn", "Cf")  # Unicode categories: accents that stand alone, and characters such as the soft hyphen


def words_of(text: str) -> list[str]:
    """The words of a text without case, accents and invisible characters, the same for all its Unicode forms."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(letter for letter in decomposed if unicodedata.category(letter) not in INVISIBLE)
    return WORD.findall(text.casefold())


def runs(words: list[str], length: int) -> Iterator[str]:
    """Every run of `length` words; the whole text if it is shorter."""
    for start in range(max(1, len(words) - length + 1)):
        yield " ".join(words[start : start + length])


def shingles_of(text: str) -> np.ndarray:
    """(n,) uint32, sorted: a hash of every distinct run of five words, or of the whole text if it is shorter."""
    words = np.array([crc32(word.encode()) for word in words_of(text) or [""]], np.uint64)
    length = min(SHINGLE_WORDS, len(words))
    count = len(words) - length + 1
    hashes = np.zeros(count, np.uint64)
    for position in range(length):
        hashes += words[position : position + count] * MULTIPLIERS[position]
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))


def signature_of(shingles: np.ndarray) -> np.ndarray:
    """(PERMUTATIONS,) uint32: the MinHash signature. The share of places where two agree estimates their similarity."""
    scrambled = shingles.astype(np.uint64)[:, None] * SCALES + OFFSETS
    return (scrambled >> np.uint64(32)).min(axis=0).astype(np.uint32)


class NearDuplicates:
    """Texts of which an earlier one, of another owner, is a near duplicate.

    MinHash finds the pairs worth a look, so that nearly none is missed; the exact Jaccard similarity of their runs of
    five words decides. A text needs about 0.5 kB of memory, and 4 bytes a word in a file.

    Args:
        threshold: the least similarity of two near duplicates, above 0 and at most 1.
        file: a temporary file for the runs of all texts, open for reading and writing.
    """

    def __init__(self, threshold: float, file: IO[bytes]):
        self.threshold, self.file = threshold, file
        self.signatures, self.owners, self.ends = array("I"), array("q"), array("q", [0])

    def add(self, shingles: np.ndarray, owner: int) -> None:
        """Add the next text by its `shingles_of`."""
        self.file.write(shingles.tobytes())
        self.ends.append(self.ends[-1] + len(shingles))
        self.signatures.frombytes(signature_of(shingles).tobytes())
        self.owners.append(owner)

    def pairs(self) -> dict[int, int]:
        """{text: an earlier near duplicate of another owner}, both as numbers in the order of `add`."""
        signatures = np.frombuffer(self.signatures, np.uint32).reshape(-1, PERMUTATIONS)
        owners = np.frombuffer(self.owners, np.int64)
        found: dict[int, int] = {}
        apart: set[tuple[int, int]] = set()  # pairs that proved too different
        for alike in groups_of_alike(signatures, rows_of_a_band(self.threshold)):
            for place, text in enumerate(alike[1:].tolist(), 1):
                if text in found:
                    continue
                for earlier in self.likely(signatures, text, alike[:place][owners[alike[:place]] != owners[text]]):
                    if (earlier, text) in apart:
                        continue
                    if self.similarity(earlier, text) >= self.threshold:
                        found[text] = earlier
                        break
                    apart.add((earlier, text))
        return dict(sorted(found.items()))

    def likely(self, signatures: np.ndarray, text: int, others: np.ndarray) -> Sequence[int]:
        """Those of `others` whose estimated similarity may come from one at the threshold, most similar first."""
        estimates = (signatures[others] == signatures[text]).mean(axis=1)
        error = (self.threshold * (1 - self.threshold) / PERMUTATIONS) ** 0.5
        order = np.argsort(-estimates, kind="stable")
        likely: list[int] = others[order][estimates[order] >= self.threshold - STANDARD_ERRORS * error].tolist()
        return likely

    def similarity(self, one: int, other: int) -> float:
        """The Jaccard similarity of two texts: the share of their distinct runs that both have."""
        first, second = self.shingles(one), self.shingles(other)
        common = len(np.intersect1d(first, second, assume_unique=True))
        return common / (len(first) + len(second) - common)

    def shingles(self, text: int) -> np.ndarray:
        start, end = self.ends[text], self.ends[text + 1]
        self.file.seek(4 * start)
        return np.frombuffer(self.file.read(4 * (end - start)), np.uint32)


def rows_of_a_band(threshold: float) -> int:
    """The most places of a signature that may have to agree for a pair at the threshold to be found with RECALL."""
    fits = [
        rows for rows in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= RECALL
    ]
    return max(fits, default=1)


def groups_of_alike(signatures: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Groups of two or more texts, in order, whose signatures agree in one of the bands of `rows` places."""
    for first in range(0, PERMUTATIONS - rows + 1, rows):
        band = np.zeros(len(signatures), np.uint64)
        for column in range(first, first + rows):
            band = (band ^ signatures[:, column]) * MULTIPLIERS[0]
            band ^= band >> np.uint64(29)
        order = np.argsort(band, kind="stable")
        edges = np.flatnonzero(np.diff(band[order], prepend=~band[order[:1]], append=~band[order[-1:]]))
        for group in np.flatnonzero(np.diff(edges) > 1):
            yield order[edges[group] : edges[group + 1]]


class Contamination:
    """An index of the runs of words in evaluation texts, which no training text may contain."""

    def __init__(self) -> None:
        self.runs: dict[int, str] = {}  # hash of a run -> where it occurs
        self.texts = self.short = 0  # number of texts, and of those that have too few words for a run

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """Add evaluation texts, given as (where, text) pairs."""
        for where, text in texts:
            words = words_of(text)
            self.texts += 1
            self.short += len(words) < RUN_WORDS
            if len(words) >= RUN_WORDS:
                for run in runs(words, RUN_WORDS):
                    self.runs.setdefault(hash(run), where)

    def find(self, text: str) -> tuple[str, str] | None:
        """The first run of the text that also occurs in an evaluation text, as (where, run); None if there is none."""
        words = words_of(text)
        if len(words) < RUN_WORDS or not self.runs:
            return None
        return next(((self.runs[hash(run)], run) for run in runs(words, RUN_WORDS) if hash(run) in self.runs), None)


def longest_run(text: str, source: str) -> list[str]:
    """The longest run of words that a text shares with its source."""
    from difflib import SequenceMatcher

    words, source_words = words_of(text), words_of(source)
    found = SequenceMatcher(None, words, source_words, autojunk=False).find_longest_match()
    return words[found.a : found.a + found.size]


def copied_share(text: str, source: str, length: int = RUN_WORDS) -> float:
    """The fraction of a text's runs of `length` words that also occur in its source; 0 if the text is shorter."""
    words = words_of(text)
    if len(words) < length:
        return 0.0
    source_runs = set(runs(words_of(source), length))
    text_runs = list(runs(words, length))
    return sum(run in source_runs for run in text_runs) / len(text_runs)
