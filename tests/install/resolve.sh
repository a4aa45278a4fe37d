#!/usr/bin/env bash
# Resolve every extra as a user's pip does: constraints.txt and the public index, none of this machine's settings.
#   tests/install/resolve.sh [--together] [3.11 3.12 ...]
# Nothing is installed. Wheels for macOS and ARM Linux are resolved too; markers such as sys_platform are read for the
# machine that this runs on, because pip cannot pretend another. With --together all extras of a Python are one
# requirement, a third of the time: constraints.txt names one version of each package, so what resolves together
# resolves apart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/install/python_of.sh
source tests/install/python_of.sh
export PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' PIP_CONSTRAINT='' PIP_EXTRA_INDEX_URL='' PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_NO_INPUT=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

extras=$(sed -n '/^\[project.optional-dependencies\]/,/^\[project.scripts\]/s/^\([a-z]*\) = \[.*/\1/p' pyproject.toml)
elsewhere="demo prep train"
if [ "${1:-}" = --together ]; then
    extras=$(tr '\n' ',' <<<"$extras" | sed 's/,$//')
    elsewhere=demo,prep,train
    shift
fi
[ $# -gt 0 ] || set -- 3.11 3.12 3.13
failed=0

# resolve LABEL EXTRA [pip's flags]
resolve() {
    local label=$1 extra=$2
    shift 2
    if "$scratch/venv/bin/pip" install --dry-run --quiet -c constraints.txt "$@" ".[$extra]" >"$scratch/log" 2>&1; then
        echo "resolved   $label [$extra]"
    else
        echo "CONFLICT   $label [$extra]"
        grep -v '^WARNING' "$scratch/log" | tail -n 12
        failed=1
    fi
}

for version in "$@"; do
    python=$(python_of "$version") || { echo "no Python $version on this machine" && exit 1; }
    rm -rf "$scratch/venv"
    "$python" -m venv "$scratch/venv"
    # The pip that a new virtual environment of today would have.
    "$scratch/venv/bin/pip" install --quiet --upgrade pip
    for extra in $extras; do
        resolve "$version $(uname -s) $(uname -m)" "$extra"
    done
    for extra in $elsewhere; do
        resolve "$version macOS arm64" "$extra" --platform macosx_14_0_arm64 --only-binary=:all: --target "$scratch/x"
        # Several tags: pip takes a manylinux tag to the letter.
        resolve "$version Linux aarch64" "$extra" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
            --platform manylinux_2_24_aarch64 \
            --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 --only-binary=:all: --target "$scratch/x"
    done
done
exit $failed
