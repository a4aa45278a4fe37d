"""Compiler flags by platform: `asclepius train` sets them for the devices at hand, `asclepius plan` for those it
compiles for, so that a plan is what will run. Flags that the user has set come last and win.
"""

import os
import shutil
from pathlib import Path

# Of a GPU's memory, what XLA's allocator takes; its default leaves a quarter of the card unused.
ALLOCATED = 0.92

GPU = (
    # Start a collective early and finish it late: the next weights are gathered while this product computes.
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    # Not here: --xla_gpu_enable_pipelined_all_gather. It moves gathers one turn of the layers' loop ahead, and 7B in
    # four microbatches on eight H100s then needs 61 GiB of temporaries where 41 do. Collectives are combined by XLA's
    # own rule.
)
TPU = (
    # Split a gather into parts that run beside the pieces of a product.
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    # Let the gathers of several weights be under way at once, each behind its own product.
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
)


def set_flags_for_training() -> None:
    """Set the environment for the devices of this machine; JAX reads it when it starts."""
    if shutil.which("nvidia-smi"):
        _prepend("XLA_FLAGS", GPU)
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(ALLOCATED))
    elif any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        _prepend("LIBTPU_INIT_ARGS", TPU)


def set_flags_for_planning() -> None:
    """Give each compiler the flags that training gives it."""
    _prepend("XLA_FLAGS", GPU)
    _prepend("LIBTPU_INIT_ARGS", TPU)


def _prepend(variable: str, flags: tuple[str, ...]) -> None:
    os.environ[variable] = " ".join([*flags, os.environ.get(variable, "")]).strip()
