#!/usr/bin/env bash
# What is tested on a real kube-apiserver without nodes: the suite of the lab's API server, so that both answer alike, and who
# may write what. Usage: KUBE_BIN_DIR=dir scripts/api-suite.sh      (root: a network namespace of its own)
# It never skips: without a server it fails.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${KUBE_BIN_DIR:?KUBE_BIN_DIR: where kube-apiserver and its like are}"
KUBE_BIN_DIR=$(realpath "$KUBE_BIN_DIR")
export KUBE_BIN_DIR CI=true
target=${CARGO_TARGET_DIR:-target}
cargo build --workspace --locked --bins
cargo test --workspace --locked --no-run --message-format=json-render-diagnostics >"$target/api-suite.json"

# program FOLDER: the integration test program of the package in this folder.
program() {
  sed -nE "s/.*\"package_id\":\"path\+file:\/\/[^#\"]*\/${1//\//\\/}#.*\"kind\":\[\"test\"\].*\"executable\":\"([^\"]+)\".*/\1/p" \
    "$target/api-suite.json"
}

# inside PROGRAM ARGUMENTS...: in a network namespace with addresses of the operator's replicas.
inside() {
  unshare --net sh -c 'ip link set lo up && ip address add 192.0.2.1/32 dev lo && ip address add 192.0.2.2/32 dev lo && exec "$@"' \
    sh "$@"
}
inside "$(program lab/apiserver)" --test-threads=4
inside "$(program lab/harness)" --ignored --test-threads=1 identity::
