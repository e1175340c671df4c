#!/usr/bin/env bash
# What is refused changes nothing: each wrong input gets its exit status and a message, and the listing before it is
# the listing after it. Then hosts that are not as they should be: full, without sparse files, taken by somebody else.
# Messages and exit statuses without a look at the store are in cli_test.sh.
# Usage: bad_input.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"

state() { "$voltree" list --json; }

# refused STATUS PATTERN ARGUMENTS...
refused() {
  local want=$1 pattern=$2 before status=0 output
  shift 2
  before=$(state)
  output=$(timeout 60 "$voltree" "$@" 2>&1 </dev/null) || status=$?
  checks=$((checks + 1))
  [[ $status == "$want" ]] || fail "voltree $*: exit status $status, not $want: $output"
  grep -qiE -- "$pattern" <<<"$output" || fail "voltree $*: no \"$pattern\" in: $output"
  [[ $(state) == "$before" ]] || fail "voltree $*: the store is not what it was"
}

refused_names_and_sizes() {
  local name size long
  long=$(printf 'n%.0s' {1..256})
  for name in a/b a@b . .. $'a\nb' $'a\tb' $'\x7f' $'\xff\xfe' "$long" ''; do
    refused 2 . create "$name" 1M
    refused 2 . clone vol "$name"
    refused 2 . rename vol "$name"
    refused 2 . snapshot "vol@$name"
  done
  for size in 0 1000 511 17P 99999999999999999999 1X '' ' ' 0x1000; do
    refused 2 . create new "$size"
    refused 2 . resize vol "$size"
  done
  refused 2 . create new -- -5
  refused 2 'smaller|shrink' resize vol 1M
  refused 2 'smaller' clone vol new --size 1M
}

refused_unknown_and_taken() {
  local command
  for command in "show nobody" "show vol@nothing" "delete nobody" "delete vol nobody" "delete vol@nothing" \
    "snapshot nobody@s" "clone nobody new" "clone vol@nothing new" "rename nobody new" "resize nobody 1G" \
    "revert vol@nothing" "revert nobody@s" "diff vol nobody" "detach vol"; do
    # Words on purpose.
    # shellcheck disable=SC2086
    refused 3 'there is no|no such|not attached|nothing' $command
  done
  refused 1 'vol' create vol 1M
  refused 1 'other' clone vol other
  refused 1 'other' rename vol other
  refused 1 'has a snapshot' snapshot vol@s
  refused 1 't' rename vol@s t
  refused 2 'snapshot' rename vol@s other@s
  # Reverting goes to a snapshot of the volume itself.
  refused 3 'has no snapshot' revert other@s
  refused 2 'policy' create new 1M --erase burn
  refused 2 'policy' delete vol --erase burn
}

refused_stores() {
  local status=0 output
  output=$("$voltree" --store "$work" list 2>&1) || status=$?
  is "a folder that is no store" 3 "$status"
  mkdir "$work/not-empty"
  touch "$work/not-empty/file"
  status=0
  "$voltree" init "$work/not-empty" >/dev/null 2>&1 || status=$?
  is "init in a folder that is not empty" yes "$( ((status)) && echo yes)"
  is "what is in it" file "$(ls "$work/not-empty")"
  # Locked by a process that is no daemon of voltree's.
  python3 -c 'import fcntl, sys, time
lock = open(sys.argv[1], "r+"); fcntl.lockf(lock, fcntl.LOCK_EX); print("held", flush=True); time.sleep(60)' \
    "$VOLTREE_STORE/LOCK" >"$work/held" &
  local holder=$!
  background=("$holder")
  while ! grep -q held "$work/held"; do sleep 0.1; done
  status=0
  output=$(timeout 60 "$voltree" list 2>&1) || status=$?
  is "a locked store ($output)" 4 "$status"
  grep -qE '[0-9]+|process' <<<"$output" || fail "a locked store: nothing is said of who holds it: $output"
  end_process "$holder"
  background=()
}

refused_mountpoints() {
  mkdir -p "$work/busy" "$work/full-folder"
  touch "$work/full-folder/file"
  refused 4 'empty' serve --foreground --mount "$work/full-folder"
  refused 3 'exist' serve --foreground --mount "$work/nowhere"
  refused 2 'directory' serve --foreground --mount "$work/full-folder/file"
  [[ $EUID == 0 ]] || return 0
  mount -t tmpfs none "$work/busy" || return 0
  touch "$work/busy/file"
  refused 4 . serve --foreground --mount "$work/busy"
  umount "$work/busy"
}

refused_while_attached() {
  start_daemon
  if [[ $EUID == 0 ]] && losetup --find >/dev/null 2>&1; then
    "$voltree" attach vol >/dev/null
    "$voltree" attach vol@s >/dev/null
    refused 4 attached delete vol
    refused 4 attached delete vol@s
    refused 4 attached delete vol --snapshots
    refused 4 attached resize vol 1M --shrink
    refused 4 attached revert vol@s
    refused 4 attached revert vol@s --keep-as now
    refused 4 attached attach vol
    "$voltree" detach vol >/dev/null
    "$voltree" detach vol@s >/dev/null
  else
    echo "no loop devices here: nothing is attached"
  fi
  # rm and writes through the tree answer as files do.
  if touch "$work/mnt/volumes/a@b" 2>/dev/null; then fail "a file named a@b was made"; fi
  if dd if=/dev/zero of="$work/mnt/snapshots/vol/s" bs=4k count=1 conv=notrunc status=none 2>/dev/null; then
    fail "a snapshot was written to"
  fi
  stop_daemon
}

host_image() { # host_image NAME SIZE: an empty file system of that kind for a store, mounted on $work/NAME
  truncate -s "$2" "$work/$1.image"
  "mkfs.$1" "$work/$1.image" >/dev/null 2>&1 && mkdir "$work/$1" &&
    mount -o loop "$work/$1.image" "$work/$1" 2>/dev/null
}

full_host() {
  host_image ext4 128M || { echo "skipped: no ext4 image can be mounted"; return 0; }
  export VOLTREE_STORE=$work/ext4/store
  "$voltree" init >/dev/null
  start_daemon
  "$voltree" create big 1G >/dev/null
  "$voltree" create kept 1M >/dev/null
  head -c 1M /dev/urandom >"$work/kept"
  dd if="$work/kept" of="$work/mnt/volumes/kept" bs=1M oflag=direct conv=notrunc,fsync status=none
  local output status=0
  output=$(dd if=/dev/urandom of="$work/mnt/volumes/big" bs=1M oflag=direct conv=notrunc 2>&1) || status=$?
  is "a write on a full host" 1 "$status"
  grep -qi 'no space' <<<"$output" || fail "a write on a full host: $output"
  status=0
  dd if=/dev/zero of="$work/ext4/fill" bs=4k status=none 2>/dev/null || true
  check "what was written before is there" cmp "$work/kept" "$work/mnt/volumes/kept"
  "$voltree" snapshot kept@full >/dev/null 2>&1 || status=$?
  [[ $status == 0 || $status == 5 ]] || fail "a snapshot on a full host: exit status $status"
  check "delete on a full host" "$voltree" delete big --wait
  rm "$work/ext4/fill"
  check "a snapshot once there is room" "$voltree" snapshot kept@room
  check "what was written before is still there" cmp "$work/kept" "$work/mnt/volumes/kept"
  check "the store is sound" "$voltree" check --data
  stop_daemon
  umount "$work/ext4"
}

host_without_sparse_files() {
  command -v mkfs.vfat >/dev/null || { echo "skipped: no mkfs.vfat here"; return 0; }
  host_image vfat 64M || { echo "skipped: this kernel has no vfat"; return 0; }
  local output status=0
  output=$("$voltree" init "$work/vfat/store" 2>&1) || status=$?
  is "init without sparse files ($output)" 1 "$status"
  grep -qi sparse <<<"$output" || fail "nothing is said of sparse files: $output"
  is "what init left" '' "$(ls "$work/vfat")"
  umount "$work/vfat"
}

"$voltree" init >/dev/null
"$voltree" create vol 8M >/dev/null
"$voltree" create other 8M >/dev/null
"$voltree" snapshot vol@s >/dev/null
"$voltree" snapshot vol@t >/dev/null
refused_names_and_sizes
refused_unknown_and_taken
refused_stores
if [[ -r /dev/fuse && -w /dev/fuse ]]; then
  refused_mountpoints
  refused_while_attached
fi
check "the store is sound" "$voltree" check --data
if [[ $EUID == 0 && -r /dev/fuse ]]; then
  full_host
  host_without_sparse_files
else
  echo "skipped: other hosts need root and FUSE"
fi
finish
