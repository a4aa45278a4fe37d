"""Estimate of the memory per device of a training step, from its shapes.

The estimate is within 10 % of the allocations of XLA's compilers for the runs in its test. `asclepius plan` compiles
the step and gives exact numbers. Letters: L layers, D model width, N query heads, K key/value heads, H head width,
F feed-forward width, V vocabulary, T row length.
"""

import math
from dataclasses import dataclass

import jax

from asclepius_jax.checkpoint.adapters import adapted, lora_from
from asclepius_jax.config import LoraConfig, TrainConfig
from asclepius_jax.distributed.sharding import RULES
from asclepius_jax.model.attention import Kernel, narrower
from asclepius_jax.model.decoder import Params, build
from asclepius_jax.model.layer_scan import REMAT_SAVES
from asclepius_jax.model.lora import Lora, adapter_axes, adapter_shapes
from asclepius_jax.model.sizes import DecoderConfig


@dataclass(frozen=True)
class Memory:
    """Memory in bytes per device."""

    params: float
    optimizer: float
    gradients: float
    saved: float
    """Activations kept for the backward pass."""
    working: float
    """Activations and gathered weights of one block, and the loss."""

    @property
    def total(self) -> float:
        return self.params + self.optimizer + self.gradients + self.saved + self.working


def estimate(config: TrainConfig, model: DecoderConfig, mesh: dict[str, int], kernel: Kernel) -> Memory:
    """Memory of a step with microbatches and remat set. `mesh` contains the size of each axis."""
    split, tensor = mesh["fsdp"] * mesh["tensor"], mesh["tensor"]
    lora, params = config.lora, model.num_params / split
    trained = adapters_of_device(model, lora_from(lora), mesh) if lora.rank else params
    frozen = tree_bytes(adapted(build(model), lora).shapes) / split if lora.rank else 0.0
    moments = 4 + (2 if config.optimizer.first_moment_dtype == "bfloat16" else 4)
    width = 2 if config.compute.dtype == "bfloat16" else 4
    rows = config.batch.global_batch / config.batch.microbatches / (mesh["data"] * mesh["fsdp"])
    T = config.data.row_length
    tokens = rows * T / mesh["context"]  # between blocks, each tensor device keeps only its part of them
    return Memory(
        params=frozen + 4 * trained,
        optimizer=moments * trained,
        gradients=4 * trained,
        saved=model.num_layers * saved_bytes(config.compute.remat, model, tokens, tensor, width, kernel),
        working=working_bytes(model, tokens, tensor, width, lora)
        + stretch_bytes(model, params, tensor, width, lora)
        + score_bytes(kernel, model, mesh, rows, T),
    )


def tree_bytes(shapes: Params) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def saved_bytes(remat: str, model: DecoderConfig, tokens: float, tensor: int, width: int, kernel: Kernel) -> float:
    """Bytes kept for the backward pass per layer, including the block's input; see `layer_scan.REMAT_SAVES`."""
    D, N, K, H = model.embed_dim, model.num_heads, model.num_kv_heads, model.head_dim
    # Elements per token. Activations between blocks are split by position, the others by head or column.
    each = {"normed": D, "attended": D, "mlp_normed": D, "q": N * H, "k": K * H, "v": K * H, "attention_out": N * H}
    each |= {"gate": model.mlp_dim * model.gated, "up": model.mlp_dim, "hidden": model.mlp_dim}
    saves = REMAT_SAVES[remat]
    numbers = sum(each[name] for name in saves) + (0 if remat == "offload" else D)
    log_sums = 0.0
    if "attention_out" in saves and kernel.name != "xla":
        log_sums = 4 * tokens * N / tensor
    return width * numbers * tokens / tensor + log_sums


def adapters_of_device(model: DecoderConfig, lora: Lora, mesh: dict[str, int]) -> float:
    """Number of adapter parameters per device, after splitting each array over the mesh axes of its dimensions."""
    shapes, axes = adapter_shapes(model, lora), adapter_axes(lora)
    parts = {name: 1 if axis is None else mesh[axis] for name, axis in RULES.items()}
    total = 0.0
    for name in lora.targets:
        for key, shape in shapes[name].items():
            total += shape.size / math.prod(parts[axis] for axis in axes[name][key])
    return total


def working_bytes(model: DecoderConfig, tokens: float, tensor: int, width: int, lora: LoraConfig) -> float:
    D, F, V = model.embed_dim, model.mlp_dim, model.table_rows
    layer = model.block_matrices
    # Gate, up and their gradients, plus about nine arrays of the model's width that are alive at the peak.
    activations = width * tokens * (2 * (1 + model.gated) * F / tensor + 9.4 * D)
    if lora.rank:
        # Frozen weights have no gradients. With dropout, each target has an own array of dropped-out inputs.
        activations += 2.2 * width * tokens * F / tensor if lora.dropout else 0.0
        return activations + 2 * width * layer / tensor + width * V * D / tensor
    # The weights of a block and of the next block, which are gathered ahead, and their gradients. The output matrix and
    # its float32 gradient.
    return activations + 3 * width * layer / tensor + (width + 4) * V * D / tensor


def stretch_bytes(model: DecoderConfig, params: float, tensor: int, width: int, lora: LoraConfig) -> float:
    """Bytes that layers of several kinds need beyond those of one kind; 0 if one scan runs all layers alike.

    In the body of a scan over patterns, the gathered weights and gradients of two layers are alive. Several scans one
    after another need a copy of the parameters, each of its own layers, unless they are frozen; four fifths of it are
    alive at the peak. Both are not there at the same time. Measured on programs for 8 H100 with 12 layers of 7B.
    """
    several = [stretch for stretch in model.stretches if len(set(stretch.pattern)) > 1]
    repeated = any(stretch.repeats > 1 for stretch in several)
    one_more = (2 if lora.rank else 3) * width * model.block_matrices / tensor if repeated else 0.0
    apart = len(model.stretches) > 1 or any(stretch.repeats == 1 for stretch in several)
    return max(one_more, 0.8 * params * 4 if apart and not lora.rank else 0.0)


def score_bytes(kernel: Kernel, model: DecoderConfig, mesh: dict[str, int], rows: float, T: int) -> float:
    """Bytes of arrays of T x T: all scores without a fused kernel, or the masks of cuDNN on Ampere."""
    if kernel.name == "xla":
        return 12 * rows * model.num_heads / (mesh["tensor"] * mesh["context"]) * T * T
    masks = len({narrower(model.window_of(kind), T) for kind in model.kinds})
    return 2 * masks * rows * T * T if kernel.name == "cudnn_mask" else 0.0
