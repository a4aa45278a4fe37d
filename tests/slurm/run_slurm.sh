#!/usr/bin/env bash
# A real Slurm on this machine runs launch/slurm_parts.sh: four parts must join to the bytes of one run. And it runs
# launch/slurm.sbatch: two tasks with four virtual devices each must reach the losses of one process with eight, and a job
# that is told to stop must be requeued and go on to the same end. With `kills`, parts on Slurm, on Ray and as processes
# are killed at random, which is a test of its own.
#   apt-get install slurm-wlm munge           once
#   tests/slurm/run_slurm.sh [parts|kills]    as root; minutes, or seconds for the parts alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
work=$(mktemp -d)
chmod 755 "$work"  # munge trusts no folder that others could replace
daemons=()
finish() {
    for id in "${daemons[@]}"; do kill "$id" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap finish EXIT

export SLURM_CONF="$work/slurm.conf" JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 TF_CPP_MIN_LOG_LEVEL=2
export JAX_COMPILATION_CACHE_DIR="$work/compiled" PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"
host=$(hostname -s)
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000
PartitionName=test Nodes=ALL Default=YES State=UP
END
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
chmod 400 "$work/munge.key"
munged --foreground --force --socket="$work/munge.socket" --key-file="$work/munge.key" --pid-file="$work/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munged.seed" >"$work/munged.out" 2>&1 &
daemons+=($!)
until [ -S "$work/munge.socket" ]; do sleep 0.2; done
slurmctld -D >"$work/slurmctld.out" 2>&1 &
daemons+=($!)
slurmd -D >"$work/slurmd.out" 2>&1 &
daemons+=($!)
until sinfo --noheader --format=%T 2>/dev/null | grep -q idle; do sleep 0.5; done
sinfo

if [ "${1:-}" = kills ]; then
    KILLS_SLURM=1 pytest -m slow --basetemp="$work/kills" tests/data_prep/execution/test_thirty_kills.py
    exit
fi

state() { scontrol --oneliner show job "$1" | grep -o 'JobState=[A-Z]*'; }

# Every stage of the text side as an array of four parts and their join, beside one run in another folder.
root=$PWD
python - "$work" <<'END'
import sys
from pathlib import Path

from tests.data_prep.execution.test_parts import reports
from tests.helpers.made_inputs import make_tokenizer

for name in ("one", "many"):
    (Path(sys.argv[1]) / name).mkdir()
    reports(Path(sys.argv[1]) / name / "reports.jsonl", 40)
    make_tokenizer(Path(sys.argv[1]) / name / "tokenizer", 400)
END
stage() {
    local submitted join
    (cd "$work/one" && asclepius "$@") >/dev/null 2>&1
    cd "$work/many"
    submitted=$("$root/launch/slurm_parts.sh" 4 "$@")
    join=$(grep -o 'job [0-9]*: their join' <<<"$submitted" | grep -o '[0-9]*')
    until [[ "$(state "$join")" =~ (COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL) ]]; do sleep 1; done
    [ "$(state "$join")" = JobState=COMPLETED ] || { cat slurm-*.out; exit 1; }
}
stage notes --source reports.jsonl --out notes --note-types all --shard-records 3
stage instructions --source notes --out pairs --per-note 2 --shard-records 7
stage split --source pairs --out sides --held-out 0.3
stage pack --source sides/train --out packed --tokenizer tokenizer --row-length 256 --shards 5
for name in notes pairs sides packed; do diff -r "$work/one/$name" "$work/many/$name"; done
echo "four stages in four parts each, joined: the bytes of one run"
cd "$root"
[ "${1:-}" != parts ] || exit 0

python - "$work" <<'END'
import sys
from pathlib import Path

from tests.helpers.made_inputs import make_tokenizer, packed_notes

work = Path(sys.argv[1])
packed_notes(work / "data", make_tokenizer(work / "tokenizer"), count=60, row_length=864)
END
flags=(configs/demo.py --data.path "$work/data/packed" --data.epochs 1.7 --few-steps --mesh.data 2 --log.every-steps 1
    --log.no-tensorboard --checkpoint.every-steps 5)

# The nodes of the file are two with eight cards; here two tasks share one that has none.
submit() {
    sbatch --parsable --nodes=1 --ntasks-per-node=2 --gpus-per-node=0 --time=20 --output="$work/$1.log" \
        launch/slurm.sbatch "${flags[@]}" --run-dir "$work/$1"
}
await() {
    until [[ "$(state "$1")" =~ (COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL) ]]; do sleep 1; done
    echo "job $1: $(state "$1"), $(scontrol --oneliner show job "$1" | grep -o 'Restarts=[0-9]*')"
    grep -v Gloo "$work/$2.log"
    [ "$(state "$1")" = JobState=COMPLETED ]
}

whole=$(submit whole)
await "$whole" whole

stopped=$(submit stopped)
lines() { if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi; }
until [ "$(lines "$work/stopped/metrics.jsonl")" -ge 3 ]; do sleep 0.2; done
scancel --batch --signal=TERM "$stopped"  # what Slurm does before the time limit
until [[ "$(scontrol --oneliner show job "$stopped")" =~ Restarts=1 ]]; do sleep 0.5; done
echo "job $stopped: requeued after step $(tail -n 1 "$work/stopped/metrics.jsonl")"
scontrol update "JobId=$stopped" StartTime=now  # Slurm would let a requeued job wait for two minutes
await "$stopped" stopped

JAX_NUM_CPU_DEVICES=8 launch/train.sh "${flags[@]}" --run-dir "$work/alone" | tail -n 1
python - "$work" <<'END'
import json
import sys
from pathlib import Path


def losses(name: str) -> dict[int, float]:
    rows = map(json.loads, (Path(sys.argv[1]) / name / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


alone = losses("alone")
for name in ("whole", "stopped"):
    found = losses(name)
    assert found.keys() == alone.keys(), (name, found.keys(), alone.keys())
    apart = max(abs(found[step] - alone[step]) / alone[step] for step in alone)
    print(f"{name}: {len(found)} steps, losses at most {apart:.1e} from those of one process")
    assert apart < 1e-4, apart
END
