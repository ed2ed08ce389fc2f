#!/usr/bin/env bash
# Serves attention from this machine's GPU and holds the answers against the float64 reference, host to
# host through gRPC: odd shapes, both layouts and dtypes, grouped heads, causal, masks, lengths.
#
#   tests/gpu_served.sh PROGRAM_DIR        where sage-server and sagectl are, for instance
#                                          build/release/bin
#
# Ends with one line: N passed, N failed. Exit status 1 if anything failed, 77 without a GPU.
set -uo pipefail

programs=${1:?usage: tests/gpu_served.sh PROGRAM_DIR}
work=$(mktemp -d)
passed=0 failed=0
server_pid=
trap '[[ -z $server_pid ]] || kill "$server_pid" 2>/dev/null; rm -rf "$work"' EXIT

if [[ ! -e /dev/nvidiactl ]]; then
  echo 'gpu_served: no GPU on this machine, skipped'
  exit 77
fi

"$programs/sage-server" --backend cuda --listen 127.0.0.1:0 --port-file "$work/port" \
  --log-level warn 2>"$work/server.log" &
server_pid=$!
for ((attempt = 0; attempt < 300; ++attempt)); do
  [[ -s $work/port ]] && break
  kill -0 "$server_pid" 2>/dev/null || break
  sleep 0.1
done
if [[ ! -s $work/port ]]; then
  cat "$work/server.log"
  echo 'gpu_served: the server did not start'
  exit 1
fi
SAGE_SERVER=127.0.0.1:$(<"$work/port")
export SAGE_SERVER
"$programs/sagectl" info

verify() { # verify OPTION...: one call, any number of rows
  if "$programs/sagectl" verify "$@" | { [[ -z ${header-} ]] && cat || tail -n +2; }; then
    ((++passed))
  else
    ((++failed))
    echo "failed: sagectl verify $*"
  fi
  header=shown
}

precisions=qk_int8_pv_fp16,fp16
# From sm_89 on.
if [[ $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .) -ge 89 ]]; then
  precisions+=,qk_int8_pv_fp8
fi
odd=1,63,64,65,127,128,129,1000
for layout in HND NHD; do
  for dtype in fp16 bf16; do
    verify --seqlen $odd --head-dim 64,128 --precision $precisions --layout $layout --dtype $dtype
    verify --seqlen $odd --head-dim 64,72 --precision $precisions --layout $layout --dtype $dtype \
      --batch 2 --heads 8 --kv-heads 2 --causal --density 0.5
  done
done
verify --heads 8 --kv-heads 1 --seqlen-q 129 --seqlen-k 1000 --causal --precision $precisions
verify --heads 4 --seqlen-q 1000 --seqlen-k 65 --causal --density 0.3 --precision $precisions
verify --batch 2 --heads 4 --seqlen 1000 --seqlens-q 1000,129 --seqlens-k 65,1000 --density 0.5
verify --heads 2 --seqlen 4096 --pattern sliding_window:4,0 --causal
verify --heads 32 --seqlen 8192 --head-dim 64,128 --precision $precisions
verify --heads 32 --seqlen 8192 --head-dim 128 --density 0.25
verify --heads 32 --seqlen 8192 --head-dim 64,128 --prequantize
verify --heads 32 --kv-heads 8 --seqlen 8192 --head-dim 128 --causal --density 0.5 --dtype bf16

kill -TERM "$server_pid"
wait "$server_pid"
status=$?
server_pid=
if ((status == 0)); then ((++passed)); else ((++failed)); fi
cat "$work/server.log"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
