#!/usr/bin/env bash
# Train on a Cloud TPU pod slice, from a machine with gcloud:
#   launch/tpu_pod.sh NAME ZONE instruct_7b --init.checkpoint /mnt/data/runs/pretrain_7b \
#       --data.path /mnt/data/packed/instructions --run-dir /mnt/data/runs/instruct_7b
# The repository lies in ~/asclepius-jax on every host, installed with `pip install -e '.[tpu]'`; --data.path and
# --run-dir are on storage that all hosts mount.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: launch/tpu_pod.sh NAME ZONE CONFIG [FLAGS]" >&2
    exit 2
fi
name=$1
zone=$2
shift 2
# %q: each argument reaches the hosts as it was typed here, spaces and quotes included.
arguments=$(printf '%q ' "$@")
# Every host runs the same command; JAX learns from the TPU's metadata who is who.
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd ~/asclepius-jax && exec launch/train.sh $arguments"
