#!/usr/bin/env bash
# Kubernetes' own programs from Debian's source package (1.20.2), built with Debian's Go 1.19, for the suite that runs on a
# real cluster. Usage: scripts/kubernetes.sh DIR      (about 6 minutes on two cores; nothing is done where DIR is complete)
# Needs dpkg-dev, golang-1.19-go, rsync and make. The machine's apt configuration stays as it is.
set -euo pipefail
out=$(realpath -m "${1:?usage: scripts/kubernetes.sh DIR}")
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
go=/usr/lib/go-1.19/bin

missing() {
  local program
  for program in "${programs[@]}"; do [ -x "$out/bin/$program" ] || echo "$program"; done
}
if [ -z "$(missing)" ]; then
  echo "kubernetes: $out/bin is complete"
  exit 0
fi
[ -x $go/go ] || { echo "kubernetes: no $go/go: install golang-1.19-go" >&2; exit 1; }

# A sources list of our own: the host's has no deb-src lines, and is not ours to change.
apt=$out/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$out/bin"
{
  sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) +bookworm +.*/deb-src \1\2 bookworm main/p' /etc/apt/sources.list 2>/dev/null || true
  cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '
    /^URIs:/ { uri = $2 } /^Suites:/ { plain = 0; for (i = 2; i <= NF; i++) if ($i == "bookworm") plain = 1 }
    /^Signed-By:/ { key = $2 }
    /^$/ { if (uri && plain) print "deb-src " (key ? "[signed-by=" key "] " : "") uri " bookworm main"; uri = key = ""; plain = 0 }
    END { if (uri && plain) print "deb-src " (key ? "[signed-by=" key "] " : "") uri " bookworm main" }' || true
} | sort -u | head -n 1 >"$apt/sources.list"
[ -s "$apt/sources.list" ] || { echo "kubernetes: no source for Debian bookworm in apt's configuration" >&2; exit 1; }
options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
  -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
echo "kubernetes: fetch the source package"
apt-get "${options[@]}" update -qq
src=$out/go/src/k8s.io
rm -rf "$src"
mkdir -p "$src"
(cd "$src" && apt-get "${options[@]}" source -qq kubernetes >/dev/null)
# Its own build generates code by the path of the tree.
mv "$src"/kubernetes-1.20* "$src/kubernetes"

# The tree's copy of reflect2 is older than Go 1.18, whose iterator over maps takes its state from the caller: with the old call
# every program dies at the first custom object that it writes.
cat >"$src/kubernetes/vendor/github.com/modern-go/reflect2/map_iterator.go" <<'END'
package reflect2

import "unsafe"

// Room for the runtime's own iterator, which begins with key and value.
type mapState struct {
	hiter
	rest [16]uintptr
}

//go:noescape
//go:linkname beginMap reflect.mapiterinit
func beginMap(rtype unsafe.Pointer, m unsafe.Pointer, state *mapState)

func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer) *hiter {
	state := new(mapState)
	beginMap(rtype, m, state)
	return &state.hiter
}
END
perl -0pi -e 's{(?://[^\n]*\n)*//go:linkname mapiterinit reflect.mapiterinit\nfunc mapiterinit\([^\n]*\n}{}' \
  "$src/kubernetes/vendor/github.com/modern-go/reflect2/unsafe_link.go"

echo "kubernetes: build ${programs[*]}"
export GOPATH=$out/go GO111MODULE=off CGO_ENABLED=0 GOFLAGS='' GOTOOLCHAIN=local GOCACHE=$out/gocache PATH=$go:$PATH
make -C "$src/kubernetes" WHAT="${programs[*]/#/cmd/}" >"$out/build.log" 2>&1 || { tail -n 40 "$out/build.log" >&2; exit 1; }
for program in "${programs[@]}"; do
  install -m 755 "$src/kubernetes/_output/local/bin/linux/amd64/$program" "$out/bin/$program"
done
rm -rf "$out/go" "$out/gocache" "$apt"
"$out/bin/kubelet" --version
