"""Rows of several packed folders, mixed by weight.

Which row stands at position k of the training order follows from the weights, the seed and k alone: the sources take
turns so that after any number of rows each has had its share to within one or two rows, and each source is shuffled by
itself, anew in every epoch of its own.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import grain
import numpy as np

from asclepius_jax.config.schema import DataConfig
from asclepius_jax.config.sources import Source, training_sources
from asclepius_jax.train.batches import PackedRows, Rows, without_preference
from data_prep.contract.errors import UserError
from data_prep.contract.records import text_hash

PHASES = ("pretrain", "instruct", "preference")


def open_rows(data: DataConfig) -> Rows:
    """The rows of `data.path`. Raises UserError for folders that are unfinished, damaged or do not go together."""
    sources = training_sources(data)
    parts = [PackedRows(Path(source.path), data.row_length) for source in sources]
    return parts[0] if len(parts) == 1 else MixedRows(sources, parts)


def turn(position: int, weights: Sequence[Fraction]) -> tuple[int, int]:
    """(source, number of its earlier turns) for a position in the mixed order; both count from 0.

    The first source takes every turn at which the floor of its share of the positions grows, the others divide the
    remaining turns among themselves in the same way (Beatty sequences). The weights add up to 1; as exact fractions
    they keep their proportions over any number of rows.
    """
    rest = Fraction(1)
    before, after = position, position + 1  # turns of this source and of all later ones
    for source, weight in enumerate(weights[:-1]):
        rest -= weight
        passed_before, passed_after = (int(count * rest / (rest + weight)) for count in (before, after))
        if passed_before == passed_after:
            return source, before - passed_before
        before, after = passed_before, passed_after
    return len(weights) - 1, before


class MixedRows:
    """Random access to the rows of several folders, numbered one folder after another, and their mixed order."""

    def __init__(self, sources: Sequence[Source], parts: Sequence[PackedRows]):
        self.sources, self.parts = sources, parts
        self.folder, self.row_length = parts[0].folder, parts[0].row_length
        self.starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self.weights = [source.weight for source in sources]
        check_alike(sources, parts)
        self.manifest = merged(sources, parts)

    @property
    def content(self) -> str:
        """Hash of the rows and of what decides their order."""
        shares = [f"{part.content} {source.weight}" for source, part in zip(self.sources, self.parts, strict=True)]
        return text_hash(*shares)

    @property
    def max_segments(self) -> int:
        return max(part.max_segments for part in self.parts)

    @property
    def has_pairs(self) -> bool:
        return any(part.has_pairs for part in self.parts)

    def __len__(self) -> int:
        """Rows of the first source, which `data.epochs` counts, as if every row of the mixture came from it."""
        return int(len(self.parts[0]) / self.weights[0])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        source, row = self.place(index)
        arrays = self.parts[source][row]
        if self.has_pairs and not self.parts[source].has_pairs:
            arrays = without_preference(arrays)
        return {**arrays, "sources": np.full(self.row_length, source, np.int32)}

    def place(self, index: int) -> tuple[int, int]:
        """(source, row of its folder) of a row."""
        source = int(np.searchsorted(self.starts, index, side="right")) - 1
        return source, index - self.starts[source]

    def describe(self, index: int) -> str:
        source, row = self.place(index)
        return f"{self.sources[source].name}:{row}"

    def order(self, seed: int) -> Callable[[int], int]:
        """The row at each position of the training order. Each source is shuffled with a seed of its own."""
        shuffled = [
            grain.MapDataset.range(len(part)).shuffle(seed=(seed + number) % 2**32).repeat()
            for number, part in enumerate(self.parts)
        ]

        def row(position: int) -> int:
            source, number = turn(position, self.weights)
            return self.starts[source] + int(shuffled[source][number])

        return row

    def shares(self, rows: int) -> str:
        """One line with the share of each source, and its epochs after this number of rows of the mixture."""
        told = [
            f"{source.name} {float(source.weight):.3g} ({float(source.weight * rows) / len(part):.2f} epochs of "
            f"{len(part):,} rows)"
            for source, part in zip(self.sources, self.parts, strict=True)
        ]
        return f"mixture by rows: {', '.join(told)}"


def check_alike(sources: Sequence[Source], parts: Sequence[PackedRows]) -> None:
    """Raise UserError for folders that cannot be mixed."""
    first = parts[0]
    for source, part in zip(sources, parts, strict=True):
        if part.manifest["tokenizer_hash"] != first.manifest["tokenizer_hash"]:
            raise UserError(
                f"data.path {source.path} was packed with another tokenizer than {sources[0].path}: pack both with the "
                "same"
            )
    templates = {part.manifest["prompt_template"] for part in parts if part.manifest["phase"] != "pretrain"}
    if len(templates) > 1:
        raise UserError(
            f"data.path has folders with {len(templates)} different prompts: pack all with one --prompt-template"
        )


def merged(sources: Sequence[Source], parts: Sequence[PackedRows]) -> dict[str, Any]:
    """The facts of all folders as one manifest. Counts add up; the phase is the latest of those of the folders.

    `mixture` has the weight of each folder, its rows and the hash of its content.
    """
    manifests = [part.manifest for part in parts]
    latest = max(manifests, key=lambda manifest: PHASES.index(manifest["phase"]))
    added = ("rows", "tokens", "loss_tokens", "documents", "truncated", "turns_left_out")
    counted = ("licences", "sources", "rejected")
    whole = {name: sum(manifest.get(name, 0) for manifest in manifests) for name in added}
    return {
        **latest,
        **whole,
        **{name: dict(sum((Counter(m.get(name, {})) for m in manifests), Counter())) for name in counted},
        "inputs": {key: value for manifest in manifests for key, value in manifest["inputs"].items()},
        "vocab_size": max(manifest["vocab_size"] for manifest in manifests),
        "most_documents": max(manifest["most_documents"] for manifest in manifests),
        "packing_efficiency": round(whole["tokens"] / (whole["rows"] * parts[0].row_length), 4),
        "mixture": {
            source.name: {"weight": str(source.weight), "rows": len(part), "content": part.content}
            for source, part in zip(sources, parts, strict=True)
        },
    }
