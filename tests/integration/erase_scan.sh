#!/usr/bin/env bash
# After `delete --wait` no file of the store, the catalog included, holds a byte pattern of what was deleted, unless a
# living node holds it (I8). Each part of the volume has a pattern of its own; snapshots and a clone keep some alive.
# Usage: erase_scan.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse

tag=pattern-$$-$RANDOM

text() { # text NAME LENGTH_MIB
  head -c $(($2 * 1048576)) < <(yes "$tag-$1-" 2>/dev/null)
}

fill() { # fill VOLUME NAME OFFSET_MIB LENGTH_MIB: with lines that hold the name
  text "$2" "$4" |
    dd of="$work/mnt/volumes/$1" bs=1M seek="$3" iflag=fullblock oflag=direct conv=notrunc,fsync status=none
}

found() { # found NAME: how many files of the store hold it
  { grep -rlaF -- "$tag-$1-" "$VOLTREE_STORE" || true; } | wc -l
}

gone() { is "files that hold $1" 0 "$(found "$1")"; }
kept() { is "files that hold $1" yes "$( (($(found "$1"))) && echo yes)"; }
reads() { # reads FILE NAME OFFSET_MIB LENGTH_MIB
  checks=$((checks + 1))
  cmp -s <(dd if="$work/mnt/$1" bs=1M skip="$3" count="$4" iflag=direct status=none) \
    <(text "$2" "$4") || fail "$1 does not hold $2"
}

"$voltree" init >/dev/null
start_daemon
"$voltree" create v 256M >/dev/null
fill v shared 0 16      # the clone keeps this
fill v covered 16 16    # the clone overwrites this
fill v snapped 32 16    # overwritten in the volume later: only its snapshot has it
"$voltree" snapshot v@s >/dev/null
"$voltree" clone v@s c >/dev/null
fill c theirs 16 16
fill v later 32 16
fill v own 64 16
sync "$work/mnt/volumes/v" "$work/mnt/volumes/c"
for name in shared covered snapped theirs later own; do kept "$name"; done

check "delete the volume" "$voltree" delete v --wait
gone later
gone own
for name in shared covered snapped theirs; do kept "$name"; done

check "delete its snapshot" "$voltree" delete v@s --wait
gone covered
kept shared
kept theirs
reads volumes/c shared 0 16
reads volumes/c theirs 16 16
reads volumes/c snapped 32 16

# A discard, too, leaves nothing: the block is punched. A revert's leftovers go to the eraser.
"$voltree" snapshot c@keep >/dev/null
fill c reverted 128 8
check "revert" "$voltree" revert c@keep
check "wait for the eraser" "$voltree" erase --wait
gone reverted

# Shrinking erases what lies beyond.
fill c beyond 200 8
check "shrink" "$voltree" resize c 128M --shrink
check "wait for the eraser" "$voltree" erase --wait
gone beyond
reads volumes/c shared 0 16

# A kill in the middle of an erase: it goes on.
"$voltree" erase --rate 4M >/dev/null
check "delete without waiting" "$voltree" delete c --snapshots
sleep 1
kill_daemon
kept theirs
start_daemon
"$voltree" erase --rate 0 >/dev/null
check "the eraser goes on" "$voltree" erase --wait
for name in shared covered snapped theirs later own reverted beyond; do gone "$name"; done
is "layer files left" 0 "$(find "$VOLTREE_STORE/layers" -type f | wc -l)"
check "certificates" "$voltree" erase --certificates
"$voltree" erase --certificates
stop_daemon
check "the store is sound" "$voltree" check --data
finish
