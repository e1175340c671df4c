#!/usr/bin/env bash
# ext4, XFS and btrfs inside volumes on loop devices: a full copy-in, a snapshot while writing, the snapshot's clone
# mounted (its journal replayed) beside the original, every file compared, the file systems' own checkers content.
# Usage: filesystems.sh VOLTREE-BINARY [FOLDER TO COPY]
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
source_folder=${2:-/usr/include}
need_fuse
need_loop

tried=0

make_filesystem() { # make_filesystem TYPE DEVICE
  case $1 in
    ext4) mkfs.ext4 -q "$2" ;;
    xfs) mkfs.xfs -q "$2" ;;
    btrfs) mkfs.btrfs -q "$2" ;;
  esac
}

mount_options() { # two copies of one XFS have one uuid
  [[ $1 != xfs ]] || echo "-o nouuid"
}

check_filesystem() { # check_filesystem TYPE DEVICE: changes nothing
  case $1 in
    ext4) e2fsck -fn "$2" ;;
    xfs) xfs_repair -n "$2" ;;
    btrfs) btrfs check --readonly "$2" ;;
  esac
}

# btrfs refuses two devices of one uuid at once, so its clone gets a new one; the others need no help.
separate() { # separate TYPE DEVICE
  [[ $1 == btrfs ]] || return 0
  # The log is replayed first: btrfstune wants a clean file system.
  umount "$work/original"
  "$voltree" detach btrfs >/dev/null
  mount -t btrfs "$2" "$work/clone"
  umount "$work/clone"
  btrfstune -f -u "$2" >/dev/null
}

usable() { # usable TYPE: the kernel has it, and its tools are here
  local program
  for program in mkfs."$1" "$2"; do
    command -v "$program" >/dev/null || { echo "$1: skipped, there is no $program here"; return 1; }
  done
  modprobe -q "$1" 2>/dev/null || true
  grep -qw "$1" /proc/filesystems || { echo "$1: skipped, this kernel has none"; return 1; }
}

same_as_source() { diff -r --no-dereference "$source_folder" "$1/$(basename "$source_folder")"; }

write_on() { # write_on FOLDER: until it is stopped, with a sync now and then
  local i=0
  mkdir "$1/later"
  while head -c $((RANDOM * 20)) /dev/urandom >"$1/later/$((i % 100))"; do
    i=$((i + 1))
    ((i % 50)) || sync "$1/later/0"
  done 2>/dev/null
}

# shellcheck disable=SC2046 # no option or two words
try_filesystem() { # try_filesystem TYPE CHECKER
  usable "$1" "$2" || return 0
  tried=$((tried + 1))
  local device copy writer start=$SECONDS
  "$voltree" create "$1" 2G >/dev/null
  device=$("$voltree" attach "$1")
  check "$1: mkfs" make_filesystem "$1" "$device"
  mkdir -p "$work/original" "$work/clone"
  mount -t "$1" "$device" "$work/original"
  cp -a "$source_folder" "$work/original/"
  sync -f "$work/original"
  write_on "$work/original" &
  writer=$!
  background=("$writer")
  sleep 1
  for i in 1 2 3; do check "$1: snapshot while writing" "$voltree" snapshot "$1@s$i"; done
  sleep 1
  check "$1: clone" "$voltree" clone "$1@s2" "$1-copy"
  copy=$("$voltree" attach "$1-copy")
  end_process "$writer"
  background=()
  check "$1: original equals its source" same_as_source "$work/original"
  separate "$1" "$copy"
  # shellcheck disable=SC2086
  check "$1: the clone mounts" mount -t "$1" $(mount_options "$1") "$copy" "$work/clone"
  check "$1: the clone equals the source" same_as_source "$work/clone"
  check "$1: the clone can be written to" cp -a "$source_folder" "$work/clone/again"
  umount "$work/clone"
  mountpoint -q "$work/original" && umount "$work/original"
  check "$1: the clone's own checker" check_filesystem "$1" "$copy"
  "$voltree" detach "$1-copy" >/dev/null
  [[ $1 == btrfs ]] && device=$("$voltree" attach "$1")
  check "$1: the original's own checker" check_filesystem "$1" "$device"
  "$voltree" detach "$1" >/dev/null
  echo "$1: copied, snapshotted, cloned, compared and checked in $((SECONDS - start)) s"
}

"$voltree" init >/dev/null
start_daemon
echo "$source_folder: $(find "$source_folder" -type f | wc -l) files"
try_filesystem ext4 e2fsck
try_filesystem xfs xfs_repair
try_filesystem btrfs btrfstune
((tried)) || skip "none of the file systems is here"
check "the store is sound" "$voltree" check --data
mapfile -t volumes < <("$voltree" list --json | python3 -c 'import json, sys
print("\n".join(sorted({node["volume"] for node in json.load(sys.stdin)["nodes"]})))')
check "delete everything" "$voltree" delete "${volumes[@]}" --snapshots --wait
is "layer files left" 0 "$(find "$VOLTREE_STORE/layers" -type f | wc -l)"
stop_daemon
finish
