#!/usr/bin/env bash
# From a fresh Debian, Ubuntu or Termux to a story: installs what is missing, builds, and lets the small model that comes with
# the source continue a sentence, with a memory budget (3600 KiB) that is smaller than the model. Works from any folder, needs no answers.
#
#   scripts/demo.sh [PROMPT [options of sparsegen..]]     default: "Once upon a time" -n 200
set -euo pipefail
# shellcheck source=scripts/deps.sh
. "$(dirname "${BASH_SOURCE[0]}")/deps.sh"

case ${1:-} in
-h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
prompt=${1:-Once upon a time}
[ $# -eq 0 ] || shift

shopt -s nullglob
models=("$root"/models/demo/stories-drelu-*.gguf)
[ ${#models[@]} -gt 0 ] || die "models/demo holds no stories-drelu-*.gguf"

sg_need build
if [ ! -f "$root/build/build.ninja" ]; then
  say "building"
  meson setup "$root/build" "$root"
fi
ninja -C "$root/build" runtime/cli/sparsegen

say "$(basename "${models[0]}")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
printf '%s' "$prompt"
if ! "$root/build/runtime/cli/sparsegen" -m "${models[0]}" -p "$prompt" -n 200 --ram 3600K --stats "$@" 2>"$log"; then
  echo
  cat "$log" >&2
  exit 1
fi
printf '\n\n'
cat "$log"
