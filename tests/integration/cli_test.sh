#!/usr/bin/env bash
# The voltree command from outside: help, exit codes, messages, the daemon.
# Usage: cli_test.sh VOLTREE-BINARY
# What this host cannot do (FUSE, loop devices) is skipped and said so.
set -u
voltree=$(realpath "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/vtcliXXXXXX")
export VOLTREE_STORE=$work/store LC_ALL=C.UTF-8
failures=0 checks=0 daemon=

clean_up() {
  if [[ -n $daemon ]]; then kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; fi
  mountpoint -q "$work/mnt" && fusermount3 -u "$work/mnt"
  mountpoint -q "$work/small" && umount "$work/small"
  rm -rf "$work"
}
trap clean_up EXIT

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect EXIT-STATUS PATTERN voltree-arguments...: the pattern is looked for in stdout and stderr together.
expect() {
  local want=$1 pattern=$2 output status
  shift 2
  output=$(timeout 120 "$voltree" "$@" 2>&1 </dev/null)
  status=$?
  checks=$((checks + 1))
  [[ $status == "$want" ]] || fail "voltree $*: exit $status, not $want: $output"
  grep -qE -- "$pattern" <<<"$output" || fail "voltree $*: no \"$pattern\" in: $output"
}

is() { # is WHAT EXPECTED ACTUAL
  checks=$((checks + 1))
  [[ $2 == "$3" ]] || fail "$1: expected \"$2\", got \"$3\""
}

json() { # json EXPRESSION voltree-arguments...: a Python expression over the answer `a`
  local expression=$1
  shift
  "$voltree" "$@" --json | python3 -c "import json,sys; a=json.load(sys.stdin); print($expression)"
}

catalog() { # catalog SQL: the one value it answers; no daemon may run
  python3 -c 'import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])' "$VOLTREE_STORE/catalog.db" "$1"
}

test_help() {
  expect 0 'A first tour' --help
  local command
  for command in init create list show snapshot clone revert resize rename delete diff tree qos serve \
    attach detach check repair scrub erase stats version manage unmanage 'driver stats' 'group snapshot' 'group list' \
    'group clone' 'group delete' guard reserve; do
    # shellcheck disable=SC2086 # a command may be two words
    expect 0 'Example:' $command --help
    # shellcheck disable=SC2086
    expect 0 '--store' $command --help
  done
  expect 0 '^voltree [0-9]' version
  expect 0 '^voltree [0-9]' --version
}

test_usage_errors() {
  expect 2 . 
  expect 2 "no command .no-such-command." no-such-command
  expect 2 "did you mean .voltree snapshot.\?" snapshto a@b
  expect 2 "did you mean .voltree group clone.\?" group clon a
  expect 2 . create
  expect 2 . create a
  expect 2 . create a 1G extra
  expect 2 . list --no-such-option
  expect 2 . attach a --sector-size 1000
  expect 2 'file-mode' serve --file-mode 9z
  expect 2 'no user' serve --owner no-such-user-here
}

test_store_errors() {
  expect 3 'voltree init' list
  expect 3 'voltree init' --store "$work/nothing" create a 1G
  mkdir "$work/full"
  touch "$work/full/file"
  "$voltree" init "$work/full" >/dev/null 2>&1 && fail "init in a folder that is not empty"
  is "the file stays" "file" "$(ls "$work/full")"
  "$voltree" init "$work/no/such/parent" >/dev/null 2>&1 && fail "init below a missing folder"
  expect 2 'policy|burn' init "$work/store2" --erase burn
  [[ -e $work/store2 ]] && fail "a refused init left a folder"
  expect 0 'made a store' init
  "$voltree" init >/dev/null 2>&1 && fail "init twice"
  expect 0 'no volumes' list
  mkdir "$work/junk"
  head -c 8192 /dev/urandom >"$work/junk/catalog.db"
  expect 3 'no store' --store "$work/junk" list
  touch "$work/junk/LOCK"
  expect 6 'catalog' --store "$work/junk" list
}

# What an older program says of a newer store.
test_newer_store() {
  local change
  for change in 'pragma user_version = 2' 'update format set incompatible = 2'; do
    rm -rf "$work/newer"
    "$voltree" init "$work/newer" >/dev/null
    "$(dirname "$0")/change_catalog" "$work/newer/catalog.db" "$change" >/dev/null
    expect 1 'newer|version|feature' --store "$work/newer" list
  done
}

test_full_host() {
  [[ $EUID == 0 ]] || { echo "skipped: a full host needs root"; return; }
  mkdir "$work/small"
  mount -t tmpfs -o size=64m none "$work/small" 2>/dev/null || { echo "skipped: no tmpfs here"; return; }
  "$voltree" init "$work/small/store" >/dev/null
  dd if=/dev/zero of="$work/small/fill" bs=4k status=none 2>/dev/null
  expect 5 'space|full' --store "$work/small/store" create a 1M
  rm "$work/small/fill"
  expect 0 'created' --store "$work/small/store" create a 1M
  umount "$work/small"
}

test_bad_names_and_sizes() {
  expect 0 'created a' create a 10M
  expect 1 'a' create a 10M
  local long
  long=$(printf 'n%.0s' {1..256})
  expect 2 . create "" 1M
  expect 2 . create a/b 1M
  expect 2 . create a@b 1M
  expect 2 . create . 1M
  expect 2 . create .. 1M
  expect 2 . create $'a\nb' 1M
  expect 2 . create "$long" 1M
  expect 2 . create -- -b 1M
  expect 2 . create b 0
  expect 2 . create b -- -5
  expect 2 512 create b 1000
  expect 2 . create b 99999999999999999999
  expect 2 . create b 1X
  expect 2 . create b 4E
  expect 3 . show b
  expect 3 . show a@s
  expect 3 . delete b
  expect 3 . delete a b
  expect 3 . snapshot b@s
  expect 2 'VOLUME@' snapshot a
  expect 2 . snapshot a@b@c
  expect 3 . clone b c
  expect 3 . clone a@s c
  expect 3 . rename b c
  expect 3 . resize b 1G
  expect 2 . resize a 1M
  expect 3 . diff a b
  expect 3 . revert a@s
  expect 3 . detach a
  expect 1 'serve --mount' attach a
  expect 3 . attach b
  expect 3 . list b
  is "nothing changed" "['a']" "$(json '[n["name"] for n in a["nodes"]]' list)"
}

# Limits, and a store that an earlier voltree made: it gets their table with the first one.
test_limits() {
  expect 0 'created limited' create limited 3G
  expect 0 'limited has no limits' qos limited
  is "the table of limits" "0" "$(catalog 'select count(*) from sqlite_schema where name = "volume_limit"')"
  expect 0 'total_bytes_sec: *104857600 .100.0 MiB' qos limited read_iops_sec=500 total_bytes_sec=100M
  expect 0 'total_iops_sec: *30 by its size' qos limited total_iops_sec_per_gb=10
  expect 0 'read_iops_sec: *500' qos limited
  is "what is named is what changes" "['total_bytes_sec', 'total_iops_sec_per_gb']" \
    "$(json 'sorted(a["limits"])' qos limited read_iops_sec=0)"
  expect 0 . resize limited +2G
  is "by its size" "50" "$(json 'a["effective"]["total_iops_sec"]' qos limited)"
  is "the feature" "1" "$(catalog 'select compatible & 1 from format')"
  expect 0 'limits: *total_iops_sec_per_gb=10, total_bytes_sec=104857600 .100.0 MiB' show limited
  expect 0 'limits: *none' info a
  expect 2 'read_bytes_sec_max' qos limited read_iops=5
  expect 2 'twice' qos limited read_iops_sec=5 read_iops_sec=6
  expect 2 'value' qos limited read_iops_sec
  expect 2 'whole number' qos limited read_iops_sec=5k
  expect 2 'burst' qos limited total_bytes_sec_max=1
  expect 2 'exclude' qos limited total_iops_sec=1
  expect 3 . qos nobody
  expect 0 'limited has no limits' qos limited --clear
  expect 0 'deleted' delete limited
}

test_life_of_volumes() {
  expect 0 'took a@s' snapshot a@s
  expect 1 . snapshot a@s
  expect 0 'created group' create group 1M
  expect 0 'took group@g' snapshot a@g group@g
  expect 1 'a@g|exists|already' snapshot group@h a@g
  expect 3 . show group@h
  is "one instant" "True" "$(json \
    'len({s["created_ns"] for s in a["snapshots"]}) == 1 and len(a["snapshots"]) == 2' \
    snapshot a@h group@h)"
  expect 0 'deleted' delete a@g a@h group --snapshots
  expect 0 'cloned' clone a@s b --size 20M
  expect 0 'cloned' clone a c
  expect 2 . clone a d --size 1M
  expect 0 'a@s' show b
  expect 0 '├─ |└─ ' tree
  LC_ALL=C expect 0 '\|- |`- ' tree
  expect 0 'EXCLUSIVE' tree --usage
  expect 0 'REFERENCED' list --usage
  expect 0 '0 ranges' diff a@s a
  expect 2 . revert b@s@t
  "$voltree" revert b@s >/dev/null 2>&1 && fail "reverted to another volume's snapshot"
  expect 0 'a is what it was' revert a@s --keep-as before
  expect 1 . revert a@s --keep-as before
  expect 0 'kind: *snapshot' show a@before
  expect 0 '15.0 MiB' resize a +5M
  expect 0 '1.0 MiB' resize a 1M --shrink
  expect 0 . rename a@s t
  expect 1 . rename b c
  expect 0 . rename b bb
  is "sizes" "20971520" "$(json 'a["size_bytes"]' show bb)"
  expect 0 'sound' check
  expect 0 'sound' check --data
  expect 0 'uuid' stats
  expect 0 'queue is empty|WHAT' erase
  expect 0 'random' erase --set-policy random --rate 100M
  expect 2 . erase --set-policy burn
  expect 0 'warns below: *1.0 GiB free' guard --warn 1G
  expect 0 'at most 5000 % of the host' guard --overprovision 5000%
  expect 2 'percent' guard --overprovision much
  expect 0 'are kept for bb' reserve bb 1M
  is "reserve" "1048576" "$(json 'a["reserve_bytes"]' show bb)"
  expect 3 . reserve nobody 1M
  expect 2 . reserve bb 1T
  expect 0 'nothing is kept' reserve bb 0
  expect 0 'stops below: *none' guard --warn 0 --overprovision 0
  is "state" "room" "$(json 'a["state"]' guard)"
  expect 2 'best-effort:7' delete c --erase-priority realtime:0
  expect 2 . delete c --erase-first much
  expect 0 'deleted' delete c --erase-first 1M --erase-priority best-effort:7 --wait
  expect 0 'deleted' delete a bb --snapshots --wait
  expect 0 'queue is empty' erase --wait
  expect 0 . erase --certificates
  is "empty" "[]" "$(json 'a["requests"]' erase)"
  is "empty" "[]" "$(json 'a["nodes"]' list)"
  is "no attachments" "[]" "$(json 'a["attachments"]' list --attachments)"
}

# Groups are known by the instant at which they were taken, and by any of their snapshots.
test_groups() {
  expect 0 'no groups' group list
  expect 0 'created data' create data 1M
  expect 0 'created log' create log 2M
  expect 2 . group
  expect 2 . group snapshot monday
  expect 3 'nobody' group snapshot monday data nobody
  expect 3 . show data@monday
  expect 2 . group snapshot a/b data
  expect 0 'took log@monday' group snapshot monday data log
  expect 0 'took data@tuesday' group snapshot tuesday data log
  expect 0 'took data@alone' snapshot data@alone
  expect 0 'data@monday log@monday$' group list
  is "groups" "[['data@monday', 'log@monday'], ['data@tuesday', 'log@tuesday']]" \
    "$(json '[g["snapshots"] for g in a["groups"]]' group list)"
  expect 0 . rename log@monday before
  expect 2 'prefix' group clone data@monday
  expect 2 'VOLUME@' group clone data --suffix -copy
  expect 3 'no group' group clone data@alone --suffix -copy
  expect 3 . group clone data@nothing --suffix -copy
  # All or none: the second name is taken.
  expect 0 . create log-copy 1M
  expect 1 'log-copy' group clone data@monday --suffix -copy
  expect 3 . show data-copy
  expect 0 'cloned log@before to my-log' group clone log@before --prefix my-
  expect 0 'origin: *log@before' show my-log
  is "sizes" "[1048576, 2097152]" "$(json '[v["size_bytes"] for v in a["volumes"]]' \
    group clone data@tuesday --suffix .2)"
  expect 0 'deleted log@before' group delete data@monday --wait
  is "one group is left" 1 "$(json 'len(a["groups"])' group list)"
  expect 3 . group delete data@monday
  expect 0 'deleted' delete data log log-copy my-data my-log data.2 log.2 --snapshots --wait
}

# Cinder's verbs by hand.
test_driver_commands() {
  expect 0 'nothing to take in' manage --list
  expect 0 'created disk' create disk 1536M
  expect 0 'took disk@s' snapshot disk@s
  expect 0 'disk  *2  *free' manage --list
  expect 0 'disk@s  *2  *free' manage --list --snapshots
  is "what there is" "[('disk', 2, True)]" \
    "$(json '[(m["reference"]["source-name"], m["size"], m["safe_to_manage"]) for m in a["manageable"]]' manage --list)"
  expect 2 'list' manage
  expect 2 'list' manage disk
  expect 2 . manage --list disk volume-1
  expect 3 'nobody' manage nobody volume-1
  expect 3 . manage disk@nothing snapshot-1
  expect 2 . manage disk a/b
  expect 2 'cannot become' manage disk disk@t
  expect 2 'cannot become' manage disk@s other@t
  expect 0 'disk@snapshot-1 is managed' manage disk@s snapshot-1
  expect 0 'volume-1 is managed, 2.0 GiB' manage disk volume-1
  is "whole GiB" 2147483648 "$(json 'a["size_bytes"]' manage volume-1 volume-1)"
  expect 0 'created other' create other 1M
  expect 1 'volume-1' manage other volume-1
  is "it is as it was" 1048576 "$(json 'a["size_bytes"]' show other)"
  expect 3 . unmanage nobody
  expect 1 'other' unmanage volume-1 --as other
  expect 0 'volume-1@s is nobody' unmanage volume-1@snapshot-1 --as s
  expect 0 'disk is nobody' unmanage volume-1 --as disk
  expect 0 . show disk@s
  expect 0 'deleted' delete disk other --snapshots

  expect 2 . driver
  expect 0 'volume_backend_name: *here' driver stats --backend-name here
  expect 0 'backend_state: *up' driver stats
  is "a pool" "[10, '1.5', 'disks']" \
    "$(json '[a["pools"][0][k] for k in ("reserved_percentage", "max_over_subscription_ratio", "pool_name")]' \
      driver stats --reserved-percentage 10 --max-over-subscription-ratio 1.5 --backend-name disks)"
  expect 2 'reserved_percentage' driver stats --reserved-percentage 101
}

# A file by hand: whole GiB; the file itself becomes the volume, or stays.
test_managed_file() {
  local inode
  head -c 70000 /dev/urandom >"$work/file.raw"
  cp "$work/file.raw" "$work/same.raw"
  inode=$(stat -c %i "$work/same.raw")
  expect 3 . manage "$work/nothing.raw" volume-2
  pushd "$work" >/dev/null
  expect 0 'volume-2 is managed, 1.0 GiB' manage ./same.raw volume-2
  popd >/dev/null
  [[ ! -e $work/same.raw ]] || fail "the file that was taken is there still"
  is "the layer is the file" 1 "$(find "$VOLTREE_STORE/layers" -inum "$inode" | wc -l)"
  is "nobody's but the store's" "600 $(id -u)" \
    "$(stat -c '%a %u' "$(find "$VOLTREE_STORE/layers" -inum "$inode")")"
  "$voltree" export volume-2 "$work/back.raw" --quiet
  cmp -n 70000 "$work/file.raw" "$work/back.raw" || fail "the volume differs from the file that it was"
  rm "$work/back.raw"
  expect 0 'deleted' delete volume-2 --wait
  expect 0 'volume-2 is managed, 1.0 GiB' manage --keep "$work/file.raw" volume-2
  "$voltree" export volume-2 "$work/back.raw" --quiet
  cmp -n 70000 "$work/file.raw" "$work/back.raw" || fail "the volume differs from its file"
  is "the size of the volume" 1073741824 "$(stat -c %s "$work/back.raw")"
  rm "$work/back.raw"
  expect 1 'volume-2' manage "$work/file.raw" volume-2
  ln "$work/file.raw" "$work/second.raw"
  expect 0 'copied, and stays.*names' manage "$work/file.raw" volume-4
  exec 9<"$work/file.raw"
  rm "$work/second.raw"
  expect 0 'deleted' delete volume-4
  expect 0 "copied, and stays: $work/file.raw: somebody has it open" manage "$work/file.raw" volume-4
  exec 9<&-
  [[ -e $work/file.raw ]] || fail "a file that somebody has open is gone"
  expect 0 'deleted' delete volume-4
  printf 'QFI\373' >"$work/image.raw"
  truncate -s 1M "$work/image.raw"
  expect 2 'qcow2' manage "$work/image.raw" volume-3
  expect 0 'deleted' delete volume-2
  is "nothing is left" "[]" "$(json 'a["nodes"]' list)"
}

start_daemon() { # start_daemon ARGUMENTS...: in the foreground, as our child
  "$voltree" serve --foreground "$@" 2>"$work/daemon.log" &
  daemon=$!
  local i
  for i in {1..100}; do
    # Not the socket file alone: one that died leaves it.
    "$voltree" version 2>/dev/null | grep -q daemon && return 0
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  fail "the daemon did not start: $(cat "$work/daemon.log")"
  wait "$daemon"
  daemon=
  return 1
}

stop_daemon() {
  kill -TERM "$daemon"
  wait "$daemon"
  is "the daemon's exit status" 0 $?
  daemon=
  [[ -e $VOLTREE_STORE/run/control.sock ]] && fail "the socket is still there"
}

test_daemon() {
  start_daemon || return
  expect 0 'daemon' version
  expect 0 'created' create v 8M
  expect 1 'serve --mount' attach v
  is "socket mode" 600 "$(stat -c %a "$VOLTREE_STORE/run/control.sock")"
  # A second owner of the store is told who has it.
  expect 4 "$daemon" serve --foreground
  expect 4 "$daemon" serve
  local i pids=()
  for i in {1..8}; do "$voltree" create "p$i" 1M >/dev/null & pids+=($!); done
  for i in "${pids[@]}"; do wait "$i" || fail "a concurrent create"; done
  is "all of them" 9 "$(json 'len(a["nodes"])' list)"
  expect 0 . delete v p1 p2 p3 p4 p5 p6 p7 p8 --wait
  stop_daemon
  expect 0 'no volumes' list
}

# Commands that open the store themselves wait a moment for each other.
test_embedded_concurrency() {
  local i pids=()
  for i in 1 2 3; do "$voltree" create "e$i" 1M >/dev/null & pids+=($!); done
  for i in "${pids[@]}"; do wait "$i" || fail "a concurrent create without a daemon"; done
  expect 0 . delete e1 e2 e3
}

test_background_daemon() {
  expect 0 'serving .*pid [0-9]+' serve
  local pid
  expect 0 'daemon' version
  pid=$(grep -oE '[0-9]+' "$VOLTREE_STORE/run/owner" | head -1)
  expect 4 "$pid" serve
  kill -TERM "$pid"
  local i
  for i in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -0 "$pid" 2>/dev/null && fail "the daemon does not stop"
  grep -q stopped "$VOLTREE_STORE/run/voltree.log" || fail "no log"
}

fuse_works() { [[ -c /dev/fuse && -w /dev/fuse ]] && command -v fusermount3 >/dev/null; }

test_mount() {
  fuse_works || { echo "skipped: no FUSE here"; return; }
  expect 3 'mkdir' serve --mount "$work/mnt"
  mkdir "$work/mnt"
  touch "$work/mnt/file"
  expect 4 'empty' serve --foreground --mount "$work/mnt"
  rm "$work/mnt/file"
  start_daemon --mount "$work/mnt" || return
  expect 0 . create v 8M
  is "size of the file" 8388608 "$(stat -c %s "$work/mnt/volumes/v")"
  expect 0 . resize v 16M
  is "after a resize" 16777216 "$(stat -c %s "$work/mnt/volumes/v")"
  VOLTREE_STORE=$work/other "$voltree" init >/dev/null
  VOLTREE_STORE=$work/other expect 4 . serve --foreground --mount "$work/mnt"
  test_limits_of_files
  test_loop
  expect 0 . delete v --snapshots --wait
  [[ -e $work/mnt/volumes/v ]] && fail "the file is still there"
  stop_daemon
  mountpoint -q "$work/mnt" && fail "still mounted"
}

loop_works() { [[ $EUID == 0 && -w /dev/loop-control ]]; }

# A limit that would take an hour is lifted under a writer that waits for it.
test_limits_of_files() {
  expect 0 . create limited 8M
  expect 0 'write_iops_sec: *1' qos limited write_iops_sec=1
  timeout 120 dd if=/dev/zero of="$work/mnt/volumes/limited" bs=4k count=2000 oflag=direct conv=notrunc,fsync \
    status=none &
  local writer=$! waits=False i
  for i in {1..100}; do
    waits=$(json 'a["waiting"] > 0' qos limited)
    [[ $waits == True ]] && break
    sleep 0.1
  done
  is "the writer waits" True "$waits"
  expect 0 'took limited@s' snapshot limited@s
  expect 0 'limited has no limits' qos limited --clear
  wait "$writer" || fail "the writer under a limit"
  is "it was delayed" True "$(json 'a["delayed"] > 0' qos limited)"
  expect 0 . delete limited --snapshots --wait
}

test_loop() {
  loop_works || { echo "skipped: no loop devices here"; return; }
  local device
  device=$("$voltree" attach v) || { fail "attach: $device"; return; }
  is "size of $device" 16777216 "$(blockdev --getsize64 "$device")"
  is "direct I/O" 1 "$(losetup -nO DIO "$device" | tr -d ' ')"
  head -c 65536 /dev/urandom >"$work/data"
  dd if="$work/data" of="$device" bs=64k conv=fsync status=none
  cmp -n 65536 "$work/data" "$work/mnt/volumes/v" || fail "the device and the file differ"
  expect 4 . attach v
  expect 4 . delete v
  expect 4 . resize v 8M --shrink
  expect 0 . snapshot v@s
  expect 4 . revert v@s
  expect 0 "$device" list --attachments
  expect 0 . resize v 32M
  is "grown $device" 33554432 "$(blockdev --getsize64 "$device")"
  exec 9<"$device"
  expect 4 'pid' detach v
  expect 4 'attached|in use' manage v volume-1
  expect 4 'pid' unmanage v --as unmanaged
  exec 9<&-
  expect 0 "$device" detach "$device"
  is "nothing left" "[]" "$(json 'a["attachments"]' list --attachments)"
  device=$("$voltree" attach v)
  expect 0 'unmanaged is nobody' unmanage v --as unmanaged
  is "its device is gone" "[]" "$(json 'a["attachments"]' list --attachments)"
  expect 0 . rename unmanaged v
  device=$("$voltree" attach v@s --sector-size 4096)
  is "a snapshot is read-only" 1 "$(blockdev --getro "$device")"
  is "sectors" 4096 "$(blockdev --getss "$device")"
  local volume
  volume=$("$voltree" attach v)
  # What a daemon made the next one makes again, under the same path, whether it was stopped or killed.
  stop_daemon
  start_daemon --mount "$work/mnt" || return
  is "after a stop" "live live" "$(states)"
  cmp -n 65536 "$work/data" "$volume" || fail "after a stop $volume has other data"
  is "sectors, after a stop" 4096 "$(blockdev --getss "$device")"
  kill_daemon
  start_daemon --mount "$work/mnt" || return
  is "after a kill" "live live" "$(states)"
  cmp -n 65536 "$work/data" "$volume" || fail "after a kill $volume has other data"
  is "a snapshot is still read-only" 1 "$(blockdev --getro "$device")"
  # Not what somebody uses: the books of that are stale, busy, and can be cleared.
  exec 9<"$device"
  kill_daemon
  start_daemon --mount "$work/mnt" || return
  is "in use" "live stale" "$(states)"
  expect 4 . delete v@s
  exec 9<&-
  expect 0 'detached' detach v@s
  # Nor what has become another's.
  kill_daemon
  losetup -d "$volume"
  losetup "$volume" "$work/data"
  start_daemon --mount "$work/mnt" || return
  is "taken" "stale" "$(states)"
  cmp "$work/data" "$volume" || fail "$volume is the other one's no more"
  losetup -d "$volume"
  losetup -d "$device" 2>/dev/null # dead: the detach of what is stale leaves it
  expect 0 'detached' detach v
}
states() { json '" ".join(sorted(x["state"] for x in a["attachments"]))' list --attachments; }
kill_daemon() { # what is mounted stays: the next daemon takes it away
  kill -KILL "$daemon"
  wait "$daemon" 2>/dev/null
}

test_help
test_usage_errors
test_store_errors
test_bad_names_and_sizes
test_limits
test_life_of_volumes
test_groups
test_driver_commands
test_managed_file
test_newer_store
test_full_host
test_embedded_concurrency
test_daemon
test_background_daemon
test_mount
expect 0 'sound' check --data
echo "$checks checks, $failures failed"
[[ $failures == 0 ]]
