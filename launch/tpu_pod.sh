#!/usr/bin/env bash
# Train on a Cloud TPU pod slice, from a machine with gcloud:
#   launch/tpu_pod.sh NAME ZONE instruct_7b --init.checkpoint /mnt/data/runs/pretrain_7b \
#       --data.path /mnt/data/packed/instructions --run-dir /mnt/data/runs/instruct_7b
# Every host needs the repository in ~/asclepius-jax, installed with `pip install -e '.[tpu]'`. --data.path and --run-dir
# must be on storage mounted on all hosts.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: launch/tpu_pod.sh NAME ZONE CONFIG [FLAGS]" >&2
    exit 2
fi
name=$1
zone=$2
shift 2
# %q quotes each argument, so that spaces and quotes reach the hosts unchanged.
arguments=$(printf '%q ' "$@")
# Every host runs the same command. JAX reads the process ids from the TPU's metadata.
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd ~/asclepius-jax && exec launch/train.sh $arguments"
