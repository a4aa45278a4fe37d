#!/usr/bin/env bash
# Train on a Cloud TPU pod slice, from a machine with gcloud and a checkout of the repository:
#   launch/tpu_pod.sh NAME ZONE instruct_7b --init.checkpoint /mnt/data/runs/pretrain_7b \
#       --data.path /mnt/data/packed/instructions --run-dir /mnt/data/runs/instruct_7b
#   launch/tpu_pod.sh NAME ZONE logs|status|stop
# This copies the checkout to every host, installs it there, starts the run in tmux and follows the log of the first
# host. Ctrl-C, a closed laptop or a lost connection does not end the run: `logs` follows it again. `stop` lets it save a
# checkpoint and exit. --data.path and --run-dir are on storage mounted on all hosts, or in a bucket (gs://...).
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,5p' "$0" >&2
    exit 2
fi
name=$1
zone=$2
shift 2

on() { # on WORKER COMMAND: run a shell command on one host, or on `all`
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}
# With --pid, tail ends when the shell does that writes the last line.
# shellcheck disable=SC2016  # expanded on the host
follow='tail -n 50 -F --pid="$(cat ~/asclepius.shell)" ~/asclepius.log'
# shellcheck disable=SC2016
case $1 in
    logs)
        on 0 "$follow"
        exit
        ;;
    status)
        on all 'state="not running"
            ! tmux has-session -t asclepius 2>/dev/null || state=running
            echo "$(hostname): $state; $(tail -n 1 ~/asclepius.log 2>/dev/null)"'
        exit
        ;;
    stop)
        on all 'tmux has-session -t asclepius 2>/dev/null || { echo "$(hostname): not running"; exit 0; }
            kill -TERM "$(cat ~/asclepius.pid)"
            while tmux has-session -t asclepius 2>/dev/null; do sleep 0.5; done
            echo "$(hostname): $(tail -n 1 ~/asclepius.log)"'
        exit
        ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -f constraints.txt ] || { echo "tpu_pod.sh: it copies the checkout that it is in; $PWD is none" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The run is a file on the host, so that its arguments are quoted only once. tmux keeps it when ssh ends, and `stop`
# finds the trainer by its process id.
cat >"$scratch/start.sh" <<END
echo \$\$ >~/asclepius.shell
cd ~/asclepius-jax
launch/train.sh $(printf '%q ' "$@") >>~/asclepius.log 2>&1 &
echo \$! >~/asclepius.pid
code=0
wait \$! || code=\$?
echo "the run ended with exit code \$code" >>~/asclepius.log
END
# What the image contains too.
sed -n 's/^!//p' .dockerignore | tar --create --gzip --exclude=__pycache__ --file="$scratch/asclepius-jax.tgz" \
    --files-from=- --directory="$scratch" start.sh

gcloud compute tpus tpu-vm scp "$scratch/asclepius-jax.tgz" "$name:" --zone="$zone" --worker=all
# Modules and the process id of an earlier run go first. Ubuntu 22.04, on which TPU images are based, has Python 3.11 as
# a package of its own.
# shellcheck disable=SC2016
on all 'set -e
    ! tmux has-session -t asclepius 2>/dev/null ||
        { echo "$(hostname): a run is going on: see logs, status and stop of tpu_pod.sh" >&2; exit 1; }
    mkdir -p ~/asclepius-jax
    cd ~/asclepius-jax
    rm -rf asclepius_jax configs data_prep launch ~/asclepius.pid ~/asclepius.shell
    tar -xzf ~/asclepius-jax.tgz
    { command -v tmux && python3.11 -c "import ensurepip"; } >/dev/null 2>&1 ||
        { sudo apt-get -qq update && sudo apt-get -qq install -y tmux python3.11-venv; } >/dev/null
    test -x .venv/bin/pip || python3.11 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tpu]"'
# Every host runs the same command. JAX reads the process ids from the TPU's metadata.
on all 'tmux new-session -d -s asclepius "bash ~/asclepius-jax/start.sh"'
# shellcheck disable=SC2016
on 0 "until test -s ~/asclepius.pid; do sleep 0.2; done; $follow"
