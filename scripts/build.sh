#!/usr/bin/env bash
# Release binaries in target/release, all static: they are shipped in an image that has nothing else in it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts and macros are not of it: they cannot be static.
export RUSTFLAGS="-C target-feature=+crt-static"

cargo build --workspace --exclude xtask --exclude tombolo-cni --locked --release --target "$host" --bins
# Alone: with the features that it asks for itself, not those of the whole workspace.
cargo build --locked --release --target "$host" --package tombolo-cni
for file in "$target/$host/release"/tombolo*; do
  if [ -f "$file" ] && [ -x "$file" ]; then install -m 755 "$file" "$target/release/"; fi
done

shipped=(tombolo tombolo-agent tombolo-cni tombolo-operator)
for program in "${shipped[@]}"; do
  if readelf --program-headers "$target/release/$program" | grep -q INTERP; then
    echo "build: $program is not static" >&2
    exit 1
  fi
done
size=$(stat -c %s "$target/release/tombolo-cni")
if [ "$size" -gt 4194304 ]; then
  echo "build: the plugin has $size bytes, 4194304 are allowed" >&2
  exit 1
fi
echo "build: ${shipped[*]} are static; the plugin has $size bytes"
