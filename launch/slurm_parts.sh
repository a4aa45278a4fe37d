#!/usr/bin/env bash
# Run a stage of the text side on a Slurm cluster: an array of N jobs, one per part, and a job that joins them.
#   launch/slurm_parts.sh 16 notes --source reports.jsonl --out data/notes
#   launch/slurm_parts.sh 8 "evaluate judge" --questions evaluation/questions --answers ... --out judged --model NAME
# Run it from a folder that all nodes see. With an endpoint or a second reader, a job for part 0 comes first, which makes
# what all parts share. sbatch reads further options from the environment: SBATCH_PARTITION, SBATCH_ACCOUNT,
# SBATCH_TIMELIMIT, SBATCH_MEM_PER_NODE. Running it again repeats only what requests have not answered yet.
# With SERVER, every part has a node and a teacher of its own (launch/with_teacher.sh):
#   SBATCH_GPUS_PER_NODE=8 SBATCH_MEM_PER_NODE=0 SERVER="vllm serve NAME --tensor-parallel-size 8" \
#       launch/slurm_parts.sh 16 notes --source reports.jsonl --out data/notes --teacher openai --model NAME
#SBATCH --job-name=asclepius-parts
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
# A part needs 0.3 GB per process.
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,5p' "$0" >&2
    exit 2
fi
parts=$1
read -ra command <<<"$2"
arguments=("${@:3}")
out=
for ((i = 0; i < ${#arguments[@]}; i++)); do
    case ${arguments[i]} in
        --out) out=${arguments[i + 1]} ;;
        --out=*) out=${arguments[i]#--out=} ;;
    esac
done
[ -n "$out" ] || { echo "name the output folder with --out" >&2; exit 2; }

if [ -z "${ASCLEPIUS_PART:-}" ]; then
    # Slurm runs a copy of this file, which does not know the folder of the original.
    ASCLEPIUS_LAUNCH=$(cd "$(dirname "$0")" && pwd)
    export ASCLEPIUS_LAUNCH
    # Two servers would share the cards and the port of a node.
    alone=()
    if [ -n "${SERVER:-}" ]; then alone=(--exclusive); fi
    submit() {
        local part=$1
        shift
        sbatch --parsable --kill-on-invalid-dep=yes --export="ALL,ASCLEPIUS_PART=$part" "$@" "$0" "$parts" \
            "${command[*]}" "${arguments[@]}"
    }
    first=()
    case " ${arguments[*]} " in
        *" openai "* | *=openai\ * | *" --second-reader"*) first=("--dependency=afterok:$(submit 0 "${alone[@]}")") ;;
    esac
    array=$(submit array --array="1-$parts" "${alone[@]}" "${first[@]}")
    join=$(submit join --dependency="afterok:$array")
    echo "job $array: $parts parts; job $join: their join in $out"
    exit
fi

cd "$SLURM_SUBMIT_DIR"
teacher=()
if [ -n "${SERVER:-}" ]; then teacher=("$ASCLEPIUS_LAUNCH/with_teacher.sh"); fi
case $ASCLEPIUS_PART in
    0) exec "${teacher[@]}" asclepius "${command[@]}" "${arguments[@]}" --part "0/$parts" ;;
    array) exec "${teacher[@]}" asclepius "${command[@]}" "${arguments[@]}" --part "$SLURM_ARRAY_TASK_ID/$parts" ;;
    join) exec asclepius join "$out".part-*-of-"$parts" --out "$out" ;;
esac
