#!/usr/bin/env bash
# Installs what the build, the tests, the demo and the bench need on Debian 12, as far as it is missing.
set -euo pipefail

# Program or file that must exist, and the package that brings it.
needs=(
  "gcc gcc"                                 # linker
  "/usr/include/stdio.h libc6-dev"          # C library for it
  "ip iproute2"                             # asserts on links, routes and rules
  "nft nftables"                            # asserts on our tables
  "tcpdump tcpdump"                         # captures
  "conntrack conntrack"                     # asserts on connections
  "ping iputils-ping"                       # connectivity
  "kill procps"                             # processes of the lab
  "sysctl procps"
  "nsenter util-linux"                      # namespaces
  "/usr/lib/cni/ptp containernetworking-plugins" # the bench's peer; what conformance is compared with
  "tc iproute2"                             # asserts on what a chained plugin did
  "iptables iptables"                       # for Debian's portmap and firewall, chained after ours
  "kubectl kubernetes-client"               # the lab's API server is asked by a real client
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
