#!/usr/bin/env bash
# Proves how the server behaves in operation, on the CPU backend: overload of device and network, deadlines, cancellation, rolling
# restarts, of three servers behind one name too, fairness between tenants. Prints each figure beside its goal.
#
#   tests/operation.sh [BIN [SECONDS]]   BIN: where operation_bench and sage-server are, build/release/bin by
#                                        default; SECONDS of each proof, 20 by default
#
# Exit status 1 where a goal is missed. Other load on the machine shows in the figures.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly bin=${1:-$root/build/release/bin}
readonly seconds=${2:-20}

status=0
for proof in deadline overload queue network cancel restart fairness; do
  "$bin/operation_bench" "$proof" "$seconds" || status=1
done
"$root/tests/rolling_restart.sh" "$bin" "$seconds" || [[ $? == 77 ]] || status=1
exit "$status"
