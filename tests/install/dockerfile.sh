#!/usr/bin/env bash
# Check launch/Dockerfile without a container engine: run its steps in a new Debian root, then the command in it.
#   apt-get install debootstrap                                 once
#   tests/install/dockerfile.sh [--dry-run] [EXTRA=cuda ...]    as root; minutes
# --dry-run resolves the packages without installing them, which for EXTRA=cuda saves a download of gigabytes.
# The steps see this machine's certificates, proxy and package index (SSL_CERT_FILE, http_proxy, PIP_INDEX_URL and the
# like); the two commands at the end see only what the image sets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# All mounts are in a namespace of this script, so that they end with it however it ends.
if [ -z "${IN_NAMESPACE:-}" ]; then
    IN_NAMESPACE=yes exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi
dry=no
if [ "${1:-}" = --dry-run ]; then
    dry=yes
    shift
fi
given=("$@")
scratch=$(mktemp -d)
root=$scratch/root
mkdir "$root"
finish() {
    umount --recursive --lazy "$root/proc" "$root/dev" "$root/etc/resolv.conf" 2>/dev/null || true
    rm -rf --one-file-system "$scratch"
}
trap finish EXIT
fail() {
    echo "launch/Dockerfile: $1" >&2
    exit 1
}

variables=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)  # ENV and ARG
user=root
folder=/
entrypoint=()
network=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_DEFAULT_TIMEOUT; do
    if [ -n "${!name:-}" ]; then network+=("$name=${!name}"); fi
done

# As a shell of the image would: $NAME is replaced by the value of an ENV or ARG.
expand() { env -i "${variables[@]}" sh -c "printf %s \"$1\""; }

# in_root [NAME=VALUE ...] COMMAND: as the current USER in the current WORKDIR.
in_root() {
    local uid gid home
    IFS=: read -r _ _ uid gid _ home _ <<<"$(grep "^$user:" "$root/etc/passwd")"
    # shellcheck disable=SC2016  # expanded by the inner shell
    chroot --userspec="$uid:$gid" "$root" env -i HOME="$home" "${variables[@]}" \
        sh -c 'cd "$0" && exec env "$@"' "$folder" "$@"
}

from() {
    [[ $1 =~ ^debian:([a-z]+)-slim$ ]] || fail "FROM $1: only debian:RELEASE-slim has an equivalent here"
    debootstrap --variant=minbase "${BASH_REMATCH[1]}" "$root" >"$scratch/log" 2>&1 ||
        { tail -n 20 "$scratch/log" && fail "debootstrap ended with an error"; }
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    touch "$root/etc/resolv.conf"
    mount --bind "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
    if [ -n "${SSL_CERT_FILE:-}" ]; then
        cp "$SSL_CERT_FILE" "$root/run/certificates.pem"
        network+=(PIP_CERT=/run/certificates.pem SSL_CERT_FILE=/run/certificates.pem)
    fi
}

# What .dockerignore lets in: it excludes everything (*) but the names after an exclamation mark.
copy() {
    [ "$*" = ". ." ] || fail "COPY $*: only COPY . . is understood"
    grep -qx '\*' .dockerignore || fail ".dockerignore must exclude * first"
    mkdir -p "$root$folder"
    sed -n 's/^!//p' .dockerignore | tar --create --exclude=__pycache__ --files-from=- |
        tar --extract --no-same-owner --directory="$root$folder"
}

while read -r instruction rest; do
    echo "$instruction $rest"
    case $instruction in
        FROM) from "$rest" ;;
        ARG)
            for each in "${given[@]}"; do
                if [ "${each%%=*}" = "${rest%%=*}" ]; then rest=$each; fi
            done
            variables+=("$rest")
            ;;
        ENV) for each in $rest; do variables+=("$(expand "$each")"); done ;;
        WORKDIR)
            folder=$(expand "$rest")
            mkdir -p "$root$folder"
            ;;
        USER) user=$rest ;;
        COPY) copy "$rest" ;;
        RUN)
            if [ $dry = yes ]; then rest=${rest//pip install/pip install --dry-run}; fi
            in_root "${network[@]}" sh -c "$rest" >"$scratch/log" 2>&1 </dev/null ||
                { tail -n 20 "$scratch/log" && fail "this step failed: RUN $rest"; }
            ;;
        ENTRYPOINT) read -ra entrypoint <<<"$(tr -d '[]",' <<<"$rest")" ;;
        CMD) ;;
        *) fail "$instruction is not understood here" ;;
    esac
done < <(sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' launch/Dockerfile | sed -e ':a' -e '/\\$/{N;s/\\\n */ /;ba}')

[ "$user" != root ] || fail "the image runs as root: set USER"
if [ $dry = yes ]; then
    tail -n 1 "$scratch/log" | cut -c 1-2000
    echo "every package resolves; nothing was installed, so the commands were not run"
    exit
fi
rm -f "$root/run/certificates.pem"
echo "root of $(du -sh --one-file-system "$root" | cut -f 1), running as $(in_root id -un)"
in_root "${entrypoint[@]}" --version
# What the JobSets run, and the text side's Job.
commands=("${entrypoint[0]} train" launch/train.sh)
if [[ " ${given[*]} " == *" EXTRA=prep "* ]]; then commands=("${entrypoint[0]} notes"); fi
for command in "${commands[@]}"; do
    # shellcheck disable=SC2086  # a command and its argument
    in_root $command --help >"$scratch/help" || fail "$command --help ended with an error"
    echo "$command --help: $(wc -l <"$scratch/help") lines"
done
