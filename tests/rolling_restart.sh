#!/usr/bin/env bash
# Restarts three servers behind one name, one after the other, under `sagectl load` and `sagectl verify`: no request may be
# lost, and no answer wrong. The clients balance by themselves and do not try again.
#
#   tests/rolling_restart.sh [BIN [SECONDS]]   BIN: where sage-server and sagectl are, build/release/bin by default
#
# The servers share a port on three addresses of loopback; a mount namespace gives the name to these. Skips (77) where none
# can be made.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
bin=$(realpath "${1:-$root/build/release/bin}")
readonly bin
readonly seconds=${2:-20}
readonly name=sage-servers.test
readonly addresses=(127.0.0.1 127.0.0.2 127.0.0.3)

if [[ -z ${SAGE_IN_NAMESPACE-} ]]; then
  unshare --map-root-user --mount true 2>/dev/null || {
    echo 'rolling_restart.sh: skipped: no mount namespace'
    exit 77
  }
  SAGE_IN_NAMESPACE=1 exec unshare --map-root-user --mount "$0" "$bin" "$seconds"
fi

work=$(mktemp -d)
readonly work
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
printf "%s $name\n" "${addresses[@]}" >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts

servers=()
start() { # start I PORT
  local address=${addresses[$1]}
  rm -f "$work/port"
  "$bin/sage-server" --backend cpu --threads 1 --listen "$address:$2" --port-file "$work/port" --drain-delay-ms 500 \
    --log-level warn 2>>"$work/server$1.log" &
  servers[$1]=$!
  until [[ -s $work/port ]]; do
    kill -0 "${servers[$1]}" 2>/dev/null || { cat "$work/server$1.log" && exit 1; }
    sleep 0.05
  done
}
answered() { # answered I: requests since its start
  "$bin/sagectl" info --server "${addresses[$1]}:$port" --json |
    /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["statistics"]["requests_ok"])'
}

start 0 0
port=$(<"$work/port")
for i in 1 2; do start $i "$port"; done
readonly target=dns:///$name:$port

status=0
"$bin/sagectl" load --server "$target" --concurrency 4 --heads 2 --seqlen 512 --duration "${seconds}s" \
  >"$work/load.log" 2>&1 &
load=$!
(
  set +e
  verified=0
  while kill -0 $load 2>/dev/null; do
    "$bin/sagectl" verify --server "$target" --heads 2 --seqlen 512 >"$work/verify.log" 2>&1 || exit 1
    ((++verified))
  done
  echo $verified >"$work/verified"
) &
verify=$!

restarts=0
for ((next = 0; SECONDS + 3 < seconds; next = (next + 1) % 3)); do
  kill -TERM "${servers[next]}"
  wait "${servers[next]}" || { echo "server $next did not end in peace" && exit 1; }
  start "$next" "$port"
  # The next one goes once clients use this one again.
  until (($(answered "$next") > 0)); do
    kill -0 $load 2>/dev/null || break 2 # none comes any more
    sleep 0.05
  done
  ((++restarts))
done
wait $load || status=1
wait $verify || status=1
verified=$(cat "$work/verified" 2>/dev/null || echo 0)

cat "$work/load.log"
printf '%d restarts of three servers behind %s; %s answers verified; ' "$restarts" "$target" "$verified"
if ((status)); then
  echo 'a request was LOST or an answer WRONG'
  cat "$work/verify.log"
elif ((restarts == 0 || verified == 0)); then
  echo 'too little happened to tell'
  status=1
else
  echo '0 lost, 0 wrong'
fi
exit $status
