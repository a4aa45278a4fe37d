"""Blocks cover an array once, and Orbax reads an item that was written in them."""

import itertools
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from einops import rearrange

from asclepius_jax.checkpoint.blocks import ItemWriter, Scratch, blocks, read_into, tensor_checksum
from asclepius_jax.checkpoint.checksums import added, checksum, part_checksum
from asclepius_jax.checkpoint.read import DamagedStep, open_array, read_stored
from asclepius_jax.model.huggingface.families import GLOBAL, PER_BLOCK

SHAPES = {
    "blocks.attention.q_DNH": (3, 16, 4, 8),
    "blocks.mlp.gate_DF": (3, 16, 40),
    "blocks.norm.scale": (3, 16),
    "embed_VD": (20, 16),
    "norm.scale": (16,),
}
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)


def made(shape: tuple[int, ...], dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((100,), (100,)),
        ((100, 60), (25, 60)),
        ((100, 60), (50, 15)),
        ((64, 6, 8), (16, 6, 8)),
        ((64, 6, 8), (16, 3, 8)),
    ],
)
@pytest.mark.parametrize("largest", [1, 500, 3000, 10**6])
def test_blocks_cover_an_array_once_in_whole_chunks(shape: tuple[int, ...], chunk: tuple[int, ...], largest: int):
    seen = np.zeros(shape, int)
    least = 2 * max(np.prod(chunk), chunk[0] * np.prod(shape[1:]) if len(shape) == 3 else 0)
    for index in blocks(shape, chunk, 2, largest):
        seen[index] += 1
        assert all(part.start % size == 0 for part, size in zip(index, chunk, strict=True))
        assert 2 * seen[index].size <= max(largest, least)
    assert (seen == 1).all()


@pytest.fixture(scope="module")
def item(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    values = {name: made(shape, DTYPES[i % 3], i) for i, (name, shape) in enumerate(SHAPES.items())}
    folder = tmp_path_factory.mktemp("step") / "params"
    folder.mkdir()
    with ItemWriter(folder, {name: (value.shape, value.dtype) for name, value in values.items()}) as writer:
        for name, value in values.items():
            for layer in range(len(value)) if "blocks." in name else [slice(None)]:
                half = value.shape[1] // 2 if "blocks." in name else len(value)
                for part in (slice(0, half), slice(half, None)):
                    index = (layer, part) if "blocks." in name else (part,)
                    if value[index].size:
                        writer.write(name, index, np.ascontiguousarray(value[index]))
    return folder, values


def write_and_fail(folder: Path, value: np.ndarray) -> None:
    with ItemWriter(folder, {"blocks.x": (value.shape, value.dtype)}) as writer:
        for layer in range(len(value)):
            writer.write("blocks.x", (layer,), value[layer])
        raise KeyboardInterrupt


def test_a_writer_that_fails_writes_nothing_after_it(tmp_path: Path):
    """What it was writing into can be removed at once, and stays away."""
    value = made((64, 2**10, 2**6))
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            write_and_fail(folder, value)
        shutil.rmtree(folder)
    time.sleep(0.5)
    assert not list(tmp_path.iterdir())


def test_orbax_itself_restores_it(item: tuple[Path, dict[str, np.ndarray]]):
    folder, values = item
    restored = ocp.PyTreeCheckpointer().restore(folder)
    assert restored.keys() == values.keys()
    for name, value in values.items():
        assert restored[name].dtype == value.dtype
        np.testing.assert_array_equal(restored[name], value)


def test_orbax_restores_it_onto_devices(item: tuple[Path, dict[str, np.ndarray]]):
    folder, values = item
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {name: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=sharding) for name, x in values.items()}
    args = ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False)
    for name, x in handler.restore(folder, args=args).items():
        np.testing.assert_array_equal(np.asarray(x), values[name].astype(np.float32))


def test_it_has_the_layout_of_a_saved_step(item: tuple[Path, dict[str, np.ndarray]]):
    folder, values = item
    for name, value in values.items():
        np.testing.assert_array_equal(read_stored(folder.parent, name), value)
        chunk = open_array(folder.parent, "params", name).chunk_layout.read_chunk.shape
        assert chunk == ((1, *value.shape[1:]) if "blocks." in name else value.shape)


def test_reading_into_memory_is_reading(item: tuple[Path, dict[str, np.ndarray]]):
    folder, values = item
    scratch = Scratch()
    for name, value in values.items():
        array = open_array(folder.parent, "params", name)
        place = (2, slice(3, 9)) if "blocks." in name else (slice(3, 9),)
        target = scratch.array("block", value[place].shape, value.dtype)
        read_into(target, array, place, name)
        np.testing.assert_array_equal(target, value[place])


def test_a_lost_file_is_damage(item: tuple[Path, dict[str, np.ndarray]], tmp_path: Path):
    folder, values = item
    shutil.copytree(folder, tmp_path / "params")
    array = open_array(tmp_path, "params", "embed_VD")
    for path in (tmp_path / "params").glob("ocdbt.process_0/d/*"):
        path.unlink()
    with pytest.raises(DamagedStep, match="params/embed_VD cannot be read"):
        read_into(np.empty((20, 16), values["embed_VD"].dtype), array, (slice(None), slice(None)), "params/embed_VD")


# ---------------------------------------------------------------- checksums


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_checksums_of_parts_add_up(dtype: type):
    x = made((3, 16, 4, 8), dtype)
    parts = [
        part_checksum(x[layer : layer + 1, rows : rows + 4], [(0, layer), (1, rows), (2, 0), (3, 0)])
        for layer, rows in itertools.product(range(3), range(0, 16, 4))
    ]
    assert added(parts).tolist() == np.asarray(checksum(x)).tolist()


@pytest.mark.parametrize("layout", sorted({layout for *_, layout in GLOBAL + PER_BLOCK}))
def test_their_tensors_have_the_checksum_of_our_parameter(layout: str):
    sizes = {"v": 20, "d": 24, "f": 36, "n": 6, "k": 3, "h": 8}
    theirs, names = layout.split(" -> ")
    ours = made((3, *(sizes[name] for name in names.split())), ml_dtypes.bfloat16)
    tensors = [rearrange(np.asarray(layer), f"{names} -> {theirs}") for layer in ours]
    sums = [tensor_checksum(tensor, layout, ours.shape[1:], layer) for layer, tensor in enumerate(tensors)]
    assert added(sums).tolist() == np.asarray(checksum(ours)).tolist()
    alone = tensor_checksum(tensors[0], layout, ours.shape[1:], None)
    assert alone.tolist() == np.asarray(checksum(ours[0])).tolist()
