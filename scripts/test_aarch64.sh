#!/usr/bin/env bash
# Builds the program for aarch64 and runs, under qemu, what must hold on that processor: the golden logits and texts in every
# tier (NEON, dot products, 8-bit matrix products), and reading without io_uring, which qemu does not have.
#
#   scripts/test_aarch64.sh [BUILD_FOLDER]        (default: build-aarch64 in the source tree)
#
# The libraries for aarch64 come as Debian packages with a package list of their own, and are unpacked into the build folder:
# nothing is installed, no foreign architecture is added to the system, no root is needed. They are fetched once per folder.
# Exit status 77 when the cross compiler, qemu or the packages cannot be had.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
packages=(libpcre2-dev libpcre2-8-0 libcjson-dev libcjson1 libxxhash-dev libxxhash0 liburing-dev liburing2 check libsubunit-dev libsubunit0)
tiers="ref neon dotprod i8mm"

skip() { echo "$*"; exit 77; }
for tool in aarch64-linux-gnu-gcc qemu-aarch64 meson ninja pkg-config python3 apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || skip "there is no $tool"
done
mkdir -p "${1:-$root/build-aarch64}"
out=$(cd "${1:-$root/build-aarch64}" && pwd)
sysroot=$out/sysroot
lib=$sysroot/usr/lib/aarch64-linux-gnu
qemu=(qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu)

# apt-get for arm64, with state and cache in the build folder and an empty list of installed packages.
apt_arm64() {
  apt-get -q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root -o Dir::State="$out/apt" \
    -o Dir::State::Lists="$out/apt/lists" -o Dir::State::status="$out/apt/status" -o Dir::Cache="$out/apt/cache" "$@"
}

fetch_libraries() {
  local package
  [ ! -f "$sysroot/complete" ] || return 0
  rm -rf "$out/apt" "$sysroot"
  mkdir -p "$out"/apt/{lists,cache/archives}/partial "$out/apt/debs" "$sysroot"
  : >"$out/apt/status"
  apt_arm64 update && (cd "$out/apt/debs" && apt_arm64 download "${packages[@]}") || return 1
  for package in "$out"/apt/debs/*.deb; do dpkg-deb -x "$package" "$sysroot" || return 1; done
  rm -rf "$out/apt"
  touch "$sysroot/complete"
}

write_cross_file() {
  cat >"$out/cross.ini" <<EOF
[binaries]
c = 'aarch64-linux-gnu-gcc'
ar = 'aarch64-linux-gnu-ar'
strip = 'aarch64-linux-gnu-strip'
pkgconfig = 'pkg-config'
exe_wrapper = [$(printf "'%s', " "${qemu[@]}")]
[built-in options]
c_link_args = ['-Wl,-rpath,$lib', '-Wl,-rpath-link,$lib']
[properties]
sys_root = '$sysroot'
pkg_config_libdir = '$lib/pkgconfig'
[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
EOF
}

programs=(unit/test_{attention,model,weights} io/test_reader golden/test_goldens)
build() {
  if [ ! -f "$out/build/build.ninja" ]; then
    meson setup "$out/build" "$root" --cross-file "$out/cross.ini" -Dtests=enabled -Dliburing=enabled -Dlibedit=disabled \
      -Dopencl=disabled -Dvulkan=disabled -Dexamples=false -Ddefault_library=static || return 1
  fi
  ninja -C "$out/build" runtime/cli/sparsegen "${programs[@]/#/tests/}" || return 1
  printf '#!/bin/sh\nexec %s "%s" "$@"\n' "${qemu[*]}" "$out/build/runtime/cli/sparsegen" >"$out/sparsegen"
  chmod +x "$out/sparsegen"
}

status=0
# run NAME COMMAND..: the log is kept, and shown when the command fails.
run() {
  local name=$1 rc=0
  shift
  "$@" >"$out/$name.log" 2>&1 || rc=$?
  case $rc in
  0) echo "$name: $(tail -n 1 "$out/$name.log")" ;;
  77) echo "$name: skipped, $(tail -n 1 "$out/$name.log")" ;;
  *)
    cat "$out/$name.log"
    echo "$name: failed"
    status=1
    ;;
  esac
}

fetch_libraries >"$out/fetch.log" 2>&1 || skip "packages for arm64 cannot be had here, see $out/fetch.log"
write_cross_file
build >"$out/build.log" 2>&1 || { tail -n 40 "$out/build.log"; echo "the build failed"; exit 1; }

export SG_SOURCE_ROOT=$root SG_SHARED=${SG_SHARED:-$root/../shared} SG_BIN=$out/sparsegen
for program in "${programs[@]}"; do
  run "${program##*/}" "${qemu[@]}" "$out/build/tests/$program"
done
for name in demo hf stories; do
  run "test_$name" python3 "$root/tests/golden/test_$name.py"
done

# A tier that did not take part is a failure, too.
models=$(grep -c 'same bits in every tier:' "$out/test_goldens.log" || true)
good=$(grep -c "same bits in every tier: $tiers\$" "$out/test_goldens.log" || true)
if [ "$models" = 0 ] || [ "$good" != "$models" ]; then
  echo "test_goldens: $good of $models models ran in the tiers $tiers"
  status=1
fi
if grep -q 'tiers:' "$out/test_stories.log" && ! grep -q "tiers: $tiers\$" "$out/test_stories.log"; then
  echo "test_stories: not in the tiers $tiers"
  status=1
fi
[ $status != 0 ] || echo "logits of $models golden models and texts, in the tiers ${tiers// /, }"
exit $status
