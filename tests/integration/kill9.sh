#!/usr/bin/env bash
# kill -9 of the daemon under write load: every acknowledged write is there afterwards (I5), nothing else is, and the
# store is sound. Snapshots are taken and deleted meanwhile, so that writes are redirected as well as made in place.
# Usage: kill9.sh VOLTREE-BINARY ACK-WRITER-BINARY [ROUNDS]
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
writer=$(realpath "$2")
rounds=${3:-6}
need_fuse

fork_meanwhile() { # until it is told to stop
  local i=0
  while [[ ! -e $work/stop ]] && "$voltree" snapshot "v@r$1-$i" && sleep 0.$((RANDOM % 4 + 1)); do
    ((i % 2)) && { "$voltree" delete "v@r$1-$((i - 1))" || return 0; }
    i=$((i + 1))
  done >/dev/null 2>&1
}

"$voltree" init >/dev/null
start_daemon
"$voltree" create v 64M >/dev/null
for ((round = 1; round <= rounds; round++)); do
  "$writer" write "$work/mnt/volumes/v" "$work/books" 8 $((round * 100)) >"$work/writes" 2>&1 &
  load=$!
  fork_meanwhile "$round" &
  forks=$!
  background=("$load" "$forks")
  sleep "$((RANDOM % 3)).$((RANDOM % 9 + 1))"
  kill_daemon
  wait "$load" || fail "the writer failed: $(cat "$work/writes")"
  # A command whose daemon died opens the store itself: it must have ended before the next daemon starts.
  touch "$work/stop"
  wait "$forks" || true
  rm "$work/stop"
  background=()
  start_daemon
  checks=$((checks + 1))
  "$writer" verify "$work/mnt/volumes/v" "$work/books" >"$work/verified" || fail "round $round: writes are lost"
  echo "round $round: $(cat "$work/writes"); after the restart: $(cat "$work/verified")"
  check "round $round: the store is sound" "$voltree" check --data
done
# What finds no fault must be able to find one.
dd if=/dev/urandom of="$work/mnt/volumes/v" bs=4k count=1 seek=5 conv=notrunc,fsync status=none
"$writer" verify "$work/mnt/volumes/v" "$work/books" >/dev/null && fail "a wrong block went unnoticed"
"$voltree" delete v --snapshots --wait >/dev/null
stop_daemon
is "layer files left" 0 "$(find "$VOLTREE_STORE/layers" -type f | wc -l)"
check "the store is sound" "$voltree" check --data
finish
