#!/usr/bin/env bash
# kill -9 of the daemon under write load: every acknowledged write is there afterwards (I5), nothing else is, and the
# store is sound. Snapshots are taken and deleted meanwhile, so that writes are redirected as well as made in place, and
# clones of them come and go; another volume must never change.
# Usage: kill9.sh VOLTREE-BINARY ACK-WRITER-BINARY [ROUNDS [MS]]     killed within MS milliseconds, by default 3000
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
writer=$(realpath "$2")
rounds=${3:-6}
pause_ms=${4:-3000}
need_fuse

fork_meanwhile() { # until it is told to stop
  local i=0
  while [[ ! -e $work/stop ]] && "$voltree" snapshot "v@r$1-$i" && sleep 0.$((RANDOM % 4 + 1)); do
    "$voltree" clone "v@r$1-$i" "c$1-$i" || return 0
    ((i % 2)) && { "$voltree" delete "v@r$1-$((i - 1))" "c$1-$((i - 1))" || return 0; }
    i=$((i + 1))
  done >/dev/null 2>&1
}

forget_forks() { # what the forks of a round have left, so that a long run does not fill the host
  local names
  mapfile -t names < <("$voltree" --json list |
    python3 -c 'import json, sys; print(*[n["name"] for n in json.load(sys.stdin)["nodes"] if n["name"][:1] == "c" or "@r" in n["name"]], sep="\n")')
  [[ -z ${names[*]} ]] || check "the forks go" "$voltree" delete "${names[@]}"
}

"$voltree" init >/dev/null
start_daemon
head -c 8M /dev/urandom >"$work/first"
"$voltree" import "$work/first" kept --quiet >/dev/null
"$voltree" create v 64M >/dev/null
for ((round = 1; round <= rounds; round++)); do
  "$writer" write "$work/mnt/volumes/v" "$work/books" 8 $((round * 100)) >"$work/writes" 2>&1 &
  load=$!
  fork_meanwhile "$round" &
  forks=$!
  background=("$load" "$forks")
  pause=$((RANDOM * 32768 + RANDOM))
  printf -v pause '%d.%03d' "$((pause % pause_ms / 1000))" "$((pause % pause_ms % 1000))"
  sleep "$pause"
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
  check "round $round: the other volume holds what it held" cmp "$work/first" "$work/mnt/volumes/kept"
  forget_forks
done
# What finds no fault must be able to find one.
dd if=/dev/urandom of="$work/mnt/volumes/v" bs=4k count=1 seek=5 conv=notrunc,fsync status=none
"$writer" verify "$work/mnt/volumes/v" "$work/books" >/dev/null && fail "a wrong block went unnoticed"
"$voltree" delete v kept --snapshots --wait >/dev/null
stop_daemon
is "layer files left" 0 "$(find "$VOLTREE_STORE/layers" -type f | wc -l)"
check "the store is sound" "$voltree" check --data
finish
