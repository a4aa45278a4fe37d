# shellcheck shell=bash
# What the compiler is told, by platform; sourced by train.sh. Flags that the user has set come last and so win.
# `asclepius plan` reads them here, so that what it compiles is what will run.

gpu=(
    # Start a collective early and finish it late: the next weights are gathered while this product computes.
    --xla_gpu_enable_latency_hiding_scheduler=true
    # Not here: --xla_gpu_enable_pipelined_all_gather. It moves gathers one turn of the layers' loop ahead, and 7B in four
    # microbatches on eight H100s then needs 61 GiB of temporaries where 41 do. Collectives are combined by XLA's
    # own rule.
)
tpu=(
    # Split a gather into parts that run beside the pieces of a product.
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    # Let the gathers of several weights be under way at once, each behind its own product.
    --xla_tpu_enable_async_collective_fusion_multiple_steps=true
)

if command -v nvidia-smi >/dev/null 2>&1; then
    export XLA_FLAGS="${gpu[*]} ${XLA_FLAGS:-}"
    # The allocator's default leaves a quarter of the card unused.
    export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
elif compgen -G "/dev/accel*" >/dev/null || compgen -G "/dev/vfio/[0-9]*" >/dev/null; then
    export LIBTPU_INIT_ARGS="${tpu[*]} ${LIBTPU_INIT_ARGS:-}"
fi
unset gpu tpu
