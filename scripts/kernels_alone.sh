# shellcheck shell=bash
# Sourced by test_kernels_aarch64.sh and test_kernels_emulated.sh: builds the kernel tests alone, without Meson and the
# project's dependencies, and runs them so that a tier which did not take part is a failure. Sets `root` and `jobs`; who sources
# it sets `out` (by open_out), `cc`, `flags`, and tier_flags FILE, which prints the flags of a source file beyond these: for the
# tiers those of neuron_engine/kernels/meson.build.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc 2>/dev/null || echo 2)

skip() { echo "$*"; exit 77; }

# open_out [FOLDER]: where things are built, a temporary folder without an argument.
open_out() {
  if [ $# -gt 0 ]; then
    mkdir -p "$1"
    out=$(cd "$1" && pwd)
  else
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
  fi
}

compile() {
  # shellcheck disable=SC2046,SC2086 # words are flags
  $cc $flags $(tier_flags "$1") -c "$1" -o "$out/${1//\//_}.o"
}

# build_tests "TIER.." SOURCE..: $out/test_quant, test_matmul, test_neuron and test_vec with these tiers, whose sources these are.
build_tests() {
  local tiers=" $1 " name
  shift
  local plain=(neuron_engine/{quant,quant_k}.c neuron_engine/kernels/{kernels,neuron,peak,tile}.c
    neuron_engine/kernels/ref/{matmul,neuron,vec}_ref.c runtime/base/{cpu,dtype,error,utf8}.c
    tests/kernels/{harness,bench_neuron,check_vec}.c)
  local units=(tests/kernels/test_{quant,matmul,neuron,vec}.c ${more_units:+tests/kernels/test_peak.c}) objects=()
  for name in avx2 avxvnni avx512 avx512vnni neon dotprod i8mm; do
    case $tiers in *" $name "*) echo "#define SG_ISA_${name^^} 1" ;; *) echo "#define SG_ISA_${name^^} 0" ;; esac
  done >"$out/sg_config.h"
  cd "$root" || return 1
  export -f compile tier_flags
  export root out cc flags
  # shellcheck disable=SC2016 # for the inner shell
  printf '%s\n' "$@" "${plain[@]}" "${units[@]}" | xargs -P "$jobs" -n 1 bash -c 'compile "$1"' _
  for name in "$@" "${plain[@]}"; do objects+=("$out/${name//\//_}.o"); done
  for name in quant matmul neuron vec ${more_units:-}; do
    # shellcheck disable=SC2086
    $cc $flags "$out/tests_kernels_test_$name.c.o" "${objects[@]}" -lm -o "$out/test_$name"
  done
}

# run_tests NAME "TIER.." [EMULATOR..]: the programs; the tiers that they name must be the reference and exactly these.
run_tests() {
  local name=$1 tiers="ref $2" unit log seen status=0
  shift 2
  for unit in quant matmul neuron vec ${more_units:-}; do
    log=$out/$name-$unit.log
    SG_SOURCE_ROOT=$root "$@" "$out/test_$unit" >"$log" 2>&1 || { status=1; cat "$log"; }
    seen=$(sed -n 's/^tier //p' "$log" | tr '\n' ' ')
    if [[ $unit =~ ^(matmul|neuron|vec)$ ]] && [ "$seen" != "$tiers " ]; then
      echo "$name, $unit: the tiers were '${seen% }', not '$tiers'"
      status=1
    fi
    echo "$name, $(tail -n 1 "$log")${seen:+; tiers: ${seen% }}"
  done
  return $status
}
