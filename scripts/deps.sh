# shellcheck shell=bash
# Sourced by test.sh and demo.sh: installs what is missing on Debian, Ubuntu and Termux, and touches nothing when all is there
# (an offline machine with everything installed works). Sets `root`; needs bash.
#
#   sg_need build | tests | sanitizers | emulation      makes sure of the tools and libraries for that purpose

# shellcheck disable=SC2034 # used by who sources this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export DEBIAN_FRONTEND=noninteractive

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

has() { command -v "$1" >/dev/null 2>&1; }
has_lib() { has pkg-config && pkg-config --exists "$1"; }

# A shared library that programs open by its name.
has_so() {
  { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || ls "${PREFIX:-/usr}/lib" 2>/dev/null; } | grep -q "$1\.so"
}

# Compiles and runs an OpenMP program with the given compiler and flags.
try_cc() {
  local dir ok=1
  has "$1" || return 1
  dir=$(mktemp -d)
  printf '#include <omp.h>\n#include <stdlib.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' >"$dir/t.c"
  "$@" -fopenmp -o "$dir/t" "$dir/t.c" >/dev/null 2>&1 && "$dir/t" >/dev/null 2>&1 && ok=0
  rm -rf "$dir"
  return $ok
}

c_compiler() {
  if [ -n "${CC:-}" ]; then printf '%s\n' "$CC"; elif has cc; then echo cc; elif has gcc; then echo gcc; else echo clang; fi
}

has_header() { printf '#include <%s>\n' "$1" | "$(c_compiler)" -E -x c - >/dev/null 2>&1; }

has_aarch64_cc() {
  has aarch64-linux-gnu-gcc && printf '#include <stdio.h>\n' | aarch64-linux-gnu-gcc -E -x c - >/dev/null 2>&1
}

meson_is_new() { # 1.0 and newer
  has meson && [ "$(printf '1.0.0\n%s\n' "$(meson --version)" | sort -V | head -n 1)" = 1.0.0 ]
}

system() {
  if [ -n "${TERMUX_VERSION:-}" ] || case "${PREFIX:-}" in *com.termux*) true ;; *) false ;; esac; then echo termux
  elif has apt-get; then echo debian
  else echo other; fi
}

# What is missing for a purpose, as package names of this system. Termux has no liburing: Android forbids io_uring anyway.
# clang brings OpenMP there.
missing() {
  local deb=0
  [ "$(system)" = termux ] || deb=1
  # shellcheck disable=SC2086 # one line per word
  pick() { if [ $deb = 1 ]; then printf '%s\n' $1; else printf '%s\n' $2; fi; }
  case $1 in
  build)
    try_cc "$(c_compiler)" || pick 'gcc libc6-dev' clang
    has ninja || pick ninja-build ninja
    has pkg-config || pick pkg-config pkg-config
    has python3 || pick python3 python
    has meson || pick meson ''
    has_lib libpcre2-8 || pick libpcre2-dev pcre2
    has_lib libcjson || pick libcjson-dev cjson
    has_so libopenblas || pick libopenblas0 libopenblas # opened at run time by calibrate
    has_lib libxxhash || pick libxxhash-dev xxhash
    has_lib libedit || pick libedit-dev libedit
    has_lib liburing || pick liburing-dev ''
    ;;
  tests)
    has_lib check || pick check check
    has_header CL/cl.h || pick opencl-c-headers opencl-headers # only headers, so that the code that finds GPUs is built
    has_header vulkan/vulkan.h || pick libvulkan-dev vulkan-headers
    { has c++ || has g++ || has clang++; } || pick g++ ''
    ;;
  sanitizers)
    try_cc clang -fsanitize=thread || pick 'clang libclang-rt-dev libomp-dev' ''
    ;;
  emulation)
    has qemu-aarch64 || pick qemu-user ''
    has_aarch64_cc || pick 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross' ''
    has_header simde/x86/avx512.h || pick libsimde-dev ''
    ;;
  esac
}

install_packages() {
  local sudo=()
  case $(system) in
  termux)
    pkg update -y && pkg install -y "$@"
    ;;
  debian)
    if [ "$(id -u)" != 0 ]; then
      has sudo || die "installing $* needs root or sudo"
      sudo=(sudo env DEBIAN_FRONTEND=noninteractive)
    fi
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" apt-get install -q -y --no-install-recommends "$@"
    ;;
  other)
    die "neither apt nor Termux's pkg is here; install by hand what Debian calls: $*"
    ;;
  esac
}

# Termux and releases older than Debian 12 get Meson from the Python package index, into a folder of the source tree.
meson_from_pip() {
  local venv=$root/.venv-meson
  if [ ! -x "$venv/bin/meson" ]; then
    say "Meson 1.0 or newer is missing: installing it into .venv-meson"
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null && [ "$(system)" = debian ]; then install_packages python3-venv; fi
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q 'meson>=1.0'
  fi
  export PATH=$venv/bin:$PATH
}

sg_need() {
  local purpose=$1 list
  list=$(missing "$purpose" | sort -u)
  if [ -n "$list" ]; then
    say "installing for $purpose: ${list//$'\n'/ }"
    # shellcheck disable=SC2086 # one word per package
    install_packages $list
  fi
  [ "$purpose" != build ] || meson_is_new || meson_from_pip
}
