#!/usr/bin/env bash
# Lists the GPU architectures that a program has kernels for, and fails unless the wanted ones are among them.
#
#   tests/cuda_architectures.sh PROGRAM [ARCHITECTURES]
#
# ARCHITECTURES are CMake's, those of preset `fat` by default: `90a-real` is machine code, `80` machine code and PTX. Skips (77)
# where there is no cuobjdump.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly program=$1
readonly wanted=${2:-$(sed -n '/"name": "fat"/,/}/s/.*"CMAKE_CUDA_ARCHITECTURES": "\(.*\)".*/\1/p' "$root/CMakePresets.json")}

cuobjdump=$(command -v cuobjdump || echo /usr/local/cuda/bin/cuobjdump)
[[ -x $cuobjdump ]] || {
  echo 'cuda_architectures.sh: skipped: no cuobjdump'
  exit 77
}
compiled() { "$cuobjdump" "--list-$1" "$program" | grep -o 'sm_[0-9a-z]*' | sort -u; } # compiled elf|ptx
missing() { # missing elf|ptx OTHER: what is wanted, not only as the other, and not there
  tr ';' '\n' <<<"$wanted" | sed "/-$2$/d; s/-.*//; s/^/sm_/" | sort -u | comm -23 - <(compiled "$1")
}

printf 'machine code: %s; PTX: %s\n' "$(compiled elf | xargs)" "$(compiled ptx | xargs)"
missing=$(missing elf virtual && missing ptx real)
[[ -z $missing ]] || {
  printf 'cuda_architectures.sh: missing: %s\n' "$(xargs <<<"$missing")" >&2
  exit 1
}
