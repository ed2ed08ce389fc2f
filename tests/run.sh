#!/usr/bin/env bash
# Checks everything: formatting, scripts, clang-tidy, and the tests in the release, asan and tsan
# builds.
#
#   tests/run.sh              all stages
#   tests/run.sh STAGE...     only these: format shell release python tidy asan fuzz tsan, or tsan-grpc,
#                             which is not among all
#
# Ends with a table of the stages and one line: N passed, N failed, N skipped. That line counts each
# test case of each build, and each of the other checks as one. Exit status 1 if anything failed.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly logs=$root/build/checks
readonly all_stages=(format shell release python tidy asan fuzz tsan)
readonly other_stages=(tsan-grpc)
readonly fuzz_seconds=${FUZZ_SECONDS:-30}  # of all targets side by side
jobs=$(nproc)
readonly jobs
# Debian's interpreter, which has the packages that deploy/install-deps.sh installed.
readonly python=/usr/bin/python3

passed=0 failed=0 skipped=0

count() { # count PASSED FAILED SKIPPED
  passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

quietly() { # quietly LOG COMMAND...: shows the log's end only where the command fails
  local log=$1 status=0
  shift
  "$@" >>"$log" 2>&1 || status=$?
  ((status == 0)) || { printf '%s ended with %s; the end of %s:\n' "$1" "$status" "$log" && tail -n 60 "$log"; }
  return "$status"
}

tracked() { # tracked PATTERN...: files under version control, those not added yet included
  git -C "$root" ls-files --cached --others --exclude-standard -- "$@"
}

one_check() { # one_check COMMAND...: counts as a single test
  if "$@"; then count 1 0 0; else count 0 1 0 && return 1; fi
}

check_format() {
  tracked '*.h' '*.cc' '*.cu' '*.cuh' | xargs -r -P "$jobs" -n 16 clang-format-14 --dry-run -Werror
}

check_shell() {
  { tracked '*.sh' 'deploy/deb/*' && echo .ci/run; } | xargs shellcheck
}

check_python() {
  tracked '*.py' | xargs -r "$python" -c '
import ast, sys
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as source:
        ast.parse(source.read(), name)'
}

configure() { # configure PRESET LOG
  quietly "$2" cmake --preset "$1" -DSAGE_BUILD_TESTS=ON -DPython3_EXECUTABLE="$python"
}

# The programs' own sources, those of a library as one, so that headers are read once. Tests would double the
# time; the sanitizers judge them.
check_tidy() {
  local log=$logs/tidy.log folder=$root/build/tidy
  quietly "$log" cmake --preset release -B "$folder" -DSAGE_BUILD_TESTS=OFF -DCMAKE_UNITY_BUILD=ON \
    -DCMAKE_UNITY_BUILD_BATCH_SIZE=0 &&
    quietly "$log" cmake --build "$folder" --target sage_proto_sources || return 1
  "$python" -c '
import json, sys
for entry in json.load(open(sys.argv[1] + "/compile_commands.json")):
    name = entry["file"]
    if name.endswith((".cc", ".cxx")) and "proto_generated" not in name:
        print(name)' "$folder" |
    xargs -P "$jobs" -n 1 clang-tidy-14 -p "$folder" --quiet --checks=-bugprone-suspicious-include \
      2>>"$log"
}

build() { # build PRESET LOG [OPTION...]
  local preset=$1 log=$2
  shift 2
  configure "$preset" "$log" && quietly "$log" cmake --build --preset "$preset" "$@"
}

# run_tests PRESET NAME [CTEST OPTION...]: counts every case of every program.
run_tests() {
  local preset=$1 results=$logs/$2 status=0 counts
  shift 2
  rm -rf "$results"
  mkdir -p "$results"
  GTEST_OUTPUT=xml:$results/ ctest --test-dir "$root/build/$preset" --output-on-failure \
    --no-tests=error --output-junit "$results/ctest.junit" "$@" || status=$?
  counts=$("$python" "$root/tests/count_results.py" "$results") || return 1
  read -r -a counts <<<"$counts"
  count "${counts[@]}"
  return "$status"
}

check_or_skip() { # check_or_skip COMMAND...: a single test, which ends with 77 where it cannot run
  local status=0
  "$@" || status=$?
  case $status in
    0) count 1 0 0 ;;
    77) count 0 0 1 ;;
    *) count 0 1 0 && return 1 ;;
  esac
}

stage_format() { one_check check_format; }

stage_shell() {
  local status=0 check
  one_check check_shell || status=1
  for check in dockerfile manifests compose rules; do
    check_or_skip "$root/tests/deployment.sh" "$check" || status=1
  done
  return "$status"
}

stage_tidy() { one_check check_tidy; }

stage_release() {
  one_check build release "$logs/release.log" && run_tests release release
}

build_server() { # build_server LOG
  configure release "$1" && quietly "$1" cmake --build --preset release --target sage-server
}

# The Python client against the release build's server, with PyPI's gRPC and with Debian's.
stage_python() {
  local log=$logs/python.log reports=$root/build/python/reports status=0 counts
  one_check check_python && one_check "$root/tests/python_client.sh" check &&
    one_check build_server "$log" || return 1
  "$root/tests/python_client.sh" test "$reports" || status=1
  counts=$("$python" "$root/tests/count_results.py" --pytest "$reports"/*.xml) || return 1
  read -r -a counts <<<"$counts"
  count "${counts[@]}"
  return "$status"
}

stage_asan() {
  export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1
  one_check build asan "$logs/asan.log" && run_tests asan asan -LE 'gpu|slow|accuracy'
}

stage_tsan() {
  one_check build tsan "$logs/tsan.log" --target tsan_tests &&
    TSAN_OPTIONS=halt_on_error=1 run_tests tsan tsan -LE 'gpu|slow|integration|grpc|accuracy'
}

# Debian's gRPC is not instrumented, so that ThreadSanitizer does not see what it orders: reports of tests
# that talk through it need reading. Not among the stages that must pass.
stage_tsan-grpc() {
  one_check build tsan "$logs/tsan.log" || return 1
  local ignored=suppressions=$root/tests/sanitizers/tsan_grpc.supp
  TSAN_OPTIONS=ignore_noninstrumented_modules=1:$ignored \
    run_tests tsan tsan-grpc -L 'integration|grpc' -LE 'gpu|slow'
}

# fuzz TARGET: new inputs go to build/fuzz/corpus, one that does harm to build/fuzz/TARGET-*.
fuzz() {
  local target=$1 folder=$root/build/fuzz
  mkdir -p "$folder/corpus/$target"
  "$root/build/asan/bin/sage-fuzz" "$target" -max_total_time="$fuzz_seconds" -max_len=4096 -timeout=60 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$folder/$target-" "$folder/corpus/$target" \
    "$root/tests/fuzz/corpus/$target" >"$logs/fuzz-$target.log" 2>&1 || {
    tail -n 40 "$logs/fuzz-$target.log"
    return 1
  }
  printf '%-12s %s\n' "$target" "$(grep -o 'number_of_executed_units.*' "$logs/fuzz-$target.log")"
}

stage_fuzz() {
  local target run runs=() status=0
  one_check build asan "$logs/fuzz.log" --target sage-fuzz || return 1
  for target in "$root"/tests/fuzz/corpus/*; do
    fuzz "$(basename "$target")" &
    runs+=("$!")
  done
  for run in "${runs[@]}"; do
    one_check wait "$run" || status=1
  done
  return "$status"
}

# In one function, so that editing this file does not disturb a run.
main() {
  local stages=("$@") summary=() stage start outcome broken=
  ((${#stages[@]})) || stages=("${all_stages[@]}")
  for stage in "${stages[@]}"; do
    if [[ " ${all_stages[*]} ${other_stages[*]} " != *" $stage "* ]]; then
      printf "run.sh: unknown stage '%s'; stages: %s\n" "$stage" "${all_stages[*]} ${other_stages[*]}" >&2
      exit 2
    fi
  done

  cd "$root" || exit 1
  mkdir -p "$logs"
  "$root/deploy/install-deps.sh" --tests || exit 1
  for stage in "${stages[@]}"; do
    printf '\n==> %s\n' "$stage"
    : >"$logs/$stage.log"
    start=$SECONDS outcome=ok
    "stage_$stage" </dev/null || outcome=FAILED
    [[ $outcome == ok ]] || broken=true
    summary+=("$(printf '%-10s %-8s %5d s' "$stage" "$outcome" "$((SECONDS - start))")")
  done

  printf '\n'
  printf '%s\n' "${summary[@]}"
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [[ $failed == 0 && -z $broken ]]
}

main "$@"
