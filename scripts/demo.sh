#!/usr/bin/env bash
# From a fresh Debian, Ubuntu or Termux to a story: installs what is missing, builds, and lets the small models that come with
# the source continue a sentence: a sparse one with a memory budget (3600 KiB) that is smaller than the model, and a mixture of experts
# with a third of its file (4900 KiB). Works from any folder, needs no answers.
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
models=("$root"/models/demo/stories-drelu-*.gguf "$root"/models/demo/stories-moe-*.gguf)
[ ${#models[@]} -eq 2 ] || die "models/demo does not hold one stories-drelu-*.gguf and one stories-moe-*.gguf"
budgets=(3600K 4900K)

sg_need build
if [ ! -f "$root/build/build.ninja" ]; then
  say "building"
  meson setup "$root/build" "$root"
fi
ninja -C "$root/build" runtime/cli/sparsegen

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for i in 0 1; do
  say "$(basename "${models[i]}"), $(($(wc -c <"${models[i]}") / 1024))K, in ${budgets[i]} of memory"
  printf '%s' "$prompt"
  if ! "$root/build/runtime/cli/sparsegen" -m "${models[i]}" -p "$prompt" -n 200 -t 2 --ram "${budgets[i]}" --stats "$@" 2>"$log"; then
    echo
    cat "$log" >&2
    exit 1
  fi
  printf '\n\n'
  cat "$log"
done
