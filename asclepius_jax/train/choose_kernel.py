"""Choice of the attention kernel of a run. Every candidate respects document boundaries."""

import jax
from jax.sharding import Mesh

from asclepius_jax.config import ComputeConfig, TrainConfig
from asclepius_jax.cost_model.memory import score_bytes
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.kernels import splash
from asclepius_jax.model.kernels.eight_bits import multiplies
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError

# Maximum documents per row that a plan without data assumes, counting padding as one.
TYPICAL_SEGMENTS = 16


def choose_kernel(
    config: TrainConfig, mesh: Mesh, model: DecoderConfig, max_segments: int = TYPICAL_SEGMENTS
) -> Kernel:
    """The configured kernel, or with auto: splash on TPUs, cuDNN on NVIDIA GPUs and plain XLA elsewhere.

    Where cuDNN cannot compute what the model or its type needs, auto is plain XLA as well (`fallback` says so).

    Raises UserError if the kernel cannot run on these devices or with this model.
    """
    device = mesh.devices.flat[0]
    compute, row_length = config.compute, config.data.row_length
    choice: str = compute.attention
    if choice == "auto":
        choice = {"tpu": "splash", "gpu": "cudnn"}.get(device.platform, "xla")
        if choice == "cudnn" and beyond_cudnn(compute, model):
            choice = "xla"
    if choice == "splash":
        return splash_kernel(device, row_length)
    if choice == "cudnn":
        return cudnn_kernel(device, compute, model, row_length, max_segments)
    return Kernel("xla")


def beyond_cudnn(compute: ComputeConfig, model: DecoderConfig) -> str:
    """The reason why cuDNN's fused attention cannot compute this on any GPU, empty if it can; auto then takes XLA."""
    if compute.dtype != "bfloat16":
        return f"it computes in bfloat16, compute.dtype is {compute.dtype}"
    if model.score_cap is not None:
        return f"it cannot cap attention scores, which the model caps at {model.score_cap:g}"
    return ""


def fallbacks(config: TrainConfig, mesh: Mesh, model: DecoderConfig, kernel: Kernel) -> list[str]:
    """A line on everything that these devices compute in a slower way than others could."""
    return [said for said in (fallback(config, mesh, model, kernel), emulated(config, mesh)) if said]


def emulated(config: TrainConfig, mesh: Mesh) -> str:
    """One line on products in eight bits that are no faster on these devices, empty where they are faster."""
    matmul, device = config.compute.matmul, mesh.devices.flat[0]
    if matmul == "bfloat16" or multiplies(matmul, device):
        return ""
    return (
        f"compute.matmul {matmul}: {device.device_kind} does not multiply it faster; the rounded values are multiplied "
        f"in {config.compute.dtype}, which is slower than without rounding"
    )


def fallback(config: TrainConfig, mesh: Mesh, model: DecoderConfig, kernel: Kernel) -> str:
    """One line on why a GPU computes attention without a fused kernel, and its memory; empty where it has one.

    `config` has its microbatches chosen. Without auto, plain XLA is what was asked for.
    """
    reason = beyond_cudnn(config.compute, model)
    device = mesh.devices.flat[0]
    if not reason or device.platform != "gpu" or kernel.name != "xla" or config.compute.attention != "auto":
        return ""
    shape = dict(mesh.shape)
    rows = config.batch.global_batch / config.batch.microbatches / (shape["data"] * shape["fsdp"])
    gib = score_bytes(kernel, model, shape, rows, config.data.row_length) / 2**30
    return (
        f"attention xla instead of cudnn: {reason}; all scores of a layer are in memory, about {gib:.1f} GiB per "
        "device, which more --batch.microbatches and shorter rows reduce"
    )


def splash_kernel(device: jax.Device, row_length: int) -> Kernel:
    if device.platform != "tpu":
        raise UserError(f"compute.attention splash: it runs on TPUs, this is {device.device_kind}; leave it at auto")
    if not splash.fits(row_length):
        raise UserError(
            f"data.row_length {row_length} is not a multiple of {splash.LANES}, as splash attention requires: pack "
            f"again with --row-length {-(-row_length // splash.LANES) * splash.LANES}, or use --compute.attention xla"
        )
    return Kernel("splash")


def cudnn_kernel(
    device: jax.Device, compute: ComputeConfig, model: DecoderConfig, row_length: int, max_segments: int
) -> Kernel:
    if device.platform != "gpu":
        raise UserError(
            f"compute.attention cudnn: it runs on NVIDIA GPUs, this is {device.device_kind}; leave it at auto"
        )
    if reason := beyond_cudnn(compute, model):
        raise UserError(f"compute.attention cudnn: {reason}: leave it at auto, which then takes plain XLA")
    capability = tuple(int(part) for part in device.compute_capability.split("."))
    widest = 256 if capability >= (9, 0) else 128
    if model.head_dim > widest or model.head_dim % 8:
        raise UserError(
            f"cuDNN attention on {device.device_kind} needs a head width of at most {widest} and a multiple of 8, the "
            f"model has {model.head_dim}: use --compute.attention xla"
        )
    if capability < (8, 0):
        raise UserError(f"{device.device_kind} is older than Ampere: use --compute.attention xla")
    if capability >= (9, 0):
        return Kernel("cudnn_packed", max(2, max_segments))
    if row_length % 2:
        raise UserError(
            f"data.row_length {row_length} is odd, which cuDNN attention with a mask does not support: pack again "
            f"with --row-length {row_length + 1}, or use --compute.attention xla"
        )
    return Kernel("cudnn_mask")
