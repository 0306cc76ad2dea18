#!/usr/bin/env bash
# A real control plane without nodes, for tests: etcd, kube-apiserver, some controllers, and a plain HTTP way in for an
# administrator. Prints "ready PORT DIR" and runs until its standard input ends; leaves nothing behind.
# Usage: KUBE_BIN_DIR=dir scripts/api-server.sh [more flags of kube-apiserver]
# DIR holds admin.kubeconfig, admin.token, sa.key, apiserver.crt and the logs; PORT is kubectl's proxy.
set -euo pipefail
bin=${KUBE_BIN_DIR:?KUBE_BIN_DIR: where kube-apiserver and its like are}
for program in "$bin/kube-apiserver" "$bin/kube-controller-manager" "$bin/kubectl" "$(command -v etcd || echo etcd)"; do
  [ -x "$program" ] || { echo "api-server: no $program" >&2; exit 1; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/api-server.XXXXXX")
pids=()
end() {
  trap - EXIT
  kill "${pids[@]}" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' INT TERM

# run NAME COMMAND...
run() {
  local name=$1
  shift
  "$@" >"$dir/$name.log" 2>&1 </dev/null &
  pids+=($!)
}

# until_ready WHAT LOG COMMAND...: tries for a minute.
until_ready() {
  local what=$1 log=$2 begin=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $((SECONDS - begin)) -gt 60 ]; then
      echo "api-server: no $what" >&2
      tail -n 30 "$log" >&2
      exit 1
    fi
    sleep 0.2
  done
}

# A port that nobody listens on.
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}
client=$(free_port) peer=$(free_port) secure=$(free_port)
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "$token" >"$dir/admin.token"
echo "$token,admin,admin,system:masters" >"$dir/tokens.csv"
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$dir/sa.key" 2>/dev/null

# A flag that went with 1.24.
insecure=()
case $("$bin/kube-apiserver" --version) in *v1.2[0-3].*) insecure=(--port 0) ;; esac

run etcd etcd --unsafe-no-fsync --data-dir "$dir/etcd" --listen-client-urls "http://127.0.0.1:$client" \
  --advertise-client-urls "http://127.0.0.1:$client" --listen-peer-urls "http://127.0.0.1:$peer" \
  --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer"
run apiserver "$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$client" --bind-address 127.0.0.1 \
  --secure-port "$secure" --advertise-address 127.0.0.1 --endpoint-reconciler-type none --cert-dir "$dir" \
  --token-auth-file "$dir/tokens.csv" --authorization-mode Node,RBAC --allow-privileged \
  --service-cluster-ip-range 10.0.0.0/24 --service-account-issuer https://kubernetes.default.svc \
  --service-account-signing-key-file "$dir/sa.key" --service-account-key-file "$dir/sa.key" \
  --enable-aggregator-routing "$@"
cat >"$dir/admin.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://127.0.0.1:$secure", certificate-authority: $dir/apiserver.crt}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: c, context: {cluster: c, user: admin}}]
END
until_ready kube-apiserver "$dir/apiserver.log" "$bin/kubectl" --kubeconfig "$dir/admin.kubeconfig" get --raw /readyz
# No controller that looks after nodes: there are none.
run controllers "$bin/kube-controller-manager" --kubeconfig "$dir/admin.kubeconfig" --leader-elect=false "${insecure[@]}" \
  --secure-port 0 --service-account-private-key-file "$dir/sa.key" --root-ca-file "$dir/apiserver.crt" \
  --concurrent-namespace-syncs 10 \
  --controllers garbagecollector,namespace,serviceaccount,serviceaccount-token,root-ca-cert-publisher,endpoint
run proxy "$bin/kubectl" --kubeconfig "$dir/admin.kubeconfig" proxy --port 0 --reject-paths '^$' --accept-paths '.*'
until_ready "kubectl proxy" "$dir/proxy.log" grep -q 'Starting to serve' "$dir/proxy.log"
echo "ready $(sed -nE 's/.*127\.0\.0\.1:([0-9]+).*/\1/p' "$dir/proxy.log") $dir"
cat >/dev/null
