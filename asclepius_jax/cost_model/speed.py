"""Prediction of the duration of a training step on any machine: a roofline model with five fitted constants.

The duration is the sum of the time of the matrix units, the time of memory traffic while they wait, and the time of
communication that overlaps with neither. `asclepius_jax.cost_model.calibrate` fits the constants to published speeds
and reports the errors.

Letters: L layers, D model width, N query heads, K key/value heads, H head width, F feed-forward width, V vocabulary.
"""

import math
from dataclasses import dataclass

from asclepius_jax.cost_model.flops import flops_per_token
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.model.sizes import DecoderConfig

# Bytes per second in one direction of a PCIe 4.0 x16 slot. Newer hosts have twice that; for TPU hosts it is not stated.
HOST_BANDWIDTH = 32e9
# Memory traffic of AdamW per float32 parameter: gradient, parameter and two moments are read, parameter and moments are
# written, and the gradient is read once more for its norm.
OPTIMIZER_BYTES = 32


@dataclass(frozen=True)
class Constants:
    tpu_matrices: float
    """Fraction of peak FLOP/s that a TPU reaches in products of this size."""
    gpu_matrices: float
    """Fraction of peak FLOP/s that an NVIDIA GPU reaches, whose clock drops under the power that such products draw.
    Fitted on H100; an A100, which is less affected, may be 10 % faster than predicted."""
    traffic: float
    """Actual bytes of memory traffic per byte of `microbatch_bytes`, due to casts to float32, copies and operations
    that were not fused."""
    links: float
    """Fraction of the stated bandwidth that a collective reaches over NVLink, ICI or a network."""
    overlap: float
    """Fraction of the gathers and sums of weights that runs beside computation, where there is enough of it."""


# Produced by `python -m asclepius_jax.cost_model.calibrate benchmarks/published_speeds.csv`, which fails if its result
# differs from these values.
FITTED = Constants(tpu_matrices=0.9553, gpu_matrices=0.7153, traffic=2.278, links=0.6747, overlap=0.7176)
# Multiples of the predicted speed between which a speed is expected: nine of ten published ones lie there, predicted
# with constants that were fitted to other trainers and generations.
INTERVAL = (0.8, 1.25)


@dataclass(frozen=True)
class Remat:
    """The parts of a block's forward pass that the backward pass recomputes.

    The last product is never among them, because its result, the block's output, is not needed.
    """

    heads: bool = False  # q, k, v
    attention: bool = False
    projection: bool = False  # the projection of attention's output
    feed_forward: bool = False  # gate and up
    elementwise: float = 1.0  # recomputed fraction of the block's elementwise memory traffic
    offload: bool = False  # block inputs are moved to the host and back


REMATS = {
    "none": Remat(elementwise=0.0),
    "projections": Remat(projection=True),
    "attention": Remat(heads=True, projection=True, feed_forward=True),
    "full": Remat(heads=True, attention=True, projection=True, feed_forward=True),
    "offload": Remat(heads=True, attention=True, projection=True, feed_forward=True, offload=True),
}


def remat_of(name: str) -> Remat:
    """The policy of this trainer, or one of another trainer by the parts that it recomputes, joined with +."""
    return REMATS[name] if name in REMATS else Remat(**dict.fromkeys(name.split("+"), True))


@dataclass(frozen=True)
class Layout:
    """Distribution of a batch over devices. `rows_per_device` is the rows of a microbatch per device of data x fsdp."""

    data: int
    fsdp: int
    tensor: int
    context: int
    rows_per_device: int
    row_length: int
    microbatches: int
    remat: str
    fsdp_gradient_bytes: int = 4
    """Bytes per element while gradients are summed over fsdp devices, which depends on compute.reduce_dtype."""
    data_gradient_bytes: int = 4
    """Bytes per element while gradients are summed over data-parallel replicas."""
    adapters: int = 0
    """Number of trained adapter parameters; 0 means that all parameters are trained."""
    first_pass: bool = False
    """Preference tuning: a forward pass of its own, for the margins of pairs, before forward and backward pass."""
    gathered_bytes: float = 2.0
    """Bytes per element of a block's matrices while they are gathered over fsdp devices; fewer if quantized."""
    matmul: str = "bfloat16"
    """Type of the products with the blocks' matrices, float8 or int8, as in compute.matmul."""
    native: bool = False
    """True if the device multiplies that type twice as fast as bfloat16."""

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor * self.context

    @property
    def tokens(self) -> float:
        """Tokens of a microbatch per device."""
        return self.rows_per_device * self.row_length / (self.tensor * self.context)

    def trained(self, model: DecoderConfig) -> int:
        """Number of parameters that have gradients."""
        return self.adapters or model.num_params


@dataclass(frozen=True)
class Prediction:
    step_seconds: float
    tokens_per_second_per_device: float
    mfu: float
    mfu_causal: float
    parts: dict[str, float]
    """Seconds by part. The step is the sum of `matrices, attention, recomputation, memory, optimizer, exposed`.
    `fast_links`, `slow_links` and `host_link` are the times of communication, whether it overlaps or not."""


def predict(
    model: DecoderConfig, topology: Topology, layout: Layout, constants: Constants = FITTED,
    exposed: float | None = None,
) -> Prediction:  # fmt: skip
    """Predict the duration of a step of this layout on a machine.

    `exposed` is the seconds for which a device waits for others, as read from the schedule of the compiled step.
    Without it, the fitted share of gathers and scatters is taken to overlap with computation, and nothing else.
    """
    assert layout.devices == topology.count, f"{layout} does not have the {topology.count} devices of {topology.name}"
    device, passes = topology.device, layout.microbatches
    fraction = constants.tpu_matrices if device.platform == "tpu" else constants.gpu_matrices
    flops = {name: passes * layout.tokens * each for name, each in token_flops(model, layout).items()}
    parts = {name: each / (device.peak_flops * fraction) for name, each in flops.items()}
    bandwidth = device.memory_bandwidth / constants.traffic
    parts["memory"] = passes * microbatch_bytes(model, layout) / bandwidth
    parts["optimizer"] = OPTIMIZER_BYTES * layout.trained(model) / (layout.fsdp * layout.tensor) / bandwidth
    compute_seconds = sum(parts.values()) - parts["optimizer"]
    parts |= communication(model, topology, layout, constants, compute_seconds, exposed)
    overlapping = ("fast_links", "slow_links", "host_link")
    seconds = sum(each for name, each in parts.items() if name not in overlapping)
    tokens = passes * layout.tokens
    counted = {
        causal: tokens
        * flops_per_token(model, layout.row_length, causal, layout.adapters)
        / (seconds * device.peak_flops)
        for causal in (False, True)
    }
    return Prediction(seconds, tokens / seconds, counted[False], counted[True], parts)


def token_flops(model: DecoderConfig, layout: Layout) -> dict[str, float]:
    """FLOPs per token of the forward and backward pass, by part. Products that take half of the time count half."""
    remat, L, D, F = remat_of(layout.remat), model.num_layers, model.embed_dim, model.mlp_dim
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    inner = 2 if model.gated else 1  # matrices that the feed-forward part multiplies its input with
    # Two products, each with the positions that a causal kernel visits.
    scores = 4 * L * queries * model.mean_visible(layout.row_length)
    again = remat.heads * (queries + 2 * keys) + remat.projection * queries + remat.feed_forward * inner * F
    first = flops_per_token(model, 0, True) / 3 + scores if layout.first_pass else 0.0
    matrices: float = flops_per_token(model, 0, True, layout.adapters)
    recomputed = L * 2.0 * D * again
    if layout.native:
        # Forward, for the gradient of activations, and in float8 for that of the matrices, if they are trained.
        matrices -= (3 if layout.matmul == "float8" and not layout.adapters else 2) * L * model.block_matrices
        recomputed /= 2
    return {
        "matrices": matrices,
        # The backward kernel recomputes the scores and needs five products, the forward kernel two.
        "attention": 3.5 * scores,
        "recomputation": recomputed + remat.attention * scores + first,
    }


def microbatch_bytes(model: DecoderConfig, layout: Layout) -> float:
    """Bytes that a device reads and writes per microbatch if all elementwise operations are fused."""
    remat, D, F, H = remat_of(layout.remat), model.embed_dim, model.mlp_dim, model.head_dim
    N, K, inner = model.num_heads, model.num_kv_heads, 2 if model.gated else 1
    # Elements read and written by a block's forward pass. Elementwise: 10 D for two norms and two residual sums,
    # rotating q and k, 3 F for the gate; further norms read and write once more. Operands and results of products: 4 D,
    # q, k, v and attention's output once each, 3 F. Attention reads q, k, v and writes its output.
    elementwise = 10 * D + 2 * (N + K) * H + (inner + 1) * F
    elementwise += 4 * D * (model.pre_norm and model.post_norm) + 2 * (N + K) * H * (model.qk_norm != "none")
    products = 4 * D + (2 * N + 2 * K) * H + (inner + 1) * F
    attention = (2 * N + 2 * K) * H
    # The backward pass needs twice as many, for the gradients of both operands.
    numbers = (3 + layout.first_pass) * (elementwise + products + attention) + remat.elementwise * elementwise
    numbers += remat.attention * attention + remat.feed_forward * (D + inner * F) + remat.heads * (D + (N + 2 * K) * H)
    if layout.matmul != "bfloat16":
        # Operands are read for their largest value, read again, and written in one byte: five bytes, or two and a half
        # numbers. Those of the forward pass are rounded in the backward pass once more, beside the gradients.
        numbers += 2.5 * (2 * (2 * D + N * H + F) + (N + 2 * K) * H + 2 * D + inner * F)
    # Activations are bfloat16. The float32 logits are written, read by the loss, overwritten by their gradient, and the
    # gradient is read twice.
    logits = (16 + 8 * layout.first_pass) * model.vocab_size
    activations = layout.tokens * (2 * numbers * model.num_layers + logits)
    # Gathered weights: written and read once in the forward pass, written once and read twice in the backward pass,
    # plus their gradients.
    weights = ((8 + 4 * layout.first_pass) * model.num_params + 4 * layout.trained(model)) / layout.tensor
    accumulated = 12 * layout.trained(model) / (layout.fsdp * layout.tensor)
    return activations + weights + accumulated


def communication(
    model: DecoderConfig, topology: Topology, layout: Layout, constants: Constants, compute_seconds: float,
    exposed: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """Seconds on fast links, slow links and the link to the host, and seconds that do not overlap with computation."""
    remat, D = remat_of(layout.remat), model.embed_dim
    L, passes, split = model.num_layers, layout.microbatches, layout.fsdp * layout.tensor
    ends = (1 if model.tie_embeddings else 2) * model.vocab_size * D
    # Blocks are gathered in every pass, embedding and output matrix once less and in bfloat16.
    first = layout.first_pass
    blocks, of_ends = layout.gathered_bytes * (model.num_params - ends), 2.0 * ends
    gathered = ((2 + first) * blocks + (1 + first) * of_ends) / layout.tensor
    scattered = layout.fsdp_gradient_bytes * layout.trained(model) / layout.tensor
    # Positions are gathered and summed around attention and feed-forward in both passes. Recomputation repeats three of
    # the four operations of the forward pass, and without recomputation its two gathers are repeated.
    activations = 2 * layout.tokens * layout.tensor * D
    tensor = passes * L * (8 + (3 if remat.elementwise else 2) + 4 * first) * activations
    # q, k, v and attention's output are exchanged, as are their gradients.
    heads = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    context = passes * L * ((3 if remat.heads else 2) + first) * 2 * layout.tokens * heads

    axes = Axes(topology, layout)
    fsdp_fast, fsdp_slow = axes.seconds("fsdp", passes * (gathered + scattered))
    data_fast, data_slow = axes.seconds("data", 2 * layout.data_gradient_bytes * layout.trained(model) / split)
    # Gradients are summed over context devices in the same way as over replicas.
    context_fast, context_slow = axes.seconds(
        "context", context + 2 * layout.data_gradient_bytes * layout.trained(model) / split
    )
    tensor_fast, tensor_slow = axes.seconds("tensor", tensor)
    fast = (fsdp_fast + data_fast + context_fast + tensor_fast) / constants.links
    slow = (fsdp_slow + data_slow + context_slow + tensor_slow) / constants.links
    weights = (fsdp_fast + fsdp_slow) / constants.links
    if exposed is None:
        exposed = max((1 - constants.overlap) * weights, weights - compute_seconds)
        # Products wait for the exchange of tokens and heads. The sum over replicas comes after the last backward pass.
        exposed += fast + slow - weights
    host = remat.offload * 2 * passes * L * 2 * layout.tokens * D / HOST_BANDWIDTH
    exposed += max(0.0, host - compute_seconds)
    return {"fast_links": fast, "slow_links": slow, "host_link": host, "exposed": exposed}


@dataclass(frozen=True)
class Axes:
    """The links used by the collectives of a mesh axis.

    The mesh is laid out with `context` innermost, so that neighbours share it, and `data` outermost.
    """

    topology: Topology
    layout: Layout

    def seconds(self, axis: str, total_bytes: float) -> tuple[float, float]:
        """Seconds on fast and on slow links for a ring gather or scatter of `total_bytes` at the stated bandwidths."""
        size = getattr(self.layout, axis)
        return group_seconds(self.topology, total_bytes * (size - 1) / size, self.near(axis), size)

    def near(self, axis: str) -> int:
        """Number of devices of the axis that are connected by fast links."""
        inner = {"context": 1, "tensor": self.layout.context}
        inner["fsdp"] = inner["tensor"] * self.layout.tensor
        inner["data"] = inner["fsdp"] * self.layout.fsdp
        return min(getattr(self.layout, axis), max(1, self.topology.fast_domain // inner[axis]))


def group_seconds(topology: Topology, moved: float, near: int, size: int) -> tuple[float, float]:
    """Seconds on fast and on slow links until each of `size` devices has received `moved` bytes.

    `near` of them are connected by fast links. The bandwidths are the stated ones.
    """
    fast = moved / link_bandwidth(topology, near) if near > 1 else 0.0
    # Every node must receive the part that it lacks, over the network ports of all its devices.
    slow = moved / near / topology.device.network_bandwidth if near < size else 0.0
    return fast, slow


def link_bandwidth(topology: Topology, near: int) -> float:
    device = topology.device
    if device.platform != "tpu":
        return device.link_bandwidth  # a switch gives the full bandwidth between any devices
    # A mesh axis uses the links of its torus dimensions. Their fraction is a ratio of logarithms: 16 of 256 devices are
    # one of two dimensions. If a line is not closed to a ring, half of the links are idle.
    fraction = math.log(near) / math.log(topology.fast_domain)
    return device.link_bandwidth * fraction * (1.0 if topology.wraps else 0.5)
