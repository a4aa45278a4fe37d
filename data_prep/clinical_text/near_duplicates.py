"""Texts that are nearly the same, and texts that hold a run of another's words."""

import re
from collections.abc import Iterable, Iterator

SHINGLE_WORDS = 5
# Of MinHash: the standard error of an estimated similarity is about 1 / sqrt(PERMUTATIONS).
PERMUTATIONS = 128
RUN_WORDS = 13  # that two texts share: fewer happen by chance, in charts above all
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def runs(words: list[str], length: int) -> Iterator[str]:
    """Every run of so many words; the whole text where it is shorter."""
    for start in range(max(1, len(words) - length + 1)):
        yield " ".join(words[start : start + length])


class NearDuplicates:
    """Which earlier texts a text nearly equals: MinHash over runs of five words, found by locality-sensitive hashing.

    `threshold` is the share of runs, of all that either text has, that both have.
    """

    def __init__(self, threshold: float):
        from datasketch import MinHashLSH

        self.threshold = threshold
        self.index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        self.signatures: dict[str, object] = {}

    def earlier(self, name: str, text: str) -> list[str]:
        """The names of earlier texts that are nearly this one, most alike first; the text is then one of them."""
        from datasketch import MinHash

        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([run.encode() for run in runs(words_of(text), SHINGLE_WORDS)])
        alike = {other: signature.jaccard(self.signatures[other]) for other in self.index.query(signature)}
        self.index.insert(name, signature)
        self.signatures[name] = signature
        near = [other for other, similarity in alike.items() if similarity >= self.threshold]
        return sorted(near, key=lambda other: (-alike[other], other))


class Contamination:
    """Runs of words that stand in texts of an evaluation, which no text of the training may hold."""

    def __init__(self) -> None:
        self.runs: dict[int, str] = {}  # hash of a run -> where it stands

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """(where, text) pairs."""
        for where, text in texts:
            words = words_of(text)
            if len(words) >= RUN_WORDS:
                for run in runs(words, RUN_WORDS):
                    self.runs.setdefault(hash(run), where)

    def find(self, text: str) -> tuple[str, str] | None:
        """(where, run) of the first run that an evaluation holds too."""
        words = words_of(text)
        if len(words) < RUN_WORDS:
            return None
        return next(((self.runs[hash(run)], run) for run in runs(words, RUN_WORDS) if hash(run) in self.runs), None)


def longest_run(text: str, source: str) -> list[str]:
    """The longest run of words that a text shares with its source: how much of it is copied, at a glance."""
    from difflib import SequenceMatcher

    words, theirs = words_of(text), words_of(source)
    found = SequenceMatcher(None, words, theirs, autojunk=False).find_longest_match()
    return words[found.a : found.a + found.size]


def copied_share(text: str, source: str, length: int = RUN_WORDS) -> float:
    """The part of a text's runs of words that stand in its source."""
    words = words_of(text)
    if len(words) < length:
        return 0.0
    theirs = set(runs(words_of(source), length))
    mine = list(runs(words, length))
    return sum(run in theirs for run in mine) / len(mine)
