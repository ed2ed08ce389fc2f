#!/usr/bin/env bash
# Builds the images of deploy/Dockerfile without a daemon, from bases made here by debootstrap, and proves of the CPU image:
# it answers `sagectl verify` of the client image, runs on a read-only root without capabilities, writes nowhere but to its
# volume, ends on SIGTERM within its drain timeout under load, and says what is in it.
#
#   tests/container.sh          images server-cpu and client, and their proofs
#   tests/container.sh server   the image with CUDA too, where this machine has nvcc, for sm_80 alone (CUDA_ARCHITECTURES, `fat` for
#                               those of a release, which takes long): that it has their kernels, and starts, on the CPU
#                               where there is no GPU, unless it was told not to
#
# Wants root, buildah, podman, runc, debootstrap and Debian's mirror. Skips (77) where something is missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly drain_seconds=20
# shellcheck source=tests/debian_root.sh
source "$root/tests/debian_root.sh"

skip() {
  printf 'container.sh: skipped: %s\n' "$1"
  exit 77
}
((EUID == 0)) || skip 'not root'
for tool in buildah podman runc debootstrap; do
  command -v "$tool" >/dev/null || skip "no $tool"
done

step() { printf '\n==> %s\n' "$*"; }
fail() {
  printf 'container.sh: %s\n' "$*" >&2
  exit 1
}

work=$(mktemp -d /tmp/sage-container.XXXXXX)
readonly work
cleanup() {
  local cid
  for cid in "$work"/*.cid; do
    [[ ! -s $cid ]] || podman rm -f "$(<"$cid")" >/dev/null 2>&1 || true
  done
  rm -rf "$work"
}
trap cleanup EXIT
export CONTAINERS_STORAGE_CONF=$work/storage.conf
mkdir -p "$root/build/containers"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' \
  "$root/build/containers/storage" "$work/run" >"$CONTAINERS_STORAGE_CONF"

import() { # import FOLDER IMAGE
  tar -C "$1" -c . | podman import -q - "$2" >/dev/null
}
build() { # build TARGET [OPTION...]
  local target=$1
  shift
  # Folded into one layer a stage: vfs copies whole layers.
  buildah bud --isolation chroot --build-arg BASE_IMAGE=localhost/sage-base \
    ${CMAKE_BUILD_PARALLEL_LEVEL:+--build-arg CMAKE_BUILD_PARALLEL_LEVEL="$CMAKE_BUILD_PARALLEL_LEVEL"} "$@" \
    --target "$target" -t "localhost/sage-$target" -f "$root/deploy/Dockerfile" "$root" >"$work/$target.log" 2>&1 || {
    tail -n 40 "$work/$target.log"
    fail "target $target does not build"
  }
  podman image inspect --format '{{.Size}}' "localhost/sage-$target" | awk -v name="$target" '{printf "%s: %.0f MB\n", name, $1 / 1e6}'
}
run() { # run OPTION... IMAGE ARGUMENT...: as Kubernetes would, but on this machine's network
  podman --runtime runc run --network=host --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --cap-drop=all \
    --security-opt no-new-privileges "$@"
}
client() { run --rm --read-only localhost/sage-client "$@"; }

start() { # start NAME IMAGE OPTION...: a server whose volume is $work/NAME; sets `address`
  local name=$1 image=$2 attempt
  shift 2
  install -d -o 10001 -g 10001 "$work/$name"
  run -d --cidfile "$work/$name.cid" --name "$name" -v "$work/$name:/run/sage" "$@" "$image" --listen 127.0.0.1:0 \
    --listen unix:/run/sage/sage.sock --port-file /run/sage/port --drain-timeout-ms "${drain_seconds}000" >/dev/null
  for ((attempt = 0; attempt < 200; ++attempt)); do
    [[ ! -s $work/$name/port ]] || break
    sleep 0.1
  done
  [[ -s $work/$name/port ]] || { podman logs "$name" && fail "$name does not start"; }
  address=127.0.0.1:$(<"$work/$name/port")
}
healthy() { podman --runtime runc exec "$1" sage-server --health-check unix:/run/sage/sage.sock; }
stop() { # stop NAME: ends in peace, in time
  local begin=$SECONDS
  podman stop -t $((drain_seconds + 10)) "$1" >/dev/null
  local status
  status=$(podman inspect --format '{{.State.ExitCode}}' "$1")
  printf '%s: exit status %s after %d s\n' "$1" "$status" "$((SECONDS - begin))"
  [[ $status == 0 ]] || { podman logs "$1" && fail "$1 did not end in peace"; }
  ((SECONDS - begin <= drain_seconds)) || fail "$1 took too long"
}

step 'Bases'
debian_root "$work/base"
import "$work/base" localhost/sage-base

step 'Images'
build server-cpu
build client

step 'A server on a read-only root, and a client'
start sage-read-only localhost/sage-server-cpu --read-only
healthy sage-read-only
client verify --server "$address" --seqlen 512,1000 --head-dim 64,128 --density 0.25
client load --server "$address" --seqlen 512 --duration 8s --concurrency 2 >"$work/load.log" 2>&1 &
load=$!
until [[ $(client info --server "$address" --json | tr ',' '\n' | grep -c '"requests_ok": *"*[1-9]') != 0 ]]; do sleep 0.1; done
stop sage-read-only
wait "$load" || true # it saw the server go

step 'Where it writes'
start sage-writable localhost/sage-server-cpu
client verify --server "$address" --seqlen 512 >/dev/null
# What podman itself puts there is in one that does nothing, too.
run --cidfile "$work/nothing.cid" --name sage-nothing -v "$work/sage-writable:/run/sage" --entrypoint true localhost/sage-server-cpu
changed=$(diff <(podman diff sage-nothing | sort) <(podman diff sage-writable | sort)) || fail "written outside its volume: $changed"
printf 'nothing outside /run/sage\n'
stop sage-writable

step 'What is in it'
for image in server-cpu client; do
  run --rm --entrypoint cat "localhost/sage-$image" /usr/share/doc/sage-serve/sbom.spdx.json >"$work/$image.spdx.json"
  run --rm --entrypoint dpkg-query "localhost/sage-$image" -W | sed 's/:[a-z0-9]*\t/\t/' | tr '\t' ' ' | sort >"$work/$image.dpkg"
  python3 -c '
import json, sys
for package in json.load(open(sys.argv[1]))["packages"]:
    print(package["name"], package["versionInfo"])' "$work/$image.spdx.json" | sort | cmp - "$work/$image.dpkg" ||
    fail "the bill of materials of $image is not what dpkg lists"
  printf '%s: %d packages\n' "$image" "$(wc -l <"$work/$image.dpkg")"
done
run --rm --entrypoint id localhost/sage-server-cpu -u | grep -qx 10001 || fail 'not user 10001'

if [[ ${1-} == server ]]; then
  step 'The image with CUDA'
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  [[ -x $nvcc ]] || skip 'no nvcc here; all else passed'
  toolkit=$(dirname "$(dirname "$(realpath "$nvcc")")")
  mkdir -p "$work/base/usr/local/cuda"
  # The compiler and the static runtime, without the libraries that are of no use here.
  tar -C "$toolkit" -c --exclude='lib*cu[bfrs]*' --exclude='libcudnn*' --exclude='libnccl*' --exclude='libnv[Jrp]*' . |
    tar -C "$work/base/usr/local/cuda" -x
  import "$work/base" localhost/sage-cuda-base
  architectures=${CUDA_ARCHITECTURES:-80}
  options=(--build-arg CUDA_ARCHITECTURES="$architectures")
  [[ $architectures != fat ]] || options=() architectures='' # as the Dockerfile says
  build server --build-arg CUDA_BUILD_IMAGE=localhost/sage-cuda-base --build-arg CUDA_RUNTIME_IMAGE=localhost/sage-base "${options[@]}"
  run --rm --entrypoint cat localhost/sage-server /usr/bin/sage-server >"$work/sage-server"
  "$root/tests/cuda_architectures.sh" "$work/sage-server" ${architectures:+"$architectures"} || (($? == 77)) ||
    fail 'not the kernels that were asked for'
  start sage-cuda localhost/sage-server --read-only
  client verify --server "$address" --seqlen 512
  stop sage-cuda
  if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    status=0
    run --rm --read-only localhost/sage-server --backend cuda --listen 127.0.0.1:0 2>"$work/no-gpu.log" || status=$?
    cat "$work/no-gpu.log"
    [[ $status == 1 ]] || fail "told to use a GPU it ends with $status where there is none"
    grep -q 'event=start_failed.*--backend cpu serves without a GPU' "$work/no-gpu.log" || fail 'it does not say what to do'
  fi
fi
printf '\nAll images work.\n'
