"""The checksum of an array is that of its content alone, and nothing small escapes it."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from asclepius_jax.checkpoint.checksums import LANES, added, checksum, checksums, host_checksum, weights, written
from asclepius_jax.config import MeshConfig
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import make_mesh

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.uint8)


def made(shape: tuple[int, ...], dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return (100 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (3, 4, 5), (2, 3, 4, 5)])
def test_it_is_the_sum_that_its_description_says(shape: tuple[int, ...], dtype: type):
    x = made(shape, dtype)
    whole = np.atleast_1d(x)
    expected = [0, 0]
    for lane, place in itertools.product(range(2), np.ndindex(whole.shape)):
        factor = int(whole[place].view(f"u{whole.dtype.itemsize}"))
        for axis, index in enumerate(place):
            factor *= int(weights(axis, whole.shape[axis], LANES[lane], np)[index])
        expected[lane] = (expected[lane] + factor) % 2**32
    assert host_checksum(x).tolist() == expected
    assert np.asarray(checksum(x)).tolist() == expected


def test_neither_mesh_nor_slices_change_it():
    x = made((6, 16, 8, 4))
    expected = written(host_checksum(x))
    for sizes, spec in (
        ((8, 1, 1), PartitionSpec()),
        ((1, 8, 1), PartitionSpec(None, "fsdp")),
        ((2, 2, 2), PartitionSpec(None, "fsdp", "tensor")),
        ((1, 2, 4), PartitionSpec("fsdp", None, "tensor", None)),
    ):
        spread = jax.device_put(x, NamedSharding(make_mesh(MeshConfig(*sizes)), spec))
        assert written(checksums({"x": spread})["x"]) == expected, spec
    assert written(added(host_checksum(x[i : i + 2], i) for i in range(0, 6, 2))) == expected


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_every_single_bit_counts(dtype: type):
    x = made((3, 5, 7), dtype)
    before = host_checksum(x)
    raw = x.view(f"u{x.dtype.itemsize}")
    for place in np.ndindex(x.shape):
        for bit in range(8 * x.dtype.itemsize):
            raw[place] ^= raw.dtype.type(1 << bit)
            assert (host_checksum(x) != before).all()
            raw[place] ^= raw.dtype.type(1 << bit)


def test_every_exchange_of_slices_counts():
    x = made((4, 6, 5))
    seen = {written(host_checksum(x))}
    for axis, size in enumerate(x.shape):
        for one, other in itertools.combinations(range(size), 2):
            order = list(range(size))
            order[one], order[other] = other, one
            seen.add(written(host_checksum(np.ascontiguousarray(np.take(x, order, axis)))))
    assert len(seen) == 1 + 6 + 15 + 10
    square = made((5, 5))
    assert written(host_checksum(square)) != written(host_checksum(np.ascontiguousarray(square.T)))


def test_what_is_not_a_number_has_its_bits_too():
    x = np.array([np.nan, -np.nan, np.inf, -0.0, 0.0], np.float32)
    sums = {written(host_checksum(x[i : i + 1])) for i in range(5)}
    assert len(sums) == 5
    assert written(checksum(jnp.asarray(x))) == written(host_checksum(x))


def test_on_a_gpu_it_takes_no_memory_of_the_arrays_size():
    pytest.importorskip("jax_cuda13_plugin")
    device = compile_devices(parse_topology("h100-8"))[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((8, 1024, 2048), jnp.float32, sharding=sharding)
    memory = checksums.lower({"x": x}).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.02 * 4 * 8 * 1024 * 2048
