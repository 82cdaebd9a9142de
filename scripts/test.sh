#!/usr/bin/env bash
# The test command: everything that must hold before a change is merged.
set -euo pipefail

usage() {
    cat <<'HELP'
scripts/test.sh [--fast] [--only STEP[,STEP...]] [--no-install] [NEXTEST ARGUMENTS]

Steps, in this order: fmt, clippy, test, doctest, contract, deny.

  --fast         skip clippy, contract and deny
  --only STEPS   run these steps alone, for example --only fmt,clippy
  --no-install   fail, rather than install what is missing
  --help         this text

Whatever else is given goes to `cargo nextest run`, and the doc tests are then
left out: scripts/test.sh --only test -p windlass-shared engine::

Needs Rust 1.95 (rustup). On Debian and Ubuntu the rest is installed when it is
missing, as root or by sudo: a C compiler, redis-server and postgresql (their
services are not started; tests start private servers), python3 for examples and
schemathesis, nodejs for the drivers of docs/rig/peers.md (no package is fetched),
chromium-headless-shell for the page /docs, btrfs-progs for power cuts
(docs/rig/power-cut.md; they need root). cargo-nextest, cargo-deny and schemathesis go to target/tools.

  WINDLASS_CI_DENY=1   install cargo-deny when it is missing; otherwise the deny
                       step is skipped then, since it takes minutes to build
  WINDLASS_RIG_NO_POWER_CUT=1
                       this machine cannot cut the power of a disk (no root, or
                       no btrfs): do without those tests
  NEXTEST_PROFILE=ci   the nextest profile of CI
HELP
}

readonly NEXTEST_VERSION=0.9.143
readonly DENY_VERSION=0.20.2
readonly RUST_VERSION=1.95

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly root
readonly tools="$root/target/tools"
cd "$root"

say() { printf '\n==> %s\n' "$*"; }
fail() {
    printf '\ntest.sh: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '         %s\n' "$@" >&2
    exit 1
}

steps="fmt,clippy,test,doctest,contract,deny"
install=1
nextest_args=()
while [ $# -gt 0 ]; do
    case "$1" in
        --fast) steps="fmt,test,doctest" ;;
        --only)
            [ $# -ge 2 ] || fail "--only needs a list of steps; see --help"
            steps="$2"
            shift
            ;;
        --only=*) steps="${1#--only=}" ;;
        --no-install) install=0 ;;
        -h | --help)
            usage
            exit 0
            ;;
        --)
            shift
            nextest_args+=("$@")
            break
            ;;
        *) nextest_args+=("$1") ;;
    esac
    shift
done

for step in ${steps//,/ }; do
    case "$step" in
        fmt | clippy | test | doctest | contract | deny) ;;
        *) fail "there is no step '$step'" "steps: fmt, clippy, test, doctest, contract, deny" ;;
    esac
done

selected() { case ",$steps," in *",$1,"*) return 0 ;; *) return 1 ;; esac }

# Rust: rust-toolchain.toml pins a version. A machine that has the same release
# under the name `stable` and may not download another uses that one.
find_rust() {
    export PATH="$tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    command -v cargo >/dev/null || fail "cargo is not installed" \
        "install Rust with https://rustup.rs, then run this again"
    if ! cargo --version >/dev/null 2>&1; then
        local stable
        stable="$(RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null || true)"
        case "$stable" in
            "rustc $RUST_VERSION."*) export RUSTUP_TOOLCHAIN=stable ;;
            *) fail "the toolchain of rust-toolchain.toml is not usable: $(cargo --version 2>&1 | head -n 1)" \
                "run: rustup toolchain install $RUST_VERSION.0 --component rustfmt,clippy" ;;
        esac
    fi
    echo "$(cargo --version), in $root"
}

# The directory of initdb and postgres, which Debian keeps out of PATH.
postgres_bin() {
    local dir newest=""
    for dir in /usr/lib/postgresql/*/bin; do
        if [ -x "$dir/initdb" ]; then newest="$dir"; fi
    done
    if command -v initdb >/dev/null; then dirname "$(command -v initdb)"; else echo "$newest"; fi
}

# What shows the page /docs to its test.
browser() {
    local name
    for name in chromium-headless-shell chromium chromium-browser google-chrome chrome; do
        if command -v "$name"; then return; fi
    done
}

# The small one where the release has it; known once the lists of packages are there.
browser_package() {
    if apt-cache show chromium-headless-shell >/dev/null 2>&1; then
        echo chromium-headless-shell
    else
        echo chromium
    fi
}

sudo=()
readonly policy=/usr/sbin/policy-rc.d

apt_install() {
    local why="missing: $*"
    [ "$install" = 1 ] || fail "$why" "install it, or run without --no-install"
    command -v apt-get >/dev/null || fail "$why" \
        "this is not Debian or Ubuntu: install a C compiler, Redis 7 (redis-server) and" \
        "PostgreSQL 15 or newer (initdb, postgres) so that they are in PATH"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "$why" "run this as root once, or: apt-get install $*"
        sudo=(sudo)
    fi
    say "Install $*"
    # Tests start servers of their own: no service is to be started by the
    # packages, and PostgreSQL is to make no cluster.
    local status=0
    if [ ! -e "$policy" ]; then
        trap '"${sudo[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
        "${sudo[@]}" chmod 755 "$policy"
    fi
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        "${sudo[@]}" mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' |
            "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    "${sudo[@]}" apt-get update -qq || status=$?
    local packages=() name
    for name in "$@"; do
        if [ "$name" = browser ]; then packages+=("$(browser_package)"); else packages+=("$name"); fi
    done
    [ "$status" != 0 ] ||
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold \
            "${packages[@]}" || status=$?
    [ "$status" = 0 ] || fail "apt-get could not install $*" "see its messages above"
}

find_packages() {
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    if selected test; then
        command -v redis-server >/dev/null || missing+=(redis-server)
        [ -n "$(postgres_bin)" ] || missing+=(postgresql)
        command -v python3 >/dev/null || missing+=(python3)
        command -v node >/dev/null || missing+=(nodejs)
        [ -n "$(browser)" ] || missing+=(browser)
        [ "${WINDLASS_RIG_NO_POWER_CUT:-0}" = 1 ] || [ -x /usr/sbin/mkfs.btrfs ] ||
            command -v mkfs.btrfs >/dev/null || missing+=(btrfs-progs)
    fi
    if selected contract && ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1; then
        missing+=(python3 python3-venv)
    fi
    [ "${#missing[@]}" = 0 ] || apt_install "${missing[@]}"
    if selected test; then
        PATH="$(postgres_bin):$PATH"
        export PATH
        echo "$(redis-server --version | cut -d' ' -f1-3); $(postgres --version)"
    fi
}

# $1 crate, $2 version. A separate target folder keeps the workspace's clean.
cargo_install() {
    [ "$install" = 1 ] || fail "missing: $1" "run: cargo install $1 --locked --version $2"
    say "Install $1 $2 into target/tools (once per checkout)"
    # From outside the checkout, whose .cargo settings are not for this crate;
    # the toolchain stays the checkout's.
    local bin
    bin="$(rustc --print sysroot)/bin"
    (cd / && PATH="$bin:$PATH" CARGO_TARGET_DIR="$tools/build" \
        cargo install "$1" --quiet --locked --version "$2" --root "$tools") ||
        fail "cargo install $1 failed" "it needs crates.io; or install $1 $2 by other means into PATH"
    rm -rf "$tools/build"
}

find_tools() {
    if selected test && ! cargo nextest --version >/dev/null 2>&1; then
        cargo_install cargo-nextest "$NEXTEST_VERSION"
    fi
    if selected deny && [ "${WINDLASS_CI_DENY:-0}" = 1 ] && ! cargo deny --version >/dev/null 2>&1; then
        cargo_install cargo-deny "$DENY_VERSION"
    fi
}

step_fmt() {
    cargo fmt --all --check || fail "the code is not formatted" "run: cargo fmt --all"
}

step_clippy() {
    # The second time as it is delivered, without what tests need of it.
    { cargo clippy --workspace --all-targets --locked -- -D warnings &&
        cargo clippy --package windlass --locked -- -D warnings; } ||
        fail "clippy has complaints (or the code does not compile)" \
            "fix them, or give a reason: #[expect(clippy::name, reason = \"...\")]"
}

step_test() {
    # With --workspace cargo would ignore a --package of the caller.
    local scope=(--workspace) arg
    for arg in ${nextest_args[@]+"${nextest_args[@]}"}; do
        case "$arg" in -p | -p* | --package | --package=*) scope=() ;; esac
    done
    cargo nextest run "${scope[@]}" --locked ${nextest_args[@]+"${nextest_args[@]}"} ||
        fail "tests failed" \
            "one alone: scripts/test.sh --only test TEST_NAME --no-capture"
}

step_doctest() {
    cargo test --doc --workspace --locked --quiet || fail "doc tests failed" \
        "run: cargo test --doc --workspace"
}

step_contract() {
    cargo build --locked --bin windlass || fail "the binary does not build"
    scripts/contract.sh || fail "the API and its OpenAPI document disagree" "run: scripts/contract.sh"
}

# Advisories need a database from the network: CI has a job of its own for them.
step_deny() {
    # Offline it reads every crate of the lock file, those of other platforms too.
    cargo fetch --locked --quiet || fail "could not fetch the crates of Cargo.lock"
    cargo deny --locked --offline check bans licenses sources ||
        fail "a dependency is not allowed" "deny.toml says what is, and why"
}

# $1 step, $2 title. Each step says how long it took.
run() {
    if ! selected "$1"; then return 0; fi
    say "$2"
    local started=$SECONDS
    "step_$1"
    echo "    $1: $((SECONDS - started)) s"
    summary+="  $1 $((SECONDS - started)) s"
}

say "Check the tools"
find_rust
find_packages
find_tools

summary=""
run fmt "Formatting"
run clippy "Clippy, warnings are errors"
run test "Tests"
if [ "${#nextest_args[@]}" = 0 ]; then
    run doctest "Doc tests"
    run contract "The API against its OpenAPI document"
fi
if selected deny && ! cargo deny --version >/dev/null 2>&1; then
    say "Dependencies: skipped, cargo-deny is not installed (WINDLASS_CI_DENY=1 installs it)"
else
    run deny "Dependencies: bans, licences, sources"
fi

say "All passed:$summary"
