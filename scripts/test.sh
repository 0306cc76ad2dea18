#!/usr/bin/env bash
# Everything that must hold before a change goes in, in phases. Ends with seconds a phase and one line of totals; exit code
# 1 on any failure. With CI=true a test that cannot run here fails instead of being skipped.
# Usage: scripts/test.sh [PHASE...]      (default: all; `compile` always)
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
target=${CARGO_TARGET_DIR:-target}
logs=$target/test-logs
mkdir -p "$logs"

if [ "$(id -u)" -ne 0 ]; then
  echo "test: not root: tests that need network namespaces are skipped, or fail with CI=true" >&2
fi

reports=$logs/reports
summary=() broken=()
passed=0 failed=0 skipped=0 started=$SECONDS

# phase NAME COMMAND...: runs it, takes its time, counts its tests. Of one that fails, what failed is shown: the reports of the
# failed tests, or the end of its output.
phase() {
  local name=$1 log=$logs/$1.log begin=$SECONDS result=ok here
  shift
  : >"$reports"
  case " $wanted compile " in "  compile " | *" $name "*) ;; *) return 0 ;; esac
  printf '== %s\n' "$name"
  "$@" >"$log" 2>&1 || result=FAILED
  passed=$((passed + $(sum passed "$log")))
  skipped=$((skipped + $(grep -c '^SKIP ' "$log")))
  if [ $result = ok ]; then
    grep -E '^(test result:|arch:|build:|setup:|fuzz:|model:|SKIP )' "$log" | grep -v ' 0 passed; 0 failed'
  else
    if [ -s "$reports" ]; then cat "$reports"; else tail -n 100 "$log"; fi
    # A phase that is no test program, or that did not come to its tests, is one failure.
    here=$(sum failed "$log")
    failed=$((failed + (here > 0 ? here : 1)))
  fi
  summary+=("$(printf '%-12s %6d s  %s' "$name" $((SECONDS - begin)) $result)")
  [ $result = ok ]
}

# sum WORD LOG: adds the numbers before the word in the closing lines of test programs.
sum() {
  sed -nE "s/^test result:.* ([0-9]+) $1.*/\1/p" "$2" | awk '{ n += $1 } END { print n + 0 }'
}

fmt() {
  cargo fmt --all --check -- -l && cargo fmt --manifest-path bench/Cargo.toml --check -- -l
}

clippy() {
  cargo clippy --workspace --all-targets --locked -- -D warnings
}

# Test programs and binaries of the dev profile; lists "folder kind program" of every test program.
compile() {
  cargo build --workspace --locked --bins &&
    cargo test --workspace --locked --no-run --message-format=json-render-diagnostics >"$logs/artifacts.json" &&
    sed -nE 's/.*"package_id":"path\+file:\/\/([^#"]*)#.*"kind":\["([a-z]+)".*"overflow_checks":[a-z]+,"test":true.*"executable":"([^"]+)".*/\1 \2 \3/p' \
      "$logs/artifacts.json" >"$logs/programs" && [ -s "$logs/programs" ]
}

# run_programs PATTERN: runs the test programs whose "folder kind" match, each in its package's folder, as cargo does.
run_programs() {
  local folder kind program name status=0 output=$logs/program.log
  while read -r folder kind program; do
    [[ "$folder $kind" =~ $1 ]] || continue
    name="${folder#"$PWD"/} ($kind)"
    echo "-- $name"
    if (cd "$folder" && "$program" --show-output) >"$output" 2>&1; then
      cat "$output"
    else
      status=1
      cat "$output"
      report "$name" "$output" >>"$reports"
    fi
  done <"$logs/programs"
  return $status
}

# report NAME OUTPUT: what a test program said of its failed tests, or its last lines where it died before it could.
report() {
  echo "-- $1 FAILED"
  if grep -q '^failures:$' "$2"; then sed -n '/^failures:$/,$p' "$2"; else tail -n 100 "$2"; fi
  broken+=("$(sed -nE "s/^test (.*) \.\.\. FAILED$/FAILED  ${1//\//\\/}  \1/p" "$2")")
}

wanted="${*:-}"
rm -f "$logs"/*.log
phase setup scripts/setup.sh
phase fmt fmt
phase clippy clippy
if phase compile compile; then
  phase arch "$target/debug/xtask" arch
  phase codegen "$target/debug/xtask" codegen --check
  phase release scripts/build.sh
  # Pure logic, then the kernel in namespaces of our own, then the plugin beside others, then whole labs.
  phase unit run_programs ' (lib|bin)$'
  phase model run_programs '/model test$'
  phase kernel run_programs '/(core|fuzz|edge/[^ ]*|bin/[^ ]*|lab/(vpc|apiserver|runner)|xtask) test$'
  phase conformance run_programs '/lab/conformance test$'
  phase lab run_programs '/lab/harness test$'
  # containerd and podman with the shipped plugin.
  phase runtime run_programs '/lab/runtime test$'
fi

printf '\n'
printf '%s\n' "${summary[@]}"
[ ${#broken[@]} -eq 0 ] || printf '%s\n' "${broken[@]}"
result=ok
[ "$failed" -eq 0 ] || result=FAILED
printf 'test result: %s. %d passed; %d failed; %d skipped; finished in %d s\n' \
  "$result" "$passed" "$failed" "$skipped" $((SECONDS - started))
[ $result = ok ]
