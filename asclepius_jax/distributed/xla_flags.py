"""Compiler flags by platform. Flags set by the user come last and take precedence.

`asclepius train` sets them for the local devices, `asclepius plan` for the devices that it compiles for, so that a
plan describes the program that will run.
"""

import ctypes
import os
import shutil
import sys
from pathlib import Path

# Fraction of a GPU's memory for XLA's allocator. Its default leaves a quarter of the card unused.
ALLOCATED = 0.92

# Of malloc.h.
M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX = -4, -1, -8

GPU = (
    # Start collectives early and finish them late, so that the next weights are gathered during the current product.
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    # Two at once: the gradients of one product and the weights of the next. The gradients of a block are summed one by
    # one, beside the products that follow; combined, they would wait for the last of them. 7B on h100-64 would
    # otherwise wait for the network during a quarter of a step.
    "--xla_gpu_experimental_parallel_collective_overlap_limit=2",
    "--xla_gpu_reduce_scatter_combine_threshold_bytes=1048576",
    # --xla_gpu_enable_pipelined_all_gather is left out on purpose. It moves gathers ahead by one iteration of the loop
    # over layers, and 7B in four microbatches on eight H100s then needs 61 GiB of temporaries instead of 41.
)
TPU = (
    # Split a gather into parts that overlap with parts of a product.
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    # Let several weights be gathered at once, each overlapping with its own product.
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    # Without these two, gathers that take longer than their products wait on v6e, and those over three dimensions of a
    # torus (v5p, tpu7x) become sums, which send half as much again.
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_prefer_async_allgather_to_allreduce=true",
    # The SparseCores of v5p, v6e and tpu7x gather and sum beside the products. On v5p, 7B on 64 chips then waits during
    # 3 % of a step instead of 6 %. v5e has none of these cores.
    "--xla_tpu_enable_sparse_core_collective_offload_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_2d_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_3d_all_gather=true",
    "--xla_tpu_enable_sparse_core_collective_offload_all_reduce=true",
    "--xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true",
    "--xla_tpu_enable_sparse_core_reduce_scatter_v2=true",
    # The same for gradients, which XLA sums with an all-reduce where a group spans several dimensions of the torus; 7B
    # on v5e-64 would otherwise wait for them during a fifth of the step. Only sums of one tensor can be split, so
    # larger ones are not combined.
    "--xla_enable_async_all_reduce=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",
    "--xla_jf_crs_combiner_threshold_in_bytes=1048576",
)


def set_flags_for_training() -> None:
    """Set the environment variables for the devices of this machine. JAX reads them at startup."""
    if shutil.which("nvidia-smi"):
        _prepend("XLA_FLAGS", GPU)
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(ALLOCATED))
    elif any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        _prepend("LIBTPU_INIT_ARGS", TPU)
    elif sys.platform == "linux":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Have glibc reuse large arrays. Mapping those of every step anew would take a tenth of a step on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        for setting, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
            mallopt(setting, value)


def set_flags_for_planning() -> None:
    """Set the flags of both compilers as training would."""
    _prepend("XLA_FLAGS", GPU)
    _prepend("LIBTPU_INIT_ARGS", TPU)


def _prepend(variable: str, flags: tuple[str, ...]) -> None:
    os.environ[variable] = " ".join([*flags, os.environ.get(variable, "")]).strip()
