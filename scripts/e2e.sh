#!/usr/bin/env bash
# The suite on a real Kubernetes: etcd, API server, controller manager, scheduler; kubelet, containerd and kube-proxy on every
# node of a simulated VPC, and Tombolo installed from deploy/. It never passes by skipping: what is missing is built, or fails.
#
# KUBE_BIN_DIR  folder of Kubernetes' programs, 1.20 or later (from 1.31 on kube-proxy's nftables mode is checked, too); without it
#               1.20.2 is built below target/ (6 minutes, once)
# PREVIOUS      archive of an image with the tag `previous`, for the upgrade; without it one is built from PREVIOUS_COMMIT (HEAD~1)
# Usage: scripts/e2e.sh [ARGUMENTS OF tombolo-e2e run]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
[ "$(id -u)" -eq 0 ] || { echo "e2e: root is needed" >&2; exit 1; }

scripts/setup.sh e2e
if [ -z "${KUBE_BIN_DIR:-}" ]; then
  scripts/kubernetes.sh "$target/kubernetes"
  export KUBE_BIN_DIR=$target/kubernetes/bin
fi
make --no-print-directory image

if [ -z "${PREVIOUS:-}" ]; then
  commit=$(git rev-parse --verify "${PREVIOUS_COMMIT:-HEAD~1}^{commit}")
  PREVIOUS=$target/e2e/$commit.tar
  if [ ! -e "$PREVIOUS" ]; then
    echo "e2e: build the image of $commit"
    tree=$target/e2e/tree
    git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
    mkdir -p "$target/e2e"
    git worktree add --detach --force "$tree" "$commit"
    CARGO_TARGET_DIR=$target/e2e/target make --no-print-directory -C "$tree" image TAG=previous
    cp "$target/e2e/target/image/tombolo.tar" "$PREVIOUS.new"
    mv "$PREVIOUS.new" "$PREVIOUS"
    git worktree remove --force "$tree"
  fi
fi

scripts/api-suite.sh
exec "$target/release/tombolo-e2e" run --image "$target/image/tombolo.tar" --previous "$PREVIOUS" --deploy deploy "$@"
