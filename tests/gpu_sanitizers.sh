#!/usr/bin/env bash
# Runs a reduced GPU suite under compute-sanitizer: memcheck, racecheck, initcheck and synccheck, each
# over both forms of the kernels. Needs a GPU and CUDA's compute-sanitizer; a few minutes.
#
#   tests/gpu_sanitizers.sh [folder of the test programs]      default: build/release/tests
set -euo pipefail
cd "$(dirname "$0")/.."

tests=${1:-build/release/tests}
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [[ ! -x $sanitizer ]]; then
  echo "gpu_sanitizers.sh: skipped: no compute-sanitizer found" >&2
  exit 77
fi
if "$tests/cuda_quantization_test" | grep -q "no usable CUDA device"; then
  echo "gpu_sanitizers.sh: skipped: no usable CUDA device" >&2
  exit 77
fi

contract='*KeysPast*:*Causal*:*Nothing*:*ValueAffects*:*EmptyRows*:*Cut*'
for tool in memcheck racecheck initcheck synccheck; do
  echo "== $tool"
  check=("$sanitizer" --tool "$tool" --error-exitcode 1)
  "${check[@]}" "$tests/cuda_work_list_test"
  "${check[@]}" "$tests/cuda_contract_test" --gtest_filter="$contract"
  SAGE_CUDA_PATH=sm80_compact "${check[@]}" "$tests/cuda_contract_test" --gtest_filter="$contract"
  SAGE_RANDOM_PROBLEMS=15 "${check[@]}" "$tests/cuda_attention_test" --gtest_filter='*Random*'
done
