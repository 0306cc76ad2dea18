#!/usr/bin/env bash
# Installs what the build, the tests, the demo and the bench need on Debian 12, as far as it is missing. With the argument
# `e2e` also what the suite on a real Kubernetes needs.
set -euo pipefail

# Program or file that must exist, and the package that brings it.
needs=(
  "gcc gcc"                                 # linker
  "/usr/include/stdio.h libc6-dev"          # C library for it
  "ip iproute2"                             # asserts on links, routes and rules
  "nft nftables"                            # asserts on our tables
  "tcpdump tcpdump"                         # captures
  "iptables-legacy iptables"                # rules of others beside ours; portmap and firewall run it
  "conntrack conntrack"                     # asserts on connections
  "ping iputils-ping"                       # connectivity
  "kill procps"                             # processes of the lab
  "sysctl procps"
  "nsenter util-linux"                      # namespaces
  "/usr/lib/cni/ptp containernetworking-plugins" # the bench's peer; chains of plugins
  "containerd containerd"                   # runtimes that nobody here wrote; the lab starts its own
  "runc runc"
  "podman podman"
  "/bin/busybox busybox-static"             # their images are made of it
  "readelf binutils"                        # tells what is static
  "tc iproute2"                             # asserts on what a chained plugin did
  "kubectl kubernetes-client"               # the lab's API server is asked by a real client
)

[ "${1:-}" != e2e ] || needs+=(
  "containerd containerd"                   # runs the pods (where systemd runs, the package starts one of its own)
  "runc runc"
  "iptables iptables"                       # kube-proxy's
  "etcd etcd-server"                        # the API server's store
  "/usr/share/doc/busybox-static busybox-static" # programs of the pods
  "openssl openssl"                         # certificates of the cluster
  "curl curl"                               # requests that kubectl does not make
  "dpkg-source dpkg-dev"                    # Kubernetes is built from Debian's source package
  "/usr/lib/go-1.19/bin/go golang-1.19-go"
  "rsync rsync"
)

export PATH="$PATH:/usr/sbin:/sbin"
missing=()
for need in "${needs[@]}"; do
  read -r proof package <<<"$need"
  case $proof in
    /*) [ -e "$proof" ] && continue ;;
    *) command -v "$proof" >/dev/null && continue ;;
  esac
  case " ${missing[*]-} " in *" $package "*) ;; *) missing+=("$package") ;; esac
done

if ! command -v cargo >/dev/null; then
  echo "setup: no cargo in PATH; install the Rust toolchain that rust-toolchain.toml names" >&2
  exit 1
fi
if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: nothing is missing"
  exit 0
fi
echo "setup: missing packages: ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: not root; run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "setup: no apt-get here; install what these Debian packages bring: ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "setup: apt-get update"
apt-get update -qq
echo "setup: apt-get install ${missing[*]}"
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
