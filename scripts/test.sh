#!/usr/bin/env bash
# From a fresh Debian, Ubuntu or Termux to test results: installs what is missing, builds, runs every test; runs the kernel tiers
# that this processor lacks under emulators; then every test again with AddressSanitizer and UndefinedBehaviorSanitizer, and what
# has threads with ThreadSanitizer. Works from any folder, needs no answers. Exit status 0 when nothing failed.
#
#   scripts/test.sh            everything
#   scripts/test.sh --quick    the release build only
#
# Build folders: build, build-aarch64, build-asan, build-tsan in the source tree; they are used again.
set -euo pipefail
# shellcheck source=scripts/deps.sh
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"

quick=0
case ${1:-} in
'') ;;
--quick) quick=1 ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [ "$1" = --help ] && exit 0 || exit 2 ;;
esac

failed=0
summary=()

# configure FOLDER meson-options..
configure() {
  local folder=$1
  shift
  if [ -f "$folder/build.ninja" ]; then
    meson setup --reconfigure "$folder" "$@" >"$folder/setup.log" 2>&1 || { cat "$folder/setup.log"; return 1; }
  else
    meson setup "$folder" "$@"
  fi
}

# One line per configuration from Meson's own log, kept for the end.
count_results() {
  summary+=("$(python3 - "$1" "$2/meson-logs/testlog.json" <<'PY'
import collections, json, sys
results = collections.Counter(json.loads(line)['result'] for line in open(sys.argv[2], encoding='utf-8') if line.strip())
passed, skipped = results['OK'] + results['EXPECTEDFAIL'], results['SKIP']
print(f'{sys.argv[1]}: {passed} passed, {sum(results.values()) - passed - skipped} failed, {skipped} skipped')
PY
)")
}

# run NAME FOLDER meson-test-arguments..
run() {
  local name=$1 folder=$2
  shift 2
  rm -f "$folder/meson-logs/testlog.json"
  meson test -C "$folder" --print-errorlogs "$@" || failed=1
  if [ -f "$folder/meson-logs/testlog.json" ]; then
    count_results "$name" "$folder"
  else
    summary+=("$name: no test ran")
    failed=1
  fi
}

# run_script NAME COMMAND..: a test that is a script of its own; its last line is its result. 77: what it needs is not here.
run_script() {
  local name=$1 log status=0
  shift
  log=$(mktemp)
  "$@" 2>&1 | tee "$log" || status=$?
  case $status in
  0) summary+=("$name: passed, $(tail -n 1 "$log")") ;;
  77) summary+=("$name: not run, $(tail -n 1 "$log")") ;;
  *)
    summary+=("$name: failed")
    failed=1
    ;;
  esac
  rm -f "$log"
}

broken() {
  summary+=("$1: the build failed")
  failed=1
}

cd "$root"
sg_need build
sg_need tests

say "release build"
if configure build -Dtests=enabled && meson compile -C build; then
  run "release build" build
else
  broken "release build"
fi

if [ $quick = 0 ]; then
  say "kernel tiers under emulators"
  (sg_need emulation) || true
  run_script "x86 tiers, emulated" scripts/test_kernels_emulated.sh
  run_script "ARM tiers under qemu" scripts/test_kernels_aarch64.sh

  say "AddressSanitizer and UndefinedBehaviorSanitizer"
  cc=$(c_compiler)
  if ! try_cc "$cc" -fsanitize=address,undefined; then
    summary+=("ASan + UBSan: not run, $cc cannot build or run such programs here")
  elif configure build-asan -Dtests=enabled -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false &&
    meson compile -C build-asan; then
    ASAN_OPTIONS=halt_on_error=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1 \
      run "ASan + UBSan" build-asan --timeout-multiplier 4
  else
    broken "ASan + UBSan"
  fi

  # clang with LLVM's libomp, whose tool Archer tells ThreadSanitizer what OpenMP synchronizes; GCC's libgomp tells it nothing,
  # so every parallel region would be reported. libomp itself is not instrumented: ignore_noninstrumented_modules.
  say "ThreadSanitizer"
  (sg_need sanitizers) || true
  if ! try_cc clang -fsanitize=thread; then
    summary+=("TSan: not run, there is no clang that can build and run such programs here")
  elif CC=clang configure build-tsan -Dtests=enabled -Dbuildtype=debugoptimized \
    -Db_sanitize=thread -Db_lundef=false &&
    meson introspect --tests build-tsan | python3 -c '
import json, os, sys
print("\n".join(sorted({os.path.relpath(t["cmd"][0], sys.argv[1]) for t in json.load(sys.stdin) if "tsan" in " ".join(t["suite"])})))' \
      "$root/build-tsan" | xargs ninja -C build-tsan; then
    TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
      run "TSan" build-tsan --suite tsan --no-rebuild --timeout-multiplier 4
  else
    broken "TSan"
  fi
fi

say "summary"
printf '%s\n' "${summary[@]}"
exit $failed
