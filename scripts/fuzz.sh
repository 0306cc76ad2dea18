#!/usr/bin/env bash
# Runs every fuzz target for some seconds, guided by coverage counters: an instrumented build of the unit tests, in a target
# folder of its own. Exit code 1 where one found something; it is kept in fuzz/corpus then, and `make test` replays it.
# Usage: scripts/fuzz.sh SECONDS [TEST-FILTER] [1: keep inputs that reach new code]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60} filter=${2:-} keep=${3:-0}
target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')

# Every package whose tests use the runner, and that has no other reason to be built.
packages=()
while read -r manifest; do
  packages+=(-p "$(sed -n 's/^name = "\(.*\)"$/\1/p' "$manifest" | head -n 1)")
done < <(grep -lE '^tombolo-fuzz\.workspace' core/Cargo.toml edge/*/Cargo.toml bin/*/Cargo.toml lab/*/Cargo.toml)

# Only what runs on the target is instrumented (--target), not build scripts and macros, which nothing would count.
export RUSTFLAGS="${RUSTFLAGS:-} -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
export CARGO_TARGET_DIR=$target/fuzz CARGO_PROFILE_DEV_OPT_LEVEL=1
programs=$(mktemp)
trap 'rm -f "$programs"' EXIT
cargo test --locked --target "$host" --lib --bins "${packages[@]}" --no-run --message-format=json-render-diagnostics |
  sed -nE 's/.*"package_id":"path\+file:\/\/([^#"]*)#.*"overflow_checks":true,"test":true.*"executable":"([^"]+)".*/\1 \2/p' >"$programs"

export FUZZ_SECONDS=$seconds FUZZ_KEEP=${keep:-0}
status=0
while read -r folder program; do
  # One thread: the counters are the process's, not a target's.
  mapfile -t tests < <("$program" --list --format terse | sed -n 's/: test$//p' | grep -E '(^|::)fuzz(::|$)|::fuzz_' | grep -F -- "$filter")
  [ ${#tests[@]} -gt 0 ] || continue
  (cd "$folder" && "$program" --test-threads=1 --show-output --exact "${tests[@]}") 2>&1 |
    grep -E '^(fuzz:|  |test .* FAILED|.*panicked at)' || true
  [ "${PIPESTATUS[0]}" -eq 0 ] || status=1
done <"$programs"
exit $status
