#!/usr/bin/env bash
# Asks a real Prometheus, which scrapes a server under `sagectl load`, every query of the dashboard and every expression of
# the rules: each must answer with data.
#
#   tests/monitoring.sh [BIN]    BIN: where sage-server and sagectl are, build/release/bin by default
#
# Wants Debian's prometheus; takes a minute. Skips (77) where there is none.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly bin=${1:-$root/build/release/bin}
command -v prometheus >/dev/null || {
  echo 'monitoring.sh: skipped: no prometheus'
  exit 77
}

work=$(mktemp -d)
readonly work
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT

"$bin/sage-server" --backend cpu --listen 127.0.0.1:0 --port-file "$work/port" --metrics-listen 127.0.0.1:0 \
  2>"$work/server.log" &
server=$!
until [[ -s $work/port ]]; do
  kill -0 "$server" 2>/dev/null || { cat "$work/server.log" && exit 1; }
  sleep 0.1
done
metrics_port=$(grep -o 'metrics_port=[0-9]*' "$work/server.log" | cut -d= -f2)

mkdir "$work/prometheus"
cp "$root"/deploy/prometheus/{recording,alerts}.yml "$work/prometheus/"
sed -i 's/interval: 15s/interval: 1s/' "$work/prometheus/recording.yml"
sed "s/server:9464/127.0.0.1:$metrics_port/; s/scrape_interval: 15s/scrape_interval: 1s/" \
  "$root/deploy/prometheus/prometheus.yml" >"$work/prometheus/prometheus.yml"
prometheus_port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
prometheus --config.file="$work/prometheus/prometheus.yml" --storage.tsdb.path="$work/data" \
  --web.listen-address="127.0.0.1:$prometheus_port" 2>"$work/prometheus.log" &

"$bin/sagectl" load --server "127.0.0.1:$(<"$work/port")" --concurrency 2 --seqlen 512 --sparsity 0.5 --duration 25s \
  >"$work/load.log" 2>&1 &
load=$!
sleep 20 # of scrapes
/usr/bin/python3 "$root/tests/ask_prometheus.py" "http://127.0.0.1:$prometheus_port" "$root/deploy"
wait "$load" || { cat "$work/load.log" && exit 1; }
