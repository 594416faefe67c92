#!/usr/bin/env bash
# Builds the kernel tests alone for aarch64 (statically, without the project's dependencies) and runs them under qemu on three
# processors: with NEON only, with the dot products, with the 8-bit matrix products.
#
#   scripts/test_kernels_aarch64.sh [BUILD_FOLDER]
#
# Exit status 77 when the tools are absent. AARCH64_CC and QEMU name other tools.
set -euo pipefail
# shellcheck source=scripts/kernels_alone.sh
. "$(dirname "${BASH_SOURCE[0]}")/kernels_alone.sh"
cc=${AARCH64_CC:-aarch64-linux-gnu-gcc}
qemu=${QEMU:-qemu-aarch64}
for tool in "${cc%% *}" "$qemu"; do
  command -v "$tool" >/dev/null || skip "there is no $tool"
done
cpus=$("$qemu" -cpu help || true)
for cpu in cortex-a53 cortex-a76; do
  grep -qw -e "$cpu" <<<"$cpus" || skip "this $qemu knows no $cpu"
done
open_out "$@"
flags="-std=gnu11 -O2 -static -ffp-contract=off -fno-math-errno -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Werror"
flags+=" -I$root -I$root/runtime/include -I$out"

# shellcheck disable=SC2317 # called by compile
tier_flags() {
  case $1 in
  *_dotprod.c) echo -march=armv8.2-a+dotprod ;;
  *_i8mm.c) echo -march=armv8.2-a+dotprod+i8mm ;;
  esac
}

at=neuron_engine/kernels/arm
more_units=peak
build_tests "neon dotprod i8mm" $at/tiles_{neon,dotprod,i8mm}.c $at/vec_neon.c $at/neuron_{neon,dotprod}.c
status=0
run_tests max "neon dotprod i8mm" "$qemu" -cpu max & # longest first
pids=($!)
run_tests cortex-a76 "neon dotprod" "$qemu" -cpu cortex-a76 &
pids+=($!)
run_tests cortex-a53 "neon" "$qemu" -cpu cortex-a53 &
pids+=($!)
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
[ $status != 0 ] || echo "neon, dotprod, i8mm give the reference's bits"
exit $status
