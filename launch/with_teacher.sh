#!/usr/bin/env bash
# Run a part of a stage next to a teacher on the same host: start the server, wait until it answers, run the command
# with its --base-url, and end the server.
#   SERVER="vllm serve NAME --tensor-parallel-size 8" launch/with_teacher.sh \
#       asclepius notes --source reports.jsonl --out data/notes --teacher openai --model NAME --part 3/16
# SERVER is the command of an OpenAI-compatible server, to which --port is added; with SGLang it is "python3 -m
# sglang.launch_server --model-path NAME". launch/slurm_parts.sh runs this script on every node where SERVER is set.
set -euo pipefail

if [ $# -eq 0 ] || [ -z "${SERVER:-}" ]; then
    sed -n '2,5p' "$0" >&2
    exit 2
fi
# The same on all hosts: the manifest contains the address.
port=${PORT:-8000}
url=http://localhost:$port/v1
# Loading a large model from a shared disk takes minutes.
start_seconds=${START_SECONDS:-1800}

answers() {
    python3 - "$url/models" 2>/dev/null <<'END'
import os
import sys
import urllib.request

key = os.environ.get("OPENAI_API_KEY", "")
request = urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {key}"} if key else {})
# Without a proxy: the server is on this host.
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5)
END
}

if answers; then
    echo "with_teacher.sh: another server answers on $url: end it, or set PORT" >&2
    exit 2
fi
log=$(mktemp)
# In a process group of its own, because servers have workers.
setsid bash -c "exec $SERVER --port $port" >"$log" 2>&1 &
server=$!
# shellcheck disable=SC2317,SC2329  # the trap calls it
finish() {
    kill -TERM -- "-$server" 2>/dev/null || true
    for ((i = 0; i < 300; i++)); do
        kill -0 -- "-$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$server" 2>/dev/null || true
    rm -f "$log"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

until answers; do
    if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -gt "$start_seconds" ]; then
        tail -n 20 "$log" >&2
        echo "with_teacher.sh: the server ended, or did not answer on $url within $start_seconds s: $SERVER" >&2
        exit 1
    fi
    sleep 1
done
echo "with_teacher.sh: the server answers after $SECONDS s; its log is $log" >&2

"$@" --base-url "$url" &
command=$!
# The command keeps its replies when it is told to stop. A signal interrupts the first wait, but not the command.
trap 'kill -TERM "$command" 2>/dev/null || true' TERM INT HUP
code=0
wait "$command" || code=$?
while kill -0 "$command" 2>/dev/null; do
    code=0
    wait "$command" || code=$?
done
exit "$code"
