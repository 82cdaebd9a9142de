#!/usr/bin/env bash
# Runs workflow traces on `windlass dev` and on a fleet, and proves from the records that they ran as they should.
set -euo pipefail

usage() {
    cat <<'HELP'
scripts/traces.sh FOLDER [--critical SECONDS] [--on dev,fleet] [--no-build]

Imports every trace (WfCommons' WfFormat, *.json) of FOLDER as a workflow of `sleep` steps, runs it on `windlass dev`
(SQLite, embedded engine, 700 slots) and on Redis + PostgreSQL with 4 workers of 200 slots each, and lets
scripts/check_run.py, which shares no code with Windlass, hold each run against its trace: every task exactly once, at
its first attempt, after all its parents. Each trace runs twice: with all times zero, and scaled so that its critical path
takes SECONDS (default 1). Traces may be had from https://github.com/wfcommons/wfinstances.

  --critical SECONDS  length of each critical path in the second run
  --on LIST           dev, fleet, or both (the default)
  --no-build          use target/release/windlass as it is
  --help              this text

Exit code 1 if one trace did not run as it should. Uses loopback and a temporary folder only.
HELP
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly root
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

fail() {
    printf 'traces.sh: %s\n' "$*" >&2
    exit 1
}

folder="" critical=1 on="dev,fleet" build=1
while [ $# -gt 0 ]; do
    case "$1" in
        --critical | --on)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help"
            if [ "$1" = --on ]; then on="$2"; else critical="$2"; fi
            shift
            ;;
        --no-build) build=0 ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) fail "unknown option $1; see --help" ;;
        *) folder="$1" ;;
    esac
    shift
done
[ -n "$folder" ] || fail "which folder? see --help"
folder="$(cd "$folder" && pwd)" || fail "there is no folder $folder"
cd "$root"
if [ "$build" = 1 ]; then
    cargo build --release --locked --quiet -p windlass
fi
readonly windlass="${CARGO_TARGET_DIR:-$root/target}/release/windlass"
[ -x "$windlass" ] || fail "there is no $windlass; run without --no-build"
# shellcheck source=scripts/fleet.sh
source "$root/scripts/fleet.sh"

# Seconds of a trace's longest chain.
length_of() {
    python3 - "$1" <<'PY'
import json, sys
sys.setrecursionlimit(100_000)
workflow = json.load(open(sys.argv[1]))["workflow"]
took = {task["id"]: task.get("runtimeInSeconds") or 0 for task in workflow["execution"]["tasks"]}
parents = {task["id"]: task["parents"] for task in workflow["specification"]["tasks"]}
ends = {}
def end(task):
    if task not in ends:
        ends[task] = took.get(task, 0) + max((end(parent) for parent in parents[task]), default=0)
    return ends[task]
print(max(map(end, parents)))
PY
}

bad=0
# $1 trace, $2 factor.
prove() {
    local id
    if ! id="$("$windlass" workflow import --format wfformat "$1" --time-factor "$2" --submit --wait \
        --output json 2>"$work/import.log" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')"; then
        cat "$work/import.log" >&2
        bad=1
        return
    fi
    python3 scripts/check_run.py "$1" "$id" --time-factor "$2" --no-retries --url "$WINDLASS_URL" |
        sed -e '/^run /d' -e 's/^/    /' || bad=1
}

prove_all() {
    local trace
    for trace in "$folder"/*.json; do
        echo "$1: $(basename "$trace" .json)"
        prove "$trace" 0
        prove "$trace" "$(python3 -c "print($critical / max($(length_of "$trace"), 1e-9))")"
    done
}

case ",$on," in *,fleet,*)
    start_redis
    start_postgres
    start_fleet 4 200
    prove_all "Redis + PostgreSQL, 4 workers"
    ;;
esac
case ",$on," in *,dev,*)
    start_dev 700
    prove_all "dev"
    ;;
esac
[ "$bad" = 0 ] || fail "a trace did not run as it should"
