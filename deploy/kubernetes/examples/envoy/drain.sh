#!/bin/bash
# What a pod of Envoy does before it is ended, since Envoy leaves at once on SIGTERM: its health fails, so that balancers pass it
# over and each connection is told to end; then it waits for the requests that run. The pod's grace period is the limit.
#
#   drain.sh [SECONDS]    SECONDS: for balancers to notice, 15 by default
set -euo pipefail

admin() { # admin METHOD PATH
  exec 3<>/dev/tcp/127.0.0.1/9901
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3>&-
}
running() { [[ $(admin GET '/stats?filter=^http.clients.downstream_rq_active$') =~ downstream_rq_active:\ [1-9] ]]; }

admin POST /healthcheck/fail
sleep "${1:-15}"
while running; do sleep 1; done
