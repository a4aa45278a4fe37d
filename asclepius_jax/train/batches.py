"""The global batch of step n, as a pure function of (data, seed, n).

It does not depend on hosts, devices, workers or restarts. Each process reads only the rows that its own devices need.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.records import PackedRow, text_hash

# Arrays (B, T): int32 tokens, targets, positions, segment_ids, float32 loss_mask; int32 sources of a mixture. For
# preferences float32 weights and reference, int32 pairs: see `unpack`.
Batch = dict[str, Any]


class Rows(Protocol):
    """Rows to train on: those of one packed folder, or a mixture of several."""

    folder: Path
    row_length: int
    manifest: Any

    @property
    def content(self) -> str: ...

    @property
    def max_segments(self) -> int: ...

    @property
    def has_pairs(self) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    def order(self, seed: int) -> Callable[[int], int]: ...

    def describe(self, index: int) -> int | str: ...


class PackedRows:
    """Random access to the rows of a packed folder, as arrays that the training step takes."""

    def __init__(self, folder: Path, row_length: int = 0):
        """Open a packed folder. `row_length` 0 means the folder's own; any other length raises UserError."""
        self.folder, self.manifest = folder, read_manifest(folder, "packed")
        self.row_length = row_length or self.manifest["row_length"]
        if self.manifest["row_length"] != row_length != 0:
            raise UserError(
                f"{folder} has rows of {self.manifest['row_length']} tokens, data.row_length is {row_length}: "
                f"pack again with --row-length {row_length}, or set --data.row-length {self.manifest['row_length']}"
            )
        # Verify the hashes, because a truncated ArrayRecord file opens without an error and appears empty.
        files = verified_files(folder, self.manifest)
        self.source = grain.sources.ArrayRecordDataSource([str(path) for path in files])
        if len(self.source) != len(self):
            raise UserError(f"{folder} has {len(self.source)} rows, its manifest says {len(self)}: pack again")
        self[0]  # before a run starts: an edited manifest may name another type of tokens

    @property
    def content(self) -> str:
        """Hash of the rows. It does not depend on where the folder is or when it was packed."""
        return text_hash(*(file["sha256"] for file in self.manifest["files"]))

    @property
    def max_segments(self) -> int:
        """Maximum number of documents in a row, plus one for padding."""
        return self.manifest["most_documents"] + 1

    @property
    def has_pairs(self) -> bool:
        """True if the rows are preferences: pairs of answers, or answers with weights."""
        return self.manifest["phase"] == "preference"

    def __len__(self) -> int:
        return self.manifest["rows"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return unpack(self.stored(index), self.row_length)

    def stored(self, index: int) -> PackedRow:
        """A row as it is stored. Raises UserError if it cannot be read."""
        try:
            row = PackedRow.from_bytes(self.source[index], self.manifest["token_dtype"], self.has_pairs)
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.folder}: row {index} cannot be read ({error}): pack again") from error
        if len(row.segment_lengths) >= self.max_segments:
            raise UserError(
                f"{self.folder}: row {index} has {len(row.segment_lengths)} documents, but the manifest says "
                f"at most {self.max_segments - 1}: pack again"
            )
        return row

    def order(self, seed: int) -> Callable[[int], int]:
        """The row at each position of the training order; every epoch has another order."""
        shuffled = grain.MapDataset.range(len(self)).shuffle(seed=seed).repeat()
        return lambda position: int(shuffled[position])

    def describe(self, index: int) -> int | str:
        """The name of a row in messages: its number."""
        return index


def unpack(row: PackedRow, row_length: int) -> dict[str, np.ndarray]:
    """One row as padded arrays (row_length,).

    The target of a token is the next token of the same document; the last token of a document has none. Padding has
    segment 0, position 0, target 0 and no loss.

    A row of preferences also has the weight of each token's document (`weights`), the number of its pair from 1, or 0
    without one (`pairs`), and at the first token of a document of a pair its log-probability under the reference
    model, negative for the rejected one (`reference`).
    """
    used = len(row.tokens)
    out = {name: np.zeros(row_length, np.int32) for name in ("tokens", "targets", "positions", "segment_ids")}
    out["loss_mask"] = np.zeros(row_length, np.float32)
    if used == 0:
        return out
    lengths = row.segment_lengths.astype(np.int64)
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    out["tokens"][:used] = row.tokens
    out["segment_ids"][:used] = segments
    out["positions"][:used] = np.arange(used) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    same = segments[1:] == segments[:-1]
    out["targets"][: used - 1] = np.where(same, row.tokens[1:], 0)
    out["loss_mask"][: used - 1] = same & row.loss_mask[1:]
    if row.weights is not None and row.pairs is not None and row.reference is not None:
        out |= {"weights": np.zeros(row_length, np.float32), "pairs": np.zeros(row_length, np.int32)}
        out["weights"][:used], out["pairs"][:used] = np.repeat(row.weights, lengths), np.repeat(row.pairs, lengths)
        out["reference"] = np.zeros(row_length, np.float32)
        out["reference"][np.cumsum(lengths) - lengths] = np.where(row.pairs, np.sign(row.weights) * row.reference, 0)
    return out


def without_preference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A row of plain text or examples among rows of preferences: without pairs, each token with weight 1."""
    zeros = np.zeros_like(arrays["loss_mask"])
    return {**arrays, "weights": zeros + 1, "pairs": zeros.astype(np.int32), "reference": zeros}


class TrainBatches:
    """The global batch of each step, as arrays sharded over the mesh."""

    def __init__(self, rows: Rows, global_batch: int, seed: int, sharding: NamedSharding):
        self.rows, self.global_batch, self.sharding = rows, global_batch, sharding
        # The whole data set is shuffled before it is sliced by host.
        self.order = rows.order(seed)

    def row_ids(self, step: int) -> list[int]:
        """Indices of the rows in the batch of a step. Steps and rows are counted from 0."""
        start = step * self.global_batch
        return [self.order(i) for i in range(start, start + self.global_batch)]

    def row_names(self, step: int) -> list[int | str]:
        """The rows of a step as messages name them."""
        return [self.rows.describe(row) for row in self.row_ids(step)]

    def __getitem__(self, step: int) -> Batch:
        ids = self.row_ids(step)
        return assemble(lambda i: self.rows[ids[i]], self.global_batch, self.rows.row_length, self.sharding)


def eval_batches(rows: PackedRows, global_batch: int, max_rows: int, sharding: NamedSharding) -> Iterator[Batch]:
    """Batches of at most `max_rows` rows, evenly spaced, because a file starts with its longest documents.

    Empty rows fill up the last batch.
    """
    count = min(len(rows), max_rows)
    chosen = [i * len(rows) // count for i in range(count)]
    empty = {name: np.zeros_like(array) for name, array in rows[0].items()}
    for start in range(0, count, global_batch):

        def row(i: int, start: int = start) -> dict[str, np.ndarray]:
            return rows[chosen[start + i]] if start + i < count else empty

        yield assemble(row, global_batch, rows.row_length, sharding)


def assemble(row: Any, global_batch: int, row_length: int, sharding: NamedSharding) -> Batch:
    """Global arrays from `row(i)`, which is called once for each row that this process needs."""
    shape = (global_batch, row_length)
    held: dict[int, dict[str, np.ndarray]] = {}
    for index in sharding.addressable_devices_indices_map(shape).values():
        for i in range(*index[0].indices(global_batch)):
            if i not in held:
                held[i] = row(i)

    def part(name: str, index: tuple[slice, ...]) -> np.ndarray:
        return np.stack([held[i][name] for i in range(*index[0].indices(global_batch))])[:, index[1]]

    names = next(iter(held.values())).keys()
    return {
        name: jax.make_array_from_callback(shape, sharding, lambda index, name=name: part(name, index))
        for name in names
    }


class Prefetch:
    """Batches of the steps [first, end) in order. The next one is prepared while the current one is used."""

    def __init__(self, batches: TrainBatches, first: int, end: int):
        self.batches, self.next, self.end = batches, first, end
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> "Prefetch":
        self._prepare_next()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _prepare_next(self) -> None:
        if self.next < self.end:
            self.coming = self.pool.submit(self.batches.__getitem__, self.next)
            self.next += 1

    def get(self) -> Batch:
        batch = self.coming.result()
        self._prepare_next()
        return batch
