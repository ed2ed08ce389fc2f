#!/usr/bin/env bash
# From a clone to a verified answer: installs what is needed, builds, starts the server on the CPU
# backend, has sagectl compare its answers with the float64 reference, and stops the server.
#
#   deploy/quickstart.sh [--keep]
#
# --keep leaves the server running and says how to use and stop it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly programs=$root/build/release/bin
readonly build_log=$root/build/quickstart.log
readonly server_log=$root/build/quickstart-server.log
readonly port_file=$root/build/quickstart.port
readonly start_attempts=100

keep=false
case "${1-}" in
  '') ;;
  --keep) keep=true ;;
  *)
    printf "quickstart: unknown argument '%s'; usage: deploy/quickstart.sh [--keep]\n" "$1" >&2
    exit 2
    ;;
esac

step() { printf '\n==> %s\n' "$*"; }
fail() {
  printf '\nquickstart: %s\n' "$1" >&2
  [[ -z ${2-} ]] || { printf 'The end of %s:\n' "$2" && tail -n 40 "$2"; } >&2
  exit 1
}

server_pid=
stop_server() {
  [[ -n $server_pid ]] || return 0
  local pid=$server_pid status=0
  server_pid=
  kill -TERM "$pid"
  wait "$pid" || status=$?
  return "$status"
}
trap 'stop_server || true' EXIT

step 'Installing packages'
"$root/deploy/install-deps.sh"

step "Building (log: $build_log)"
mkdir -p "$root/build"
{
  cd "$root"
  cmake --preset release -DSAGE_BUILD_TESTS=OFF
  cmake --build --preset release --target sage-server sagectl
} >"$build_log" 2>&1 || fail 'the build failed' "$build_log"

step 'Starting the server on the CPU backend'
rm -f "$port_file"
"$programs/sage-server" --backend cpu --listen 127.0.0.1:0 --port-file "$port_file" \
  2>"$server_log" &
server_pid=$!
for ((attempt = 1; ; ++attempt)); do
  kill -0 "$server_pid" 2>/dev/null || fail 'the server ended early' "$server_log"
  if [[ -s $port_file ]]; then
    address=127.0.0.1:$(<"$port_file")
    "$programs/sagectl" info --server "$address" && break
  fi
  ((attempt < start_attempts)) || fail 'the server does not answer' "$server_log"
  sleep 0.1
done

step 'Comparing answers with the float64 reference'
verify=("$programs/sagectl" verify --server "$address")
"${verify[@]}" --seqlen 512,2048 --head-dim 64,128 --density 0.25 \
  --precision qk_int8_pv_fp16,qk_int8_pv_fp8,fp16 || fail 'an answer is wrong' "$server_log"
"${verify[@]}" --heads 8 --kv-heads 2 --seqlen-q 1000 --seqlen-k 3000 --density 0.5 --causal \
  --layout NHD --dtype bf16 || fail 'an answer is wrong' "$server_log"

if $keep; then
  trap - EXIT
  step "The server listens on $address (process $server_pid, log: $server_log)"
  printf '  %s\n' "export SAGE_SERVER=$address" "$programs/sagectl verify --help" \
    "kill $server_pid   # stops it; running requests end first"
  exit 0
fi

step 'Stopping the server'
stop_server || fail 'the server did not end in peace' "$server_log"
printf 'Done. Programs: %s/sage-server, %s/sagectl\n' "$programs" "$programs"
