#!/usr/bin/env bash
# Holds the served OpenAPI document against the API itself, with schemathesis: every answer is documented,
# bad input is refused, nothing answers 5xx.
#
#   scripts/contract.sh [SCHEMATHESIS ARGUMENTS]
#
# Starts `windlass dev` on a free port in a temporary folder, with the binary in WINDLASS_BIN or
# target/debug/windlass (built if there is none). Needs python3 with venv; schemathesis goes to target/tools.
# CONTRACT_SECONDS bounds the run (default 60); CONTRACT_SEED chooses another random run than the usual one.
set -euo pipefail

readonly SCHEMATHESIS_VERSION=4.32.5
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
venv="$root/target/tools/schemathesis-$SCHEMATHESIS_VERSION"

if [ ! -x "$venv/bin/st" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install "schemathesis==$SCHEMATHESIS_VERSION"
fi

binary="${WINDLASS_BIN:-$root/target/debug/windlass}"
[ -x "$binary" ] || cargo build --locked --bin windlass

folder="$(mktemp -d)"
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
url="http://127.0.0.1:$port"
export WINDLASS_LOG__LEVEL=warn WINDLASS_AUTH__MODE=required
mkdir -p "$folder/data"
ledger="sqlite://$folder/data/ledger.db"
WINDLASS_LEDGER__URL="$ledger" "$binary" migrate up >"$folder/log"
key="$(WINDLASS_LEDGER__URL="$ledger" "$binary" key create --role admin --name contract --output json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["key"])')"
"$binary" dev --listen "127.0.0.1:$port" --data-dir "$folder/data" \
    >"$folder/log" 2>&1 &
pid=$!
# shellcheck disable=SC2329 # by the trap
finish() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

ready() { python3 -c "import urllib.request as u; u.urlopen('$url/readiness', timeout=1)" 2>/dev/null; }
for _ in $(seq 200); do
    ready && break
    kill -0 "$pid" 2>/dev/null || { cat "$folder/log"; exit 1; }
    sleep 0.1
done

# Streams never end, so a client that reads to the end cannot be pointed at them; their own tests read them.
memory_kib() { awk '/VmRSS/ {print $2}' "/proc/$pid/status"; }
before="$(memory_kib)"
status=0

# 422 is the answer to what a schema cannot say: fields that exclude each other, a cursor of another list, an
# idempotency key that was used with another body; and 412 where `If-Match` names a version that is not there. For
# schema-valid requests they are accepted; 400 is not. 413 only of submissions, and there it is what one gets that is
# larger than all that its namespace's quota allows: such quotas are set by other calls of this very run.
cat >"$folder/schemathesis.toml" <<'TOML'
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "429", "503"]

[[operations]]
include-name = ["POST /v1/jobs", "POST /v1/jobs/batch"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "413", "422", "429", "503"]
TOML
"$venv/bin/st" --config-file "$folder/schemathesis.toml" run "$url/openapi.json" \
    --checks all \
    --max-response-time 65 \
    --exclude-path /v1/events \
    --header "Authorization: Bearer $key" \
    --max-time "${CONTRACT_SECONDS:-60}" \
    --seed "${CONTRACT_SEED:-1}" \
    --request-timeout 65 \
    --workers 1 \
    --suppress-health-check all \
    "$@" || status=$?
echo "memory of the server: $before KiB before, $(memory_kib) KiB after"
[ "$status" = 0 ] || tail -n 20 "$folder/log"
exit "$status"
