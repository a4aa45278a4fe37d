"""The command that starts the planned run on the planned machine."""

import dataclasses
import shlex
from typing import Any

from asclepius_jax.cost_model.topologies import Topology


def start_command(topology: Topology, arguments: list[str]) -> str:
    """Shell command, or what to set in the JobSet for several TPU slices, which Cloud TPU starts by no command alone.

    arguments: config and flags of `asclepius train`.
    """
    words = shlex.join(arguments)
    if topology.slices > 1:
        hosts = topology.nodes // topology.slices
        return (
            f"kubectl apply -f launch/gke_jobset.yaml, with replicas {topology.slices}, parallelism and completions "
            f"{hosts}, topology {'x'.join(map(str, topology.grid))} and the arguments {words}"
        )
    if topology.nodes == 1:
        return f"launch/train.sh {words}"
    if topology.device.platform == "tpu":
        return f"launch/tpu_pod.sh NAME ZONE {words}"
    devices = (
        f"--gpus-per-node={topology.devices_per_node}" if topology.device.platform == "cuda" else "--gpus-per-node=0"
    )
    return f"sbatch --nodes={topology.nodes} {devices} launch/slurm.sbatch {words}"


def train_arguments(arguments: list[str], options: Any) -> list[str]:
    """The arguments of `asclepius plan` without `options`, its own: those with which `train` does the same.

    A searched layout is in the config file, with all that the arguments changed.
    """
    given, own = list(arguments[:1]), {field.name: field.type for field in dataclasses.fields(options)}
    rest = iter(arguments[1:])
    for word in rest:
        flag, equals, _ = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if name.removeprefix("no_") not in own or not flag.startswith("--"):
            given.append(word)
        elif own.get(name) not in (bool, "bool", None) and not equals:
            next(rest, None)
    return given
