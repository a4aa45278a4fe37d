#!/usr/bin/env bash
# Train. Start this same command on every host of a job:
#   launch/train.sh instruct_7b --init.checkpoint runs/pretrain_7b --data.path /data/packed/instructions
# A config is a file, or the name of one that came with the package. Compiler flags for the machine's devices are set by
# `asclepius train` itself (asclepius_jax/distributed/xla_flags.py).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ -x "$here/../.venv/bin/asclepius" ]; then PATH="$here/../.venv/bin:$PATH"; fi
exec asclepius train "$@"
