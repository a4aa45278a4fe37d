"""Detection of near-duplicate texts, and of runs of words that one text shares with another."""

import re
from collections.abc import Iterable, Iterator

SHINGLE_WORDS = 5
# Hash functions of MinHash; the standard error of an estimated similarity is about 1 / sqrt(PERMUTATIONS).
PERMUTATIONS = 128
RUN_WORDS = 13  # Words. Texts share shorter runs by chance, clinical charts above all.
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def runs(words: list[str], length: int) -> Iterator[str]:
    """Every run of `length` words; the whole text if it is shorter."""
    for start in range(max(1, len(words) - length + 1)):
        yield " ".join(words[start : start + length])


class NearDuplicates:
    """An index of earlier texts: MinHash over runs of five words, searched by locality-sensitive hashing.

    `threshold` is the least Jaccard similarity of two texts' runs, from 0 to 1, at which they count as near duplicates.
    """

    def __init__(self, threshold: float):
        from datasketch import MinHashLSH

        self.threshold = threshold
        # The index is a first sieve, whose bands cannot be chosen for thresholds near 1.
        self.index = MinHashLSH(threshold=min(threshold, 0.98), num_perm=PERMUTATIONS)
        self.signatures: dict[str, object] = {}

    def earlier(self, name: str, text: str) -> list[str]:
        """The names of the earlier near duplicates of a text, most similar first; then add the text to the index."""
        from datasketch import MinHash

        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([run.encode() for run in runs(words_of(text), SHINGLE_WORDS)])
        alike = {other: signature.jaccard(self.signatures[other]) for other in self.index.query(signature)}
        self.index.insert(name, signature)
        self.signatures[name] = signature
        near = [other for other, similarity in alike.items() if similarity >= self.threshold]
        return sorted(near, key=lambda other: (-alike[other], other))


class Contamination:
    """An index of the runs of words in evaluation texts, which no training text may contain."""

    def __init__(self) -> None:
        self.runs: dict[int, str] = {}  # hash of a run -> where it occurs

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """Add evaluation texts, given as (where, text) pairs."""
        for where, text in texts:
            words = words_of(text)
            if len(words) >= RUN_WORDS:
                for run in runs(words, RUN_WORDS):
                    self.runs.setdefault(hash(run), where)

    def find(self, text: str) -> tuple[str, str] | None:
        """The first run of the text that also occurs in an evaluation text, as (where, run); None if there is none."""
        words = words_of(text)
        if len(words) < RUN_WORDS:
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
