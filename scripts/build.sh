#!/usr/bin/env bash
# Release binaries in target/release; the plugin as the static program that is shipped.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')

cargo build --workspace --exclude xtask --exclude tombolo-cni --locked --release --bins
# Alone: with the features that it asks for itself, not those of the whole workspace.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target "$host" --package tombolo-cni
install -m 755 "$target/$host/release/tombolo-cni" "$target/release/tombolo-cni"

size=$(stat -c %s "$target/release/tombolo-cni")
if [ "$size" -gt 4194304 ]; then
  echo "build: the plugin has $size bytes, 4194304 are allowed" >&2
  exit 1
fi
if readelf --program-headers "$target/release/tombolo-cni" | grep -q INTERP; then
  echo "build: the plugin is not static" >&2
  exit 1
fi
echo "build: plugin is static, $size bytes"
