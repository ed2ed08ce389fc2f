#!/usr/bin/env bash
# Installs the packages of Debian 12, or Ubuntu 24.04, that the project needs to be built, run and tested.
#
#   deploy/install-deps.sh               to build and run
#   deploy/install-deps.sh --tests       and to run tests/run.sh
#   deploy/install-deps.sh --packages    and to make Debian packages
#
# Packages that are there already are left alone; where none is missing, nothing is fetched.
set -euo pipefail

build_packages=(
  cmake g++ make ninja-build pkg-config
  libabsl-dev libgrpc++-dev libhwy-dev libprotobuf-dev libspdlog-dev libssl-dev
  libcli11-dev nlohmann-json3-dev libpng-dev libtomlplusplus-dev prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc
)
test_packages=(
  ccache clang-14 clang-format-14 clang-tidy-14 git libclang-rt-14-dev lld shellcheck
  libbenchmark-dev libgmock-dev libgtest-dev openssl
  python3 python3-grpcio python3-numpy python3-protobuf python3-pytest python3-venv zsh
)
package_packages=(ccache dpkg-dev file)

say() { printf 'install-deps: %s\n' "$*" >&2; }

packages=("${build_packages[@]}")
case "${1-}" in
  '') ;;
  --tests) packages+=("${test_packages[@]}") ;;
  --packages) packages+=("${package_packages[@]}") ;;
  *)
    say "unknown argument '$1'; usage: deploy/install-deps.sh [--tests|--packages]"
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  say "no apt-get here. On Debian 12 this installs: ${packages[*]}"
  say "on another system, install their counterparts and build with: cmake --preset release"
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  say "all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    say "not root, and no sudo. Run as root: apt-get install --no-install-recommends ${missing[*]}"
    exit 1
  fi
  as_root=(sudo)
fi
say "installing ${missing[*]}"
"${as_root[@]}" apt-get update -q >/dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
