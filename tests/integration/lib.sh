# Sourced by the scripts of this folder: a store of their own in a temporary folder, a daemon, checks, cleaning up.
# Usage: source lib.sh VOLTREE-BINARY
# shellcheck shell=bash

set -euo pipefail
export LC_ALL=C.UTF-8
voltree=$(realpath "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/voltree-test.XXXXXX")
export VOLTREE_STORE=$work/store
daemon='' failures=0 checks=0
background=() # ids of processes to end

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
die() { echo "FAILED: $*"; exit 1; }

# is WHAT EXPECTED ACTUAL
is() {
  checks=$((checks + 1))
  [[ $2 == "$3" ]] || fail "$1: expected \"$2\", got \"$3\""
}

# check WHAT COMMAND...: it succeeds; what it said is shown when it does not.
check() {
  local what=$1 output
  shift
  checks=$((checks + 1))
  output=$("$@" 2>&1) || fail "$what ($*): $output"
}

wait_until() { # wait_until WHAT COMMAND...: until it succeeds, for a minute
  local i
  for ((i = 0; i < 600; i++)); do
    "${@:2}" && return 0
    sleep 0.1
  done
  die "$1: not within a minute"
}

need_root() { [[ $EUID == 0 ]] || skip "this needs root"; }
need_fuse() {
  [[ -r /dev/fuse && -w /dev/fuse ]] || skip "this needs FUSE"
  command -v fusermount3 >/dev/null || skip "this needs fusermount3"
}
need_loop() {
  need_root
  losetup --find >/dev/null 2>&1 || skip "this needs loop devices"
}

start_daemon() { # start_daemon [serve arguments]: a child, mounted on $work/mnt
  mkdir -p "$work/mnt"
  "$voltree" serve --foreground --mount "$work/mnt" "$@" 2>>"$work/daemon.log" &
  daemon=$!
  local i
  for ((i = 0; i < 600; i++)); do
    "$voltree" version 2>/dev/null | grep -q daemon && mountpoint -q "$work/mnt" && return 0
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  die "the daemon does not start: $(tail -5 "$work/daemon.log")"
}

stop_daemon() {
  local status=0
  kill -TERM "$daemon"
  wait "$daemon" || status=$?
  daemon=''
  is "the daemon's exit status" 0 "$status"
}

kill_daemon() { # as the kernel would: no last words
  kill -KILL "$daemon"
  wait "$daemon" 2>/dev/null || true
  daemon=''
  fusermount3 -uz "$work/mnt"
}

end_process() { # end_process PID: and wait for it
  kill "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

driver_configuration='{"free_min_bytes":0}'
driver_call() { # driver_call CALL ARGUMENTS [CONFIGURATION]: what the driver answers, in JSON
  python3 "$(dirname "${BASH_SOURCE[0]}")/driver_call.py" "$VOLTREE_STORE/run/control.sock" "$1" "$2" \
    "${3:-$driver_configuration}"
}

# What lies below $work is unmounted deepest first; loop devices on files there are let go.
clean_up() {
  local status=$? id target device
  set +e
  trap '' INT TERM
  for id in "${background[@]}"; do end_process "$id"; done
  findmnt -rno TARGET | grep -F "$work/" | grep -vFx "$work/mnt" | sort -r | while read -r target; do
    umount "$target" || umount -l "$target"
  done
  losetup -nO NAME,BACK-FILE | grep -F "$work/" | while read -r device target; do losetup -d "$device"; done
  if [[ -n $daemon ]]; then end_process "$daemon"; fi
  mountpoint -q "$work/mnt" && fusermount3 -uz "$work/mnt"
  # What the daemon held.
  findmnt -rno TARGET | grep -F "$work/" | sort -r | while read -r target; do umount -l "$target"; done
  if [[ $status != 0 && $status != 77 && -s $work/daemon.log ]]; then
    echo "the daemon's log:"
    tail -20 "$work/daemon.log"
  fi
  rm -rf --one-file-system "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The last line of every script.
finish() {
  echo "$checks checks, $failures failed"
  [[ $failures == 0 ]] || exit 1
}
