"""Names of machines, as Google and GPU clusters use them, and the devices that compilers make of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from asclepius_jax.cost_model import topologies
from asclepius_jax.cost_model.hardware import find_device
from asclepius_jax.cost_model.topologies import EXAMPLES, TPUS, chip_grids, compile_devices, parse_topology
from data_prep.contract.errors import UserError


# Counts and hosts: docs.cloud.google.com/tpu/docs/v4 ... tpu7x.
@pytest.mark.parametrize(
    ("name", "count", "slices", "nodes", "grid", "wraps"),
    [
        ("v4-8", 4, 1, 1, (2, 2, 1), False),
        ("v4-128", 64, 1, 16, (4, 4, 4), True),
        ("v5e-1", 1, 1, 1, (1, 1), False),
        ("v5e-8", 8, 1, 1, (2, 4), False),
        ("v5e-64", 64, 1, 16, (8, 8), False),
        ("v5e-256", 256, 1, 64, (16, 16), True),
        ("v5e-256x2", 512, 2, 128, (16, 16), True),
        ("v5p-128", 64, 1, 16, (4, 4, 4), True),
        ("v5p-12288", 6144, 1, 1536, (16, 16, 24), True),
        ("v6e-256", 256, 1, 64, (16, 16), True),
        ("tpu7x-64", 64, 1, 8, (2, 4, 4), False),
        ("tpu7x-128", 128, 1, 16, (4, 4, 4), True),
    ],
)
def test_a_tpu_name_counts_what_google_counts(name, count, slices, nodes, grid, wraps):
    topology = parse_topology(name)
    assert (topology.count, topology.slices, topology.nodes) == (count, slices, nodes)
    assert (topology.grid, topology.wraps) == (grid, wraps)
    assert topology.fast_domain == count // slices


@pytest.mark.parametrize(
    ("name", "count", "nodes", "fast_domain"),
    [("h100-1", 1, 1, 1), ("a100-80g-8", 8, 1, 8), ("h100-64", 64, 8, 8), ("B200-8", 8, 1, 8), ("cpu-8", 8, 1, 8)],
)
def test_a_gpu_name_counts_gpus_in_nodes_of_eight(name, count, nodes, fast_domain):
    topology = parse_topology(name)
    assert (topology.count, topology.slices, topology.nodes, topology.fast_domain) == (count, 1, nodes, fast_domain)


def test_large_slices_have_the_grids_that_google_lists():
    # Of docs.cloud.google.com/tpu/docs/v5p, by chips.
    grids = chip_grids(TPUS["v5p"])
    listed = [(4, 4, 8), (4, 8, 8), (8, 8, 8), (4, 4, 20), (8, 12, 12), (8, 8, 16), (8, 16, 16), (16, 20, 28)]
    assert [grids[math.prod(grid)] for grid in listed] == listed


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e256", "did you mean v5e-256"),
        ("h10-8", "did you mean h100-8"),
        ("v3-8", "v4-128"),
        ("v5e-48", "no slice has 48 chips; the nearest is v5e-32"),
        ("v4-7", "no slice has 7 TensorCores; the nearest is v4-8"),
        ("v5e-512", "v5e-256"),
        ("h100-12", "nodes of 8; use h100-8 or h100-16"),
        ("h100-8x2", "only TPUs have slices; use h100-16"),
        ("cpu-0", "is unknown"),
    ],
)
def test_what_nobody_rents_is_refused_with_what_one_can(name: str, said: str):
    with pytest.raises(UserError, match=said) as refusal:
        parse_topology(name)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def devices_or_skip(name: str) -> list:
    try:
        return compile_devices(parse_topology(name))
    except UserError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not name.startswith("cpu")])
def test_every_named_machine_has_as_many_compile_devices(name: str):
    topology, devices = parse_topology(name), devices_or_skip(name)
    assert len(devices) == topology.count
    assert {find_device(device.device_kind) for device in devices} == {topology.device}
    assert len({device.process_index for device in devices}) == topology.nodes


@pytest.mark.parametrize(("name", "kind"), [("v5e-8x2", "TPU v5 lite"), ("h100-16", "NVIDIA H100 80GB HBM3")])
def test_a_sum_over_devices_compiles_for_a_machine_that_is_not_there(name: str, kind: str):
    devices = devices_or_skip(name)
    assert devices[0].device_kind == kind
    mesh = Mesh(np.array(devices), ("x",))
    # The contracted dimension is split, so that the product is a sum over devices.
    whole, rows, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("x",), (None, "x")))
    left = jax.ShapeDtypeStruct((256, 1024), jnp.bfloat16, sharding=columns)
    right = jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16, sharding=rows)
    compiled = jax.jit(jnp.matmul, out_shardings=whole).lower(left, right).compile()
    assert "all-reduce" in compiled.as_text()


def test_a_gpu_device_tells_its_compute_capability():
    assert devices_or_skip("h100-8")[0].compute_capability == "9.0"
    assert devices_or_skip("a6000-48g-8")[0].compute_capability == "8.6"


def test_cpu_devices_are_the_process_own():
    assert compile_devices(parse_topology("cpu-8")) == jax.devices()[:8]
    with pytest.raises(UserError, match="JAX_NUM_CPU_DEVICES=4096"):
        compile_devices(parse_topology("cpu-4096"))


@pytest.mark.parametrize("name", ["v5e-8", "h100-8"])
def test_a_missing_compiler_is_named_with_the_extra_that_brings_it(name: str, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"pip install 'asclepius-jax\[plan\]'"):
        compile_devices(parse_topology(name))
