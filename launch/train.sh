#!/usr/bin/env bash
# Train. Start this same command on every host of a job:
#   launch/train.sh configs/instruct_7b.py --data.path /data/packed/instructions
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/xla_flags.sh
source "$here/xla_flags.sh"
if [ -x "$here/../.venv/bin/asclepius" ]; then PATH="$here/../.venv/bin:$PATH"; fi
exec asclepius train "$@"
