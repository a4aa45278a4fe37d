"""The global batch of step n is a pure function of (data, seed, n)."""

from pathlib import Path

import jax
import numpy as np
import pytest

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.train.batches import PackedRows, Prefetch, TrainBatches, eval_batches, unpack
from data_prep.contract.errors import UserError
from data_prep.contract.records import PackedRow
from tests.helpers.made_inputs import packed_notes, packed_rows

LENGTH = 64
NAMES = ("tokens", "targets", "positions", "segment_ids", "loss_mask")
MESHES = {(1, 1, 1): 1, (8, 1, 1): 8, (2, 2, 2): 8}


@pytest.fixture(scope="module")
def folder(small_tokenizer: Path, tmp_path_factory) -> Path:
    return packed_notes(tmp_path_factory.mktemp("data"), small_tokenizer, 80, LENGTH)


def sharding(shape: tuple[int, int, int] = (1, 1, 1)):
    return batch_sharding(make_mesh(MeshConfig(*shape), jax.devices()[: MESHES[shape]]))


def host(batch: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in batch.items()}


# ---------------------------------------------------------------- which rows


@pytest.mark.parametrize("shape", MESHES)
def test_the_batch_of_a_step_is_that_of_one_device(folder: Path, shape: tuple[int, int, int]):
    rows = PackedRows(folder, LENGTH)
    expected = TrainBatches(rows, 8, 3, sharding())
    batches = TrainBatches(PackedRows(folder, LENGTH), 8, 3, sharding(shape))
    for step in (0, 5, 2):  # in any order
        assert batches.row_ids(step) == expected.row_ids(step)
        batch = host(batches[step])
        for name in NAMES:
            stacked = np.stack([rows[i][name] for i in expected.row_ids(step)])
            np.testing.assert_array_equal(batch[name], stacked)


def test_each_device_holds_its_own_rows_alone(folder: Path):
    batch = TrainBatches(PackedRows(folder, LENGTH), 8, 0, sharding((8, 1, 1)))[0]
    assert {shard.data.shape for shard in batch["tokens"].addressable_shards} == {(1, LENGTH)}


def test_an_epoch_holds_every_row_once_and_each_in_another_order(folder: Path):
    rows = PackedRows(folder, LENGTH)
    batches = TrainBatches(rows, 1, 0, sharding())
    ids = [batches.row_ids(step)[0] for step in range(3 * len(rows))]
    epochs = [ids[start : start + len(rows)] for start in range(0, len(ids), len(rows))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(len(rows)))] * 3
    assert len({tuple(epoch) for epoch in [*epochs, range(len(rows))]}) == 4


def test_a_batch_runs_over_the_end_of_an_epoch(folder: Path):
    rows = PackedRows(folder, LENGTH)
    one, three = (TrainBatches(rows, size, 0, sharding()) for size in (1, 3))
    steps = len(rows)
    assert [i for s in range(steps) for i in three.row_ids(s)] == [one.row_ids(s)[0] for s in range(3 * steps)]


def test_the_seed_decides_the_order(folder: Path):
    rows = PackedRows(folder, LENGTH)
    first, same, other = (TrainBatches(rows, len(rows), seed, sharding()).row_ids(0) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_prefetched_batches_are_the_batches(folder: Path):
    batches = TrainBatches(PackedRows(folder, LENGTH), 2, 0, sharding())
    with Prefetch(batches, 3, 6) as coming:
        for step in (3, 4, 5):
            np.testing.assert_array_equal(coming.get()["tokens"], batches[step]["tokens"])


# ---------------------------------------------------------------- what a row becomes


def test_a_row_by_value():
    """Two documents and a third of one token in a row of ten."""
    tokens, mask = [1, 11, 12, 2, 1, 21, 2, 1], [0, 1, 1, 1, 0, 0, 1, 0]
    row = unpack(PackedRow(np.array(tokens), np.array([4, 3, 1]), np.array(mask, bool)), 10)
    expected = {
        "tokens": [1, 11, 12, 2, 1, 21, 2, 1, 0, 0],
        # The EOS of one document never predicts the BOS of the next.
        "targets": [11, 12, 2, 0, 21, 2, 0, 0, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, 2, 0, 0, 0],
        "segment_ids": [1, 1, 1, 1, 2, 2, 2, 3, 0, 0],
        # A position counts where its target does.
        "loss_mask": [1, 1, 1, 0, 0, 1, 0, 0, 0, 0],
    }
    assert {name: row[name].tolist() for name in NAMES} == expected


def test_a_full_row_ends_without_a_target():
    row = unpack(PackedRow(np.arange(5, 9), np.array([4]), np.ones(4, bool)), 4)
    assert row["targets"].tolist() == [6, 7, 8, 0]
    assert row["loss_mask"].tolist() == [1, 1, 1, 0]


def test_the_first_token_of_a_later_piece_is_no_target():
    """A piece of a long document bears loss on its first token, but its context lies in another row."""
    row = unpack(PackedRow(np.arange(5, 9), np.array([2, 2]), np.ones(4, bool)), 6)
    assert row["loss_mask"].tolist() == [1, 0, 1, 0, 0, 0]


def test_rows_come_back_from_disk(small_tokenizer: Path, tmp_path: Path):
    written = PackedRow(np.array([1, 300, 2, 1, 2]), np.array([3, 2]), np.array([0, 1, 1, 0, 1], bool))
    rows = PackedRows(packed_rows(tmp_path, small_tokenizer, [written], 16), 16)
    for name, value in unpack(written, 16).items():
        np.testing.assert_array_equal(rows[0][name], value)


def test_held_out_rows_are_evenly_spaced_and_the_last_batch_is_filled_with_nothing(folder: Path):
    rows = PackedRows(folder, LENGTH)
    batches = [host(b) for b in eval_batches(rows, 8, 11, sharding((8, 1, 1)))]
    assert [b["tokens"].shape for b in batches] == [(8, LENGTH)] * 2
    tokens = np.concatenate([b["tokens"] for b in batches])
    # The longest documents stand first in a file: the first rows alone would be another kind of text.
    np.testing.assert_array_equal(tokens[:11], [rows[i * len(rows) // 11]["tokens"] for i in range(11)])
    for name in NAMES:
        assert not batches[1][name][3:].any()
    assert len(list(eval_batches(rows, 8, 10**6, sharding()))) == -(-len(rows) // 8)


# ---------------------------------------------------------------- what is refused


def test_another_row_length_is_refused(folder: Path):
    with pytest.raises(UserError, match=r"rows of 64 tokens, data.row_length is 128: pack again with --row-length 128"):
        PackedRows(folder, 128)


@pytest.mark.parametrize("damage", ["cut", "emptied", "another file", "a flipped bit", "missing"])
def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path, small_tokenizer: Path, damage: str):
    copy = packed_notes(tmp_path, small_tokenizer, 20, LENGTH)
    (path,) = copy.glob("*.array_record")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "another file":  # whole, but with other rows than the manifest says
        path.write_bytes(next(folder.glob("*.array_record")).read_bytes())
    elif damage == "a flipped bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} (does not match the hash|is missing)"):
        PackedRows(copy, LENGTH)


def test_a_folder_without_a_manifest_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "rows.array_record").write_bytes(next(folder.glob("*.array_record")).read_bytes())
    with pytest.raises(UserError, match="it is not finished"):
        PackedRows(tmp_path, LENGTH)
