#!/usr/bin/env bash
# Works a server for a while and sees that nothing is left behind: mixed shapes, resident tensors, a tenth of
# the requests cancelled, one in a hundred malformed, one in twenty verified.
#
#   tests/soak.sh [MINUTES [SERVER]]   20 minutes of build/release/bin/sage-server unless told otherwise
#
# Needs protoc and Debian's packages of deploy/install-deps.sh --tests. Prints what was done, the memory before
# and after by the server's own metrics, and the slope of its resident memory. Exit status 1 where an answer was
# wrong or anything is left.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly minutes=${1:-20}
readonly server=${2:-$root/build/release/bin/sage-server}
work=$(mktemp -d)
server_pid=
trap '[[ -z $server_pid ]] || kill "$server_pid" 2>/dev/null; rm -rf "$work"' EXIT

# The package beside its descriptors, as its build puts it.
cp -r "$root/client/python/sage_client" "$work/"
(cd "$root/proto" && find . -name '*.proto' -printf '%P\n' |
  xargs protoc -I . --include_imports --descriptor_set_out="$work/sage_client/sage_v1.binpb")

metrics_port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --backend cpu --listen 127.0.0.1:0 --port-file "$work/port" --log-level error \
  --metrics-listen "127.0.0.1:$metrics_port" &
server_pid=$!
for ((attempt = 0; attempt < 600; ++attempt)); do
  [[ -s $work/port ]] && break
  kill -0 "$server_pid"
  sleep 0.1
done
PYTHONPATH=$work:$root/client/python/tests /usr/bin/python3 "$root/tests/soak.py" \
  "127.0.0.1:$(<"$work/port")" "127.0.0.1:$metrics_port" "$server_pid" "$minutes"
