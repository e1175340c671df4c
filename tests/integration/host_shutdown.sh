#!/usr/bin/env bash
# The host's file system stops at once (a forced shutdown, after which nothing gets to its disk) under a store that is
# written to, or its disk fails, and it is mounted again in the same boot: what was flushed is there, the store is sound,
# and a file system inside a volume needs no repair.
# Usage: host_shutdown.sh VOLTREE-BINARY ACK-WRITER-BINARY [ROUNDS [HOST...]]
# HOST: ext4, xfs, or with -disk (btrfs, too) that file system on a disk that fails

# Mounts that nobody else sees: a container that starts meanwhile would copy them into its own namespace, and the copy
# would keep the stopped file system in memory, so that mounting it again gives the stopped one.
if [[ -z ${voltree_own_mounts:-} ]] && unshare --mount --propagation private true 2>/dev/null; then
  voltree_own_mounts=1 exec unshare --mount --propagation private bash "$0" "$@"
fi
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
writer=$(realpath "$2")
rounds=${3:-2}
host_kinds=("${@:4}")
((${#host_kinds[@]})) || host_kinds=(ext4 xfs ext4-disk btrfs-disk)
need_fuse
need_loop
command -v xfs_io >/dev/null || skip "this needs xfs_io (Debian: xfsprogs)"

host=$work/host inner=$work/inner disk=$work/disk other=$work/other-mount
mkdir "$host" "$inner" "$disk" "$other"
declare -i stopped=0
kind='' disk_daemon=''
# Always this one, which no other test takes: what comes back under another number is a copy, but for a loop device on a
# file that says when it was made, and files of FUSE do not.
disk_device=/dev/loop$((100000 + BASHPID))

# The disk that fails is a volume of another store, whose daemon dies: what was written to it is there later.
on_disk() { [[ $kind == *-disk ]]; }
of_disk() { VOLTREE_STORE=$work/other "$voltree" "$@"; }
start_disk() {
  VOLTREE_STORE=$work/other "$voltree" serve --foreground --mount "$disk" 2>>"$work/disk.log" &
  disk_daemon=$!
  background=("$disk_daemon")
  wait_until "the disk" mountpoint -q "$disk"
  losetup "$disk_device" "$disk/volumes/$kind"
}

make_host() { # false where its file system cannot be stopped
  if on_disk; then
    [[ -d $work/other ]] || of_disk init >/dev/null
    of_disk create "$kind" 1G >/dev/null
    start_disk
    "mkfs.${kind%-disk}" -q "$disk_device" >/dev/null 2>&1
    mount "$disk_device" "$host"
    return
  fi
  truncate -s 1536M "$work/host.$kind"
  "mkfs.$kind" -q "$work/host.$kind"
  mount -o loop "$work/host.$kind" "$host"
  if ! xfs_io -x -c shutdown "$host" >/dev/null 2>&1; then
    umount "$host"
    return 1
  fi
  umount "$host"
  mount_host
}
mount_host() {
  if ! on_disk; then
    mount -o loop "$work/host.$kind" "$host"
    return
  fi
  start_disk
  # btrfs has a new number with each mount: it takes the lowest that nobody has.
  [[ $kind != btrfs-* ]] || mountpoint -q "$other" || mount -t tmpfs none "$other"
  mount "$disk_device" "$host"
}
fail_host() {
  stopped+=1
  if on_disk; then
    kill -KILL "$disk_daemon"
    wait "$disk_daemon" 2>/dev/null || true
  else
    xfs_io -x -c shutdown "$host" >/dev/null
  fi
}
unmount_host() {
  wait_until "the host's file system" umount "$host" 2>/dev/null
  on_disk || return 0
  losetup -d "$disk_device"
  end_process "$disk_daemon"
  mountpoint -q "$disk" && fusermount3 -uz "$disk"
  background=()
}

# Files come and go in the file system inside the volume, until it gives errors.
churn() {
  local i
  for ((i = 0; ; i++)); do
    head -c $((RANDOM * 8)) /dev/urandom >"$inner/f$((i % 20))" && sync -f "$inner/f$((i % 20))" &&
      rm -f "$inner/f$((RANDOM % 20))" || return 0
  done 2>/dev/null
}

fork_meanwhile() { # until the store takes no more
  local i
  for ((i = 0; ; i++)); do
    "$voltree" snapshot "v@r$1-$i" && sleep 0.$((RANDOM % 3 + 1)) && "$voltree" delete "v@r$1-$i" || return 0
  done >/dev/null 2>&1
}

stop_the_host() { # stop_the_host ROUND
  local device load files forks
  device=$("$voltree" attach inner) || die "no device"
  mount "$device" "$inner"
  "$writer" flush "$work/mnt/volumes/v" "$work/books" 4 $((RANDOM * 1000 + $1)) >"$work/writes" 2>&1 &
  load=$!
  churn &
  files=$!
  fork_meanwhile "$1" &
  forks=$!
  background+=("$load" "$files" "$forks")
  sleep "$((RANDOM % 2)).$((RANDOM % 9 + 1))"
  fail_host
  wait "$load" || fail "the writer failed: $(cat "$work/writes")"
  wait "$files" || true
  kill_daemon
  wait "$forks" || true
  umount "$inner" || umount -l "$inner"
  wait_until "the device" let_go "$device"
  unmount_host
  background=()
}
# Somebody else may have its number by now.
let_go() {
  [[ $(losetup -nO BACK-FILE "$1" 2>/dev/null) == "$work/"* ]] || return 0
  losetup -d "$1" 2>/dev/null
  return 1
}

look() { # look WHAT
  local device
  check "$1: flushed writes" "$writer" verify "$work/mnt/volumes/v" "$work/books"
  # The daemon makes it anew by itself, unless somebody still uses what is left of the old one, or took its number.
  device=$(losetup -nO NAME,BACK-FILE | awk -v file="$work/mnt/volumes/inner" '$2 == file {print $1}')
  if [[ -z $device ]]; then
    check "$1: what is stale goes" "$voltree" detach inner
    device=$("$voltree" attach inner) || die "$1: no device"
  fi
  mount "$device" "$inner" || fail "$1: the file system in the volume cannot be mounted"
  umount "$inner"
  check "$1: the file system in the volume" e2fsck -fn "$device"
  check "$1: detach" "$voltree" detach inner
  check "$1: the store" "$voltree" check --data
}

for kind in "${host_kinds[@]}"; do
  if ! make_host; then
    echo "$kind: this kernel's cannot be stopped"
    continue
  fi
  rm -f "$work/books"
  export VOLTREE_STORE=$host/store
  "$voltree" init >/dev/null
  start_daemon
  "$voltree" create v 64M >/dev/null
  "$voltree" create inner 128M >/dev/null
  check "mkfs" mkfs.ext4 -q -F "$work/mnt/volumes/inner"
  for ((round = 1; round <= rounds; round++)); do
    stop_the_host "$round"
    mount_host
    start_daemon
    is "$kind, round $round: stores that pass for copies" 0 "$(grep -c 'is a copy of\|was copied' "$work/daemon.log")"
    look "$kind, round $round"
    echo "$kind, round $round: $(cat "$work/writes"), all there"
  done
  stop_daemon
  check "$kind: check" "$voltree" check --data
  unmount_host
  if mountpoint -q "$other"; then umount "$other"; fi
done
# That nothing of it stays (linux/loop.h: LOOP_CTL_REMOVE).
if [[ -b $disk_device ]]; then
  python3 -c 'import fcntl, sys; fcntl.ioctl(open("/dev/loop-control"), 0x4c81, int(sys.argv[1]))' "${disk_device#/dev/loop}"
fi
((stopped > 0)) || skip "no file system here can be stopped"
echo "stopped $stopped times"
finish
