"""Needs of a host beside its devices: memory, and time before the first step.

Three figures are known here: a host's share of a checkpoint, what the program keeps in host memory, and what compiling
it took on this machine. Rows are read as they are needed, two batches at a time.
"""

import resource
import sys
from collections import defaultdict
from typing import Any

import jax

from asclepius_jax.checkpoint.read import State
from asclepius_jax.checkpoint.write import saved_items
from asclepius_jax.cost_model.topologies import Topology


def checkpoint_bytes(state: State) -> int:
    """Bytes of a saved step. state: shapes and shardings, as of `step.abstract_state`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved_items(state)))


def share_of_a_host(state: State) -> int:
    """Most bytes of a saved step that the devices of one host hold.

    A host copies these to its memory before it writes them. Where other hosts have the same, each copies only a part.
    """
    held: dict[int, int] = defaultdict(int)
    for leaf in jax.tree.leaves(saved_items(state)):
        parts = defaultdict(set)
        for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
            parts[device.process_index].add(tuple((part.start, part.stop) for part in index))
        shard: Any = leaf.sharding.shard_shape(leaf.shape)
        size = jax.ShapeDtypeStruct(shard, leaf.dtype).size * leaf.dtype.itemsize
        for host, indices in parts.items():
            held[host] += len(indices) * size
    return max(held.values())


def process_bytes() -> int:
    """Most memory that this process has had: Python, JAX, and the compiler with this program."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def host_facts(state: State, compiled: Any, topology: Topology) -> dict[str, int]:
    """Bytes of memory per host, by use."""
    offloaded = 0 if compiled is None else compiled.memory_analysis().host_temp_size_in_bytes
    facts = {
        "checkpoint_bytes": share_of_a_host(state),
        "offloaded_bytes": offloaded * topology.devices_per_node,
        "process_bytes": process_bytes(),
    }
    return {"hosts": topology.nodes, **facts, "total_bytes": sum(facts.values())}


def start_facts(host: dict[str, int], compile_seconds: float, read_rate: float) -> dict[str, Any]:
    """Seconds before the first step of a start that resumes. `read_rate` is in MB/s per host, 0 if it is unknown."""
    read = host["checkpoint_bytes"] / (read_rate * 1e6) if read_rate else None
    seconds = compile_seconds + (read or 0.0)
    return {"compile_seconds": round(compile_seconds, 1), "read_seconds": read, "seconds": seconds}
