#!/usr/bin/env bash
# Runs an example from beginning to end: starts a `windlass dev` of its own, submits, shows what happened, and stops it.
#
#   examples/workflows/run.sh etl|words|cleanup|trip|trace
#
# The binary is $WINDLASS, else target/release/windlass, target/debug/windlass or windlass on the PATH.
# Needs python3. Exit code 0 when everything went as the example says.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/workflows

for found in "${WINDLASS:-}" target/release/windlass target/debug/windlass "$(command -v windlass || true)"; do
    [ -x "$found" ] && break
done
[ -x "$found" ] || { echo "no windlass binary: cargo build --release, or set WINDLASS" >&2; exit 2; }
windlass() { "$found" "$@"; }

work=$(mktemp -d)
stop() {
    # Only what this script has started.
    [ -z "${server:-}" ] || { kill "$server" 2>/dev/null && wait "$server" || true; }
    rm -rf "$work"
}
trap stop EXIT

WINDLASS_COMMANDS__FILE=$here/commands.toml WINDLASS_LOG__LEVEL=error \
    "$found" dev --listen 127.0.0.1:0 --data-dir "$work/data" >"$work/ready" 2>"$work/log" &
server=$!
for _ in $(seq 300); do
    grep -q ready "$work/ready" && break
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
WINDLASS_URL=$(sed -n 's/^windlass dev is ready: //p' "$work/ready")
export WINDLASS_URL
[ -n "$WINDLASS_URL" ] || { echo "windlass dev did not start in time" >&2; cat "$work/log" >&2; exit 1; }

say() { printf '\n== %s\n' "$*"; }
failed() { printf '\nnot as described: %s\n' "$*" >&2; exit 1; }
# submit FILE INPUT: follows a run to its end. Its id is in $run, its exit code in $code.
submit() {
    local got=0
    run=$(windlass workflow submit "$1" --input "$2")
    windlass workflow wait "$run" --watch || got=$?
    code=$got
}
# ended CODE: the run ended as it should: 0 succeeded, 3 not.
ended() { [ "$code" = "$1" ] || failed "run $run ended with $code, not $1"; }
sql() { python3 -c 'import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print("  ", *row)' "$@"; }
# until_waiting: until the run has nothing left but its approval.
until_waiting() {
    for _ in $(seq 300); do
        windlass workflow get "$run" --output json >"$work/run.json"
        grep -q '^  "state": "waiting"' "$work/run.json" && return
        sleep 0.1
    done
    failed "run $run does not come to wait"
}

etl() {
    say "sales with one bad row of 12: the gate lets it pass"
    submit $here/etl.yaml "{\"file\": \"$here/data/sales.csv\", \"database\": \"$work/db\", \"rejects_max\": 0.1}"
    ended 0
    say "what is in the database"
    sql "$work/db" "SELECT shop, orders, total FROM sales ORDER BY shop"
    say "sales with three bad rows of 5: the gate stops it before it is loaded"
    submit $here/etl.yaml "{\"file\": \"$here/data/sales-broken.csv\", \"database\": \"$work/db\", \"rejects_max\": 0.1}"
    ended 3
    [ "$(sql "$work/db" "SELECT count(*) FROM sales")" = "   3" ] || failed "more than one load"
}

words() {
    local files
    files=$(printf '"%s",' docs/*.md)
    say "every page of docs/ is counted by a job of its own"
    submit $here/words.yaml "{\"files\": [${files%,}]}"
    ended 0
}

cleanup() {
    mkdir "$work/files"
    touch "$work"/files/{a.old,b.old,keep.txt}
    say "the run finds two stale files and waits"
    run=$(windlass workflow submit $here/cleanup.yaml --input "{\"folder\": \"$work/files\"}")
    until_waiting
    windlass workflow get "$run"
    touch "$work/files/late.old"
    say "somebody agrees"
    windlass workflow approve "$run" agree --reason "they are in the backup"
    windlass workflow wait "$run"
    [ "$(ls "$work/files" | tr '\n' ' ')" = "keep.txt late.old " ] || failed "$(ls "$work/files")"
    say "the next run finds one, and somebody says no"
    run=$(windlass workflow submit $here/cleanup.yaml --input "{\"folder\": \"$work/files\"}")
    until_waiting
    windlass workflow approve "$run" agree --reject --reason "too new"
    windlass workflow wait "$run" && failed "the rejected run succeeded" || [ $? = 3 ]
    [ -e "$work/files/late.old" ] || failed "it was deleted without consent"
}

trip() {
    say "a trip for 320, which the card can pay"
    submit $here/trip.yaml "{\"database\": \"$work/db\", \"amount\": 320}"
    ended 0
    say "a trip for 900, which it cannot: hotel and flight are cancelled again"
    submit $here/trip.yaml "{\"database\": \"$work/db\", \"amount\": 900}"
    ended 3
    say "the bookings"
    sql "$work/db" "SELECT what, state FROM bookings ORDER BY trip, what"
    [ "$(sql "$work/db" "SELECT count(*) FROM bookings WHERE state = 'cancelled'")" = "   2" ] || failed "not undone"
}

trace() {
    say "a recorded workflow, at a fiftieth of its run times"
    run=$(windlass workflow import --format wfformat $here/halves.trace.json --time-factor 0.02 --submit)
    windlass workflow wait "$run" --watch
    say "what the records prove"
    python3 scripts/check_run.py $here/halves.trace.json "$run" --time-factor 0.02 --no-retries
    say "as a picture"
    windlass workflow graph "$run" --format mermaid
}

case "${1:-}" in
    etl|words|cleanup|trip|trace) "$1" ;;
    *) echo "usage: $0 etl|words|cleanup|trip|trace" >&2; exit 2 ;;
esac
