# shellcheck shell=bash
# What the compiler is told, by platform; sourced by train.sh. Flags that the user has set come last and so win.

if command -v nvidia-smi >/dev/null 2>&1; then
    # Latency hiding: gather the next layer's weights while this one computes.
    export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true ${XLA_FLAGS:-}"
    # The allocator's default leaves a quarter of the card unused.
    export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
fi
