#!/usr/bin/env bash
# Train. Run the same command on every host of a job:
#   launch/train.sh instruct_7b --init.checkpoint runs/pretrain_7b --data.path /data/packed/instructions
# A config is a file, or the name of a config in the package. `asclepius train` sets the compiler flags for the machine's
# devices itself (asclepius_jax/distributed/xla_flags.py).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ -x "$here/../.venv/bin/asclepius" ]; then PATH="$here/../.venv/bin:$PATH"; fi
exec asclepius train "$@"
