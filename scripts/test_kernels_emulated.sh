#!/usr/bin/env bash
# Builds the kernel tests with the AVX-VNNI and AVX-512 tiers, whose instructions SIMDe computes (tests/kernels/emulated.h), and
# runs them on any x86 processor that has AVX2.
#
#   scripts/test_kernels_emulated.sh [BUILD_FOLDER]
#
# Exit status 77 when SIMDe (Debian: libsimde-dev) or such a processor is absent. CC names another compiler.
set -euo pipefail
# shellcheck source=scripts/kernels_alone.sh
. "$(dirname "${BASH_SOURCE[0]}")/kernels_alone.sh"
cc=${CC:-gcc}
command -v "${cc%% *}" >/dev/null || skip "there is no ${cc%% *}"
for feature in avx2 fma f16c; do
  grep -qsw "$feature" /proc/cpuinfo || skip "this processor lacks $feature"
done
printf '#include <simde/x86/avx512.h>\n' | $cc -E -x c - >/dev/null 2>&1 || skip "SIMDe is not installed"
open_out "$@"
# -O1: compiling is what takes long
flags="-std=gnu11 -O1 -ffp-contract=off -fno-math-errno -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Wno-psabi -Werror"
flags+=" -I$root -I$root/runtime/include -I$out"

# shellcheck disable=SC2317 # called by compile
tier_flags() {
  local avx2="-mavx2 -mfma -mf16c" emulated="-include tests/kernels/emulated.h"
  case $1 in
  *_avx2.c) echo "$avx2" ;;
  *_avxvnni.c) echo "$avx2 $emulated -D__AVXVNNI__" ;;
  *_avx512.c) echo "$avx2 $emulated" ;;
  *_avx512vnni.c) echo "$avx2 $emulated -D__AVX512VNNI__" ;;
  runtime/base/cpu.c) echo -Dsg_cpu_detect=sg_cpu_detect_real ;; # tests/kernels/emulated_cpu.c has the other
  esac
}

at=neuron_engine/kernels/x86
tiers="avx2 avxvnni avx512 avx512vnni"
build_tests "$tiers" $at/tiles_{avx512,avx512vnni,avxvnni,avx2}.c $at/vec_{avx512,avx2}.c \
  $at/neuron_{avx512vnni,avxvnni,avx2}.c tests/kernels/emulated_cpu.c
run_tests emulated "$tiers"
echo "${tiers// /, } give the reference's bits"
