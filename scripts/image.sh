#!/usr/bin/env bash
# The image of all shipped programs, as an OCI archive: nothing is pulled, and nothing is in it but the programs. The same
# programs give the same bytes.
# Usage: scripts/image.sh ARCHIVE [TAG] [FOLDER OF THE PROGRAMS]
# Import: ctr -n k8s.io images import ARCHIVE      (or podman load, or any registry client that takes OCI archives)
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
archive=$(realpath -m "${1:?usage: scripts/image.sh ARCHIVE [TAG] [FOLDER OF THE PROGRAMS]}")
tag=${2:-$version}
programs=$(realpath "${3:-${CARGO_TARGET_DIR:-target}/release}")
name=tombolo.dev/tombolo:$tag
case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) echo "image: no name for the architecture $(uname -m)" >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
blobs=$work/image/blobs/sha256
mkdir -p "$work/root/etc" "$blobs"

for program in tombolo tombolo-agent tombolo-cni tombolo-operator; do
  if readelf --program-headers "$programs/$program" | grep -q INTERP; then
    echo "image: $programs/$program is not static: it would not run in an image that has no libraries" >&2
    exit 1
  fi
  install -m 755 "$programs/$program" "$work/root/$program"
done
# The C library asks DNS first where nobody tells it not to, and /etc/hosts is the kubelet's word.
echo 'hosts: files dns' >"$work/root/etc/nsswitch.conf"

# pack FOLDER: a tar archive that depends on names, contents and modes alone.
pack() {
  find "$1" -mindepth 1 -printf '%P\0' | LC_ALL=C sort --zero-terminated |
    tar --create --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --directory="$1" --no-recursion --null --files-from=-
}

# blob FILE: moves it under its digest and prints `"digest": …, "size": …`.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$blobs/$digest"
  printf '"digest": "sha256:%s", "size": %s' "$digest" "$size"
}

pack "$work/root" >"$work/layer"
diff_id=$(sha256sum "$work/layer" | cut -d' ' -f1)
layer=$(blob "$work/layer")
printf '%s' "{\"architecture\": \"$architecture\", \"os\": \"linux\", \"config\": {\"Env\": [\"PATH=/\"], \"Cmd\": [\"/tombolo\"]," \
  " \"Labels\": {\"org.opencontainers.image.version\": \"$version\"}}," \
  " \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"sha256:$diff_id\"]}}" >"$work/config"
config=$(blob "$work/config")
printf '%s' "{\"schemaVersion\": 2, \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\"," \
  " \"config\": {\"mediaType\": \"application/vnd.oci.image.config.v1+json\", $config}," \
  " \"layers\": [{\"mediaType\": \"application/vnd.oci.image.layer.v1.tar\", $layer}]}" >"$work/manifest"
manifest=$(blob "$work/manifest")
printf '%s' "{\"schemaVersion\": 2, \"manifests\": [{\"mediaType\": \"application/vnd.oci.image.manifest.v1+json\", $manifest," \
  " \"platform\": {\"architecture\": \"$architecture\", \"os\": \"linux\"}," \
  " \"annotations\": {\"io.containerd.image.name\": \"$name\", \"org.opencontainers.image.ref.name\": \"$tag\"}}]}" \
  >"$work/image/index.json"
printf '{"imageLayoutVersion": "1.0.0"}' >"$work/image/oci-layout"

mkdir -p "$(dirname "$archive")"
pack "$work/image" >"$archive.new"
mv "$archive.new" "$archive"
echo "image: $name in $archive, $(stat -c %s "$archive") bytes, ${manifest%%,*}"
