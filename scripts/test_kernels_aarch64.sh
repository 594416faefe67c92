#!/bin/sh
# Builds the kernel tests alone for aarch64 (statically, without the project's dependencies) and runs them under qemu:
#     scripts/test_kernels_aarch64.sh [BUILD_FOLDER]
# Runs once with a processor that has the dot product instructions and once without. Exit status 77 when the tools are absent.
# CC and QEMU name other tools.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cc=${CC:-aarch64-linux-gnu-gcc}
qemu=${QEMU:-qemu-aarch64}
for tool in "$cc" "$qemu"; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
out=${1:-$(mktemp -d)}
mkdir -p "$out"
flags="-std=gnu11 -O2 -static -ffp-contract=off -fno-math-errno -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Werror
 -I$root -I$root/runtime/include -I$out"
printf '%s\n' '#define SG_ISA_AVX2 0' '#define SG_ISA_AVXVNNI 0' '#define SG_ISA_AVX512VNNI 0' \
    '#define SG_ISA_NEON 1' '#define SG_ISA_DOTPROD 1' \
    >"$out/sg_config.h"
cd "$root"
plain="neuron_engine/quant.c neuron_engine/quant_k.c neuron_engine/kernels/kernels.c neuron_engine/kernels/tile.c
 neuron_engine/kernels/peak.c neuron_engine/kernels/ref/matmul_ref.c neuron_engine/kernels/ref/vec_ref.c neuron_engine/kernels/arm/tiles_neon.c
 neuron_engine/kernels/arm/vec_neon.c runtime/base/cpu.c runtime/base/dtype.c runtime/base/error.c runtime/base/utf8.c
 tests/kernels/harness.c"
objects=""
for source in $plain neuron_engine/kernels/arm/tiles_dotprod.c; do
    object="$out/$(echo "$source" | tr / _).o"
    case $source in *dotprod*) march=-march=armv8.2-a+dotprod ;; *) march= ;; esac
    # shellcheck disable=SC2086
    $cc $flags $march -c "$source" -o "$object"
    objects="$objects $object"
done
for unit in quant matmul peak vec; do
    # shellcheck disable=SC2086
    $cc $flags "tests/kernels/test_$unit.c" $objects -lm -o "$out/test_$unit"
done
status=0
for cpu in cortex-a53 cortex-a76; do
    for unit in quant matmul peak vec; do
        echo "$cpu:"
        SG_SOURCE_ROOT="$root" "$qemu" -cpu "$cpu" "$out/test_$unit" || status=1
    done
done
exit $status
