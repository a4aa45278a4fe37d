"""The communication of a compiled step by mesh axes and links: bytes, seconds, and the seconds that a device waits."""

from collections import Counter
from typing import Any

import numpy as np
from jax.sharding import Mesh

from asclepius_jax.cost_model.speed import FITTED, Layout, group_seconds
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.plan import hlo
from asclepius_jax.plan.schedule import Rates, communication

LINKS = {"tpu": ("ICI", "data center network"), "cuda": ("NVLink", "network"), "cpu": ("memory", "memory")}


def traffic(text: str, mesh: Mesh, topology: Topology, rates: Rates | None) -> list[dict[str, Any]]:
    """Collectives of a step by kind, mesh axes and links, largest first. Bytes count whole tensors.

    With rates, `seconds` is the time of the collectives and `exposed_seconds` the part of it that a device waits.
    """
    shape = dict(mesh.shape)
    totals: dict[tuple[str, str, str], dict[str, Any]] = {}

    def total(collective: hlo.Collective) -> dict[str, Any]:
        axes = hlo.mesh_axes(collective.groups, shape)
        key = (collective.kind, " ".join(axes), links(collective.groups, mesh, topology))
        empty = {"kind": key[0], "axes": list(axes), "links": key[2], "count": 0, "bytes": 0, "shapes": []}
        if rates:
            empty |= {"seconds": 0.0, "exposed_seconds": 0.0}
        return totals.setdefault(key, empty)

    for collective in hlo.collectives(text):
        row = total(collective)
        row["count"] += collective.count
        row["bytes"] += collective.count * collective.bytes
        row["shapes"].append(f"{collective.count} x {collective.shape}")
    for each in communication(text, rates) if rates else ():
        row = total(each.collective)
        row["seconds"] += each.seconds
        row["exposed_seconds"] += each.exposed
    return sorted(totals.values(), key=lambda row: -row["bytes"])


def rates_of(model: DecoderConfig, layout: Layout, mesh: Mesh, topology: Topology) -> Rates | None:
    """The speeds of a machine's devices for this layout, or None for a CPU, whose collectives take no links."""
    device = topology.device
    if device.platform == "cpu":
        return None
    products = FITTED.tpu_matrices if device.platform == "tpu" else FITTED.gpu_matrices
    # Two products with the positions that a causal kernel visits, and five in the backward kernel.
    forward = layout.tokens * 4 * model.num_heads * model.head_dim * model.mean_visible(layout.row_length)
    homes = homes_of(mesh, topology)

    def seconds(collective: hlo.Collective) -> float:
        group = collective.groups[0] if collective.groups.size else np.arange(len(homes))
        if collective.kind == "collective-permute":  # (from, to) pairs: every device sends all of it
            size, moved = 2, float(collective.bytes)
        else:
            size = len(group)
            moved = collective.bytes * (size - 1) / size * (2 if collective.kind == "all-reduce" else 1)
        near = max(Counter(homes[i] for i in group).values())
        fast, slow = group_seconds(topology, moved, near, size)
        return (fast + slow) / FITTED.links

    return Rates(products * device.peak_flops, device.memory_bandwidth, (forward, 2.5 * forward), seconds)


def links(groups: Any, mesh: Mesh, topology: Topology) -> str:
    """Name of the links that connect the devices of a group."""
    fast, slow = LINKS[topology.device.platform]
    if topology.device.name == "a6000-48g":
        fast = "PCIe"
    homes = homes_of(mesh, topology)
    group = groups[0] if groups.size else range(len(homes))
    return fast if len({homes[i] for i in group}) == 1 else slow


def homes_of(mesh: Mesh, topology: Topology) -> list[int]:
    """The slice or node of each device of the mesh, within which fast links connect it."""
    place = "slice_index" if topology.device.platform == "tpu" else "process_index"
    return [getattr(device, place, 0) for device in mesh.devices.flat]
