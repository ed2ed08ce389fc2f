#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture that a release holds, and PTX for later ones, and
# reports registers and spilled bytes a kernel. Fails where one does not compile or spills more than a
# few words, as ptxas does between the loops. Needs nvcc (CUDA 13) and no GPU.
#
#   tests/fat.sh [architecture...]      default: 80 86 89 90a 120a
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [[ ! -x $nvcc ]]; then
  echo "fat.sh: skipped: no nvcc found (set NVCC)" >&2
  exit 77
fi
architectures=("$@")
[[ ${#architectures[@]} -gt 0 ]] || architectures=(80 86 89 90a 120a)
mapfile -t sources < <(find kernels/cuda -name '*.cu' | sort)
max_spilled_bytes=80
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

spilled=0
printf '%-6s %5s %6s  %s\n' arch regs spills kernel
for arch in "${architectures[@]}"; do
  for source in "${sources[@]}"; do
    [[ $source != */sm90/* || $arch == 90a ]] || continue
    flags=(-std=c++20 -O3 -I.)
    [[ $source == */prepare_kv.cu ]] && flags+=(--fmad=false)
    "$nvcc" "${flags[@]}" -gencode "arch=compute_$arch,code=sm_$arch" -Xptxas -v \
      -cubin -o "$out/kernel.cubin" "$source" 2> "$out/log" || { cat "$out/log" >&2; exit 1; }
    # Three lines a kernel: its name, its stack and spills, its registers.
    awk '/Compiling entry function/ { split($0, name, "\x27"); kernel = name[2] }
         /bytes spill stores/ { for (i = 1; i < NF; ++i) if ($(i + 2) == "spill" && $(i + 3) ~ /stores/) spills = $i }
         /Used [0-9]+ registers/ { for (i = 1; i < NF; ++i) if ($i == "Used") print $(i + 1), spills, kernel }' \
      "$out/log" | c++filt > "$out/kernels"
    while read -r registers spills kernel; do
      printf '%-6s %5s %6s  %s\n' "$arch" "$registers" "$spills" "$kernel"
      (( spills <= max_spilled_bytes )) || spilled=1
    done < "$out/kernels"
  done
done
for source in "${sources[@]}"; do
  [[ $source != */sm90/* ]] || continue
  arch=compute_80
  # e4m3 is sm_89's.
  [[ $source == */prepare_values.cu || $source == */qk_int8_pv_fp8.cu ]] && arch=compute_89
  "$nvcc" -std=c++20 -O3 -I. -arch=$arch -ptx -o "$out/kernel.ptx" "$source"
done
echo "PTX: compute_80, compute_89 for e4m3"
if [[ $spilled != 0 ]]; then
  echo "fat.sh: a kernel spills more than $max_spilled_bytes bytes" >&2
  exit 1
fi
