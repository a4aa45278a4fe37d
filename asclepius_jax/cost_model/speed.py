"""How long a step takes on machines that one does not have: a roofline with four fitted constants.

A step is the sum of what the matrix units do, what the memory does while they wait, and the communication that hides
behind neither. `asclepius_jax.cost_model.calibrate` fits the constants to published speeds, and tells how far off they
are.

Letters: L layers, D model width, N query heads, K key/value heads, H head width, F feed-forward width, V vocabulary.
"""

import math
from dataclasses import dataclass

from asclepius_jax.cost_model.flops import flops_per_token
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.model.sizes import LlamaConfig

# A PCIe 4.0 x16 slot, one way; on newer hosts it is twice that, and on TPU hosts it is not stated.
HOST_BANDWIDTH = 32e9
# Of AdamW, per float32 parameter: gradient, parameter and two moments are read, three of them written, and the
# gradient is read once more for its norm.
OPTIMIZER_BYTES = 32


@dataclass(frozen=True)
class Constants:
    tpu_matrices: float
    """Of the peak, what a TPU's matrix units reach in products of this size."""
    gpu_matrices: float
    """The same of NVIDIA's, whose clock falls under the power that such products draw. Fitted on H100; an A100, which
    is held back less, may be a tenth faster than predicted."""
    traffic: float
    """Bytes through the memory for each byte of `block_bytes`: casts to float32, copies, passes that did not fuse."""
    links: float
    """Of the stated bandwidth, what a collective reaches, be it NVLink, ICI or a network."""


# `python -m asclepius_jax.cost_model.calibrate CSV` makes them, and fails where they are not these.
FITTED = Constants(tpu_matrices=0.82, gpu_matrices=0.6671, traffic=2.114, links=0.7039)
# Of the speeds that it is fitted to, each predicted from the others alone.
MEDIAN_ERROR, WORST_ERROR = 0.08, 0.26


@dataclass(frozen=True)
class Remat:
    """What the backward pass makes again of a block's forward pass. The last product's result, the block's output, is
    never needed."""

    heads: bool = False  # q, k, v
    attention: bool = False
    projection: bool = False  # of attention's output
    feed_forward: bool = False  # gate and up
    elementwise: float = 1.0  # of the block's traffic beside the products
    offload: bool = False  # block inputs go to the host and come back


REMATS = {
    "none": Remat(elementwise=0.0),
    "projections": Remat(projection=True),
    "attention": Remat(heads=True, projection=True, feed_forward=True),
    "full": Remat(heads=True, attention=True, projection=True, feed_forward=True),
    "offload": Remat(heads=True, attention=True, projection=True, feed_forward=True, offload=True),
    # Not ours: what the published TPU runs saved, which is the projections but for the feed-forward's.
    "published": Remat(attention=True, feed_forward=True),
}


@dataclass(frozen=True)
class Layout:
    """How a batch is spread; `rows_per_device` are a microbatch's rows for each of data x fsdp."""

    data: int
    fsdp: int
    tensor: int
    context: int
    rows_per_device: int
    row_length: int
    microbatches: int
    remat: str
    fsdp_gradient_bytes: int = 4
    """Of a number while gradients are summed over fsdp devices: compute.reduce_dtype."""
    data_gradient_bytes: int = 4
    """The same over replicas."""
    adapters: int = 0
    """Parameters that train beside frozen ones; 0: everything trains."""

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor * self.context

    @property
    def tokens(self) -> float:
        """Of a microbatch, for one device."""
        return self.rows_per_device * self.row_length / (self.tensor * self.context)

    def trained(self, model: LlamaConfig) -> int:
        """Parameters that have gradients."""
        return self.adapters or model.num_params


@dataclass(frozen=True)
class Prediction:
    step_seconds: float
    tokens_per_second_per_device: float
    mfu: float
    mfu_causal: float
    parts: dict[str, float]
    """Seconds. The step is the sum of `matrices, attention, recomputation, memory, optimizer, exposed`; `fast_links`,
    `slow_links` and `host_link` are what communication takes, hidden or not."""


def predict(model: LlamaConfig, topology: Topology, layout: Layout, constants: Constants = FITTED) -> Prediction:
    assert layout.devices == topology.count, f"{layout} has not the {topology.count} devices of {topology.name}"
    device, passes = topology.device, layout.microbatches
    share = constants.tpu_matrices if device.platform == "tpu" else constants.gpu_matrices
    flops = {name: passes * layout.tokens * each for name, each in token_flops(model, layout).items()}
    parts = {name: each / (device.peak_flops * share) for name, each in flops.items()}
    bandwidth = device.memory_bandwidth / constants.traffic
    parts["memory"] = passes * microbatch_bytes(model, layout) / bandwidth
    parts["optimizer"] = OPTIMIZER_BYTES * layout.trained(model) / (layout.fsdp * layout.tensor) / bandwidth
    parts |= communication(model, topology, layout, constants.links, sum(parts.values()) - parts["optimizer"])
    apart = ("fast_links", "slow_links", "host_link")
    seconds = sum(each for name, each in parts.items() if name not in apart)
    tokens = passes * layout.tokens
    counted = {
        causal: tokens
        * flops_per_token(model, layout.row_length, causal, layout.adapters)
        / (seconds * device.peak_flops)
        for causal in (False, True)
    }
    return Prediction(seconds, tokens / seconds, counted[False], counted[True], parts)


def token_flops(model: LlamaConfig, layout: Layout) -> dict[str, float]:
    """FLOPs of one token's slot, forward and backward."""
    remat, L, D, F = REMATS[layout.remat], model.num_layers, model.embed_dim, model.mlp_dim
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    # Two products of queries with the half of the positions that a causal kernel visits.
    scores = 2 * L * queries * layout.row_length
    again = remat.heads * (queries + 2 * keys) + remat.projection * queries + remat.feed_forward * 2 * F
    return {
        "matrices": flops_per_token(model, 0, True, layout.adapters),
        # The backward kernel makes the scores again: five products to the forward's two.
        "attention": 3.5 * scores,
        "recomputation": L * 2 * D * again + remat.attention * scores,
    }


def microbatch_bytes(model: LlamaConfig, layout: Layout) -> float:
    """Bytes that a device reads and writes in one microbatch if every elementwise pass fuses with its neighbours."""
    remat, D, F, H = REMATS[layout.remat], model.embed_dim, model.mlp_dim, model.head_dim
    N, K = model.num_heads, model.num_kv_heads
    # Numbers read and written by a block's forward pass. Two norms and two residual sums: 10 D; rotating q and k; the
    # gate: 3 F. Operands and results of the products: 4 D, q, k, v and attention's output once each, 3 F; attention
    # itself reads q, k, v and writes.
    elementwise = 10 * D + 2 * (N + K) * H + 3 * F
    products = 4 * D + (2 * N + 2 * K) * H + 3 * F
    attention = (2 * N + 2 * K) * H
    # Backward: twice as many, for the gradients of both operands.
    numbers = 3 * (elementwise + products + attention) + remat.elementwise * elementwise
    numbers += remat.attention * attention + remat.feed_forward * (D + 2 * F) + remat.heads * (D + (N + 2 * K) * H)
    # bfloat16; float32 logits are written, read by the loss, overwritten by their gradient and read twice for it.
    activations = layout.tokens * (2 * numbers * model.num_layers + 16 * model.vocab_size)
    # Weights as they are used: written when gathered and read, forward; so again and read twice, backward; gradients.
    weights = (8 * model.num_params + 4 * layout.trained(model)) / layout.tensor
    accumulated = 12 * layout.trained(model) / (layout.fsdp * layout.tensor)
    return activations + weights + accumulated


def communication(
    model: LlamaConfig, topology: Topology, layout: Layout, links: float, compute_seconds: float
) -> dict[str, float]:
    """Seconds on fast and slow links and the host's, and those that computing does not hide."""
    remat, D = REMATS[layout.remat], model.embed_dim
    L, passes, split = model.num_layers, layout.microbatches, layout.fsdp * layout.tensor
    ends = (1 if model.tie_embeddings else 2) * model.vocab_size * D
    # Blocks are gathered forward and backward, the two ends of the model once; in bfloat16.
    gathered = 2 * (2 * (model.num_params - ends) + ends) / layout.tensor
    scattered = layout.fsdp_gradient_bytes * layout.trained(model) / layout.tensor
    # Positions are gathered and summed around attention and feed-forward, forward and backward; what is made again
    # needs three of the forward's four, and without recomputation its two gathers.
    activations = 2 * layout.tokens * layout.tensor * D
    tensor = passes * L * (8 + (3 if remat.elementwise else 2)) * activations
    # q, k, v go out and attention's output comes back, and so their gradients.
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    context = passes * L * (3 if remat.heads else 2) * 2 * layout.tokens * heads

    axes = Axes(topology, layout)
    fsdp_fast, fsdp_slow = axes.seconds("fsdp", passes * (gathered + scattered))
    data_fast, data_slow = axes.seconds("data", 2 * layout.data_gradient_bytes * layout.trained(model) / split)
    # Gradients are summed over context devices as over replicas.
    context_fast, context_slow = axes.seconds(
        "context", context + 2 * layout.data_gradient_bytes * layout.trained(model) / split
    )
    tensor_fast, tensor_slow = axes.seconds("tensor", tensor)
    fast = (fsdp_fast + data_fast + context_fast + tensor_fast) / links
    slow = (fsdp_slow + data_slow + context_slow + tensor_slow) / links
    weights = (fsdp_fast + fsdp_slow) / links
    # The first block's gather and the last one's scatter have nothing to hide behind.
    exposed = max(weights / L, weights - compute_seconds)
    # A product waits for its tokens and heads; the sum over replicas comes once, after the last backward pass.
    exposed += fast + slow - weights
    host = remat.offload * 2 * passes * L * 2 * layout.tokens * D / HOST_BANDWIDTH
    exposed += max(0.0, host - compute_seconds)
    return {"fast_links": fast, "slow_links": slow, "host_link": host, "exposed": exposed}


@dataclass(frozen=True)
class Axes:
    """Which links the collectives of a mesh axis go over. The mesh is laid out with `context` innermost, so that
    neighbours share it, and `data` outermost."""

    topology: Topology
    layout: Layout

    def seconds(self, axis: str, total_bytes: float) -> tuple[float, float]:
        """On fast and on slow links, at the stated bandwidths: a gather or scatter of `total_bytes` in a ring."""
        size = getattr(self.layout, axis)
        moved = total_bytes * (size - 1) / size
        near = self.near(axis)
        fast = moved / self.link_bandwidth(near) if near > 1 else 0.0
        # Every node must receive what it does not have, over the network ports of its devices together.
        slow = moved / near / self.topology.device.network_bandwidth if near < size else 0.0
        return fast, slow

    def near(self, axis: str) -> int:
        """Devices of the axis that fast links join."""
        inner = {"context": 1, "tensor": self.layout.context}
        inner["fsdp"] = inner["tensor"] * self.layout.tensor
        inner["data"] = inner["fsdp"] * self.layout.fsdp
        return min(getattr(self.layout, axis), max(1, self.topology.fast_domain // inner[axis]))

    def link_bandwidth(self, near: int) -> float:
        device = self.topology.device
        if device.platform != "tpu":
            return device.link_bandwidth  # a switch: all of it to whomever
        # A mesh axis has the links of its dimensions of the torus; their share is that of the logarithms: 16 of
        # 256 devices are one of two dimensions. Where a line does not close to a ring, half of the links are idle.
        share = math.log(near) / math.log(self.topology.fast_domain)
        return device.link_bandwidth * share * (1.0 if self.topology.wraps else 0.5)
