#!/usr/bin/env bash
# Build the wheel, lay it into an empty folder and run it there, with the dependencies of .venv: what a command opens must
# have travelled in the wheel.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$root/.venv/bin/python
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export JAX_PLATFORMS=cpu

"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$scratch/dist" "$root"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$scratch/installed" "$scratch"/dist/*.whl
mkdir "$scratch/empty"
cd "$scratch/empty"
export PYTHONPATH=$scratch/installed
asclepius() { "$python" -c 'from asclepius_jax.cli import main; main()' "$@"; }
"$python" -c "import asclepius_jax, data_prep, sys
for module in (asclepius_jax, data_prep): assert module.__file__.startswith(sys.argv[1]), module.__file__" "$PYTHONPATH"

asclepius --version
asclepius demo --help > demo.txt
asclepius init mine
test -f mine/configs/instruct_7b.py && test -x mine/launch/train.sh
if asclepius train instruct_7b --data.path nowhere 2> refusal.txt; then exit 1; fi
grep -q '^asclepius train: nowhere: no such folder' refusal.txt || { cat refusal.txt && exit 1; }
# Every file of the packages that is not Python must be there.
(cd "$root" && git ls-files asclepius_jax data_prep configs launch) | while read -r file; do
    case $file in configs/* | launch/*) place=asclepius_jax/$file ;; *) place=$file ;; esac
    test -e "$PYTHONPATH/$place" || { echo "$file is not in the wheel" && exit 1; }
done
asclepius notes --source "$PYTHONPATH/data_prep/ingest/demo_reports.jsonl" --out notes --teacher offline > notes.txt
asclepius plan pretrain_7b --topology h100-8 --json > plan.json
grep -q '"fits": true' plan.json
echo "the wheel holds what it needs"
