"""Speed of a large product on each device, and of each mesh axis's collectives, beside the table of devices.

Bytes of a collective count what a ring moves per device: (n - 1) / n of the whole tensor for n devices.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from asclepius_jax.cost_model.choose import layout_of
from asclepius_jax.cost_model.speed import FITTED, Axes
from asclepius_jax.distributed.sharding import MESH_AXES
from asclepius_jax.plan.preflight.records import PEERS, Measure, Row, Run, between, median, name_of, slow
from asclepius_jax.plan.preflight.stages import meet
from asclepius_jax.train.step import shard_map
from asclepius_jax.train.watch import health

REPEATS = 3  # of which the fastest counts
# Square matrices of the product, and bytes of a collective's whole tensor and of what neighbours exchange. A CPU's are
# small, because its table row is a guess and its devices are virtual.
SIZES = {"cpu": (512, 2**22, 2**20)}
ACCELERATOR_SIZES = (8192, 2**30, 2**26)


def measure_speeds(run: Run) -> Measure:
    size, whole_bytes, link_bytes = SIZES.get(run.platform, ACCELERATOR_SIZES)
    flops = 2 * size**3 * health.PRODUCTS
    dtype = run.config.compute.dtype
    products = {
        name_of(device): flops / min(health.product_seconds(device, size, dtype) for _ in range(REPEATS))
        for device in run.devices
    }
    collectives: dict[str, dict[str, float]] = {}
    links: dict[str, dict[str, float]] = {}
    for axis in MESH_AXES:
        if run.mesh.shape[axis] > 1:
            collectives[axis] = {name: rate(run, axis, name, whole_bytes) for name in ("all-gather", "reduce-scatter")}
            links[axis] = exchange_rates(run, axis, link_bytes)
    return {"products": products, "collectives": collectives, "links": links}


def rate(run: Run, axis: str, kind: str, whole_bytes: int) -> float:
    """Bytes per second and device of a collective along an axis, as this process sees it."""
    n, everywhere = run.mesh.shape[axis], PartitionSpec(MESH_AXES)
    gather = kind == "all-gather"
    elements = whole_bytes // 2 // n * n
    own = elements // n if gather else elements

    def collective(x: jax.Array) -> jax.Array:
        if gather:
            return jax.lax.all_gather(x, axis, tiled=True)
        return jax.lax.psum_scatter(x, axis, tiled=True)

    function = jax.jit(shard_map(collective, run.mesh, everywhere, everywhere))
    x = spread_ones(run, own)
    function(x).block_until_ready()
    best = float("inf")
    for repeat in range(REPEATS):
        meet(f"{axis}/{kind}/{repeat}")
        started = time.monotonic()
        function(x).block_until_ready()
        best = min(best, time.monotonic() - started)
    return elements * 2 * (n - 1) / n / best


def exchange_rates(run: Run, axis: str, link_bytes: int) -> dict[str, float]:
    """Bytes per second that each device of this process exchanges with its neighbours along an axis, by pair.

    Every pair is on its own, so that one slow link shows in one pair.
    """
    n, everywhere = run.mesh.shape[axis], PartitionSpec(MESH_AXES)
    rates: dict[str, float] = {}
    for first in range(2 if n > 2 else 1):
        swapped = [(i, (i + 1) % n) for i in range(first, n - 1 + (first and n % 2 == 0), 2)]
        permutation = [pair for a, b in swapped for pair in ((a, b), (b, a))]
        function = jax.jit(
            shard_map(lambda x, p=permutation: jax.lax.ppermute(x, axis, p), run.mesh, everywhere, everywhere)
        )
        x = spread_ones(run, link_bytes // 2)
        function(x).block_until_ready()
        best: dict[str, float] = {}
        for repeat in range(REPEATS):
            meet(f"{axis}/exchange/{first}/{repeat}")
            for device, seconds in seconds_until_ready(function, x).items():
                best[device] = min(best.get(device, seconds), seconds)
        partners = partners_of(run, axis, dict(permutation))
        rates |= {f"{device} - {partners[device]}": link_bytes / best[device] for device in best if device in partners}
    return rates


def seconds_until_ready(function: Any, x: jax.Array) -> dict[str, float]:
    """Seconds until the result is ready, on each device of this process."""
    started = time.monotonic()
    shards = function(x).addressable_shards

    def wait(shard: Any) -> tuple[str, float]:
        shard.data.block_until_ready()
        return name_of(shard.device), time.monotonic() - started

    with ThreadPoolExecutor(len(shards)) as pool:
        return dict(pool.map(wait, shards))


def partners_of(run: Run, axis: str, partner: dict[int, int]) -> dict[str, str]:
    """The device at the other end of each device's link."""
    found = {}
    for place, device in np.ndenumerate(run.mesh.devices):
        position = MESH_AXES.index(axis)
        if (other := partner.get(place[position])) is not None:
            there = (*place[:position], other, *place[position + 1 :])
            found[name_of(device)] = name_of(run.mesh.devices[there])
    return found


def spread_ones(run: Run, elements: int) -> jax.Array:
    """An array of bfloat16 with so many elements on each device."""
    sharding = NamedSharding(run.mesh, PartitionSpec(MESH_AXES))
    return jax.jit(lambda: jnp.ones(elements * run.mesh.size, jnp.bfloat16), out_shardings=sharding)()


# ---------------------------------------------------------------- verdicts


def judge_speeds(run: Run, measures: list[Measure]) -> list[Row]:
    place_of = {device: each["place"] for each in measures for device in each["products"]}
    return [
        *product_rows(run, measures),
        *collective_rows(run, measures),
        *(link_rows(run.platform, measures, place_of) if run.platform != "cpu" else []),
    ]


def product_rows(run: Run, measures: list[Measure]) -> list[Row]:
    table = product_flops(run)
    expected = f"table: {table / 1e12:,.0f} TFLOP/s" if table else ""
    if run.platform == "cpu":  # virtual devices share the cores of a host, so only hosts have peers
        speeds = {each["place"]: median(list(each["products"].values())) for each in measures}
        kind = "hosts"
    else:
        kind = "devices"
        speeds = {f"{each['place']}, {name}": s for each in measures for name, s in each["products"].items()}
    rows = [
        Row(
            "product",
            "warning",
            f"{speeds[place] / 1e12:.3g} TFLOP/s",
            f"median of its peers: {peers / 1e12:.3g}",
            place,
            "look for other programs, heat or a power limit on it",
        )
        for place, peers in slow(speeds).items()
    ]
    told = between([speed / 1e12 for speed in speeds.values()], "TFLOP/s", 0 if table and not rows else 3)
    if table and median(list(speeds.values())) < PEERS * table:
        rows.append(
            Row("product", "warning", told, expected, "all devices", "compare clocks and power limits with the maker's")
        )
    return rows or [Row("product", "ok", told, expected, f"all {kind}")]


def product_flops(run: Run) -> float | None:
    """FLOP/s that a large bfloat16 product reaches on a device of the table; None for others, CPUs and float32."""
    topology = run.machine.topology
    if topology is None or run.platform == "cpu" or run.config.compute.dtype != "bfloat16":
        return None
    return topology.device.peak_flops * (FITTED.tpu_matrices if run.platform == "tpu" else FITTED.gpu_matrices)


def collective_rows(run: Run, measures: list[Measure]) -> list[Row]:
    rows, topology = [], run.machine.topology
    for axis, kinds in measures[0]["collectives"].items():
        for kind in kinds:
            rates = [each["collectives"][axis][kind] for each in measures]
            status, expected = "ok", ""
            if topology is not None and run.platform != "cpu":
                n, whole = run.mesh.shape[axis], float(ACCELERATOR_SIZES[1])
                seconds = sum(Axes(topology, layout_of(run.config, run.mesh, run.model.config)).seconds(axis, whole))
                table = whole * (n - 1) / n * FITTED.links / seconds
                expected = f"table: {table / 1e9:,.1f} GB/s"
                status = "warning" if min(rates) < PEERS * table else "ok"
            told = between([rate / 1e9 for rate in rates], "GB/s per device", 2)
            rows.append(
                Row(
                    f"{kind} over {axis}",
                    status,
                    told,
                    expected,
                    remedy="check NVLink, the network and NCCL_*" if status == "warning" else "",
                )
            )
    return rows


def link_rows(platform: str, measures: list[Measure], place_of: dict[str, str]) -> list[Row]:
    """Rows of slow links, or one for an axis without any. Links within and between hosts are compared apart."""
    rows = []
    for axis in measures[0]["links"]:
        kinds: dict[bool, dict[tuple[str, str], float]] = {True: {}, False: {}}
        for each in measures:
            for name, speed in each["links"][axis].items():
                a, b = sorted(name.split(" - "))
                links = kinds[place_of[a] == place_of[b]]
                links[a, b] = min(links.get((a, b), speed), speed)
        found = [(pair, speeds[pair], peers) for speeds in kinds.values() for pair, peers in slow(speeds).items()]
        for (a, b), speed, peers in found:
            ends = f"{place_of[a]}, {a} - {place_of[b]}, {b}"
            rows.append(
                Row(
                    f"link along {axis}",
                    "warning",
                    f"{speed / 1e9:.2f} GB/s",
                    f"median of its peers: {peers / 1e9:.2f}",
                    ends,
                    "check its cable or port",
                )
            )
        if not found:
            every = [speed / 1e9 for speeds in kinds.values() for speed in speeds.values()]
            rows.append(Row(f"links along {axis}", "ok", between(every, "GB/s", 2), "", f"{len(every)} links"))
    return rows
