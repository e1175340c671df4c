#!/usr/bin/env bash
# The NBD server with other people's clients: libnbd's tools, QEMU's, nbdkit, fio, nbdfuse; an incremental backup from
# the changed-blocks context; both doors at once; clients that outlive the daemon.
# Usage: nbd.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse
for tool in nbdinfo nbdcopy qemu-img qemu-io qemu-nbd; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

socket=$work/nbd.sock
uri() { echo "nbd+unix:///$1?socket=$socket"; }
serve() { start_daemon --nbd-socket "$socket" --nbd-listen 127.0.0.1:0; }
same() { check "$1" cmp "$2" "$3"; }

"$voltree" init >/dev/null
serve
"$voltree" create disk 96M >/dev/null
"$voltree" create other 96M >/dev/null

# --- Where it is, and what clients see of it.
is "the first URI" "$(uri disk)" "$("$voltree" nbd disk | head -n1)"
tcp=$("$voltree" nbd disk | sed -n 2p)
is "the size over TCP" 100663296 "$(nbdinfo --size "$tcp")"
is "the mode of the socket" 600 "$(stat -c %a "$socket")"
is "qemu-nbd's list" 2 "$(qemu-nbd --list -k "$socket" | grep -c "^ export: '")"
is "nbdinfo's list" "disk other" "$(nbdinfo --list --json "$(uri '')" | jq -r '[.exports[]."export-name"] | sort | join(" ")')"
check "nbdinfo can multi-conn" nbdinfo --can multi-conn "$(uri disk)"
check "nbdinfo says writable" bash -c "! nbdinfo --is read-only '$(uri disk)'"

# --- The kernel's own client: with one, guest.sh does it.
if [[ ! -e /sys/module/nbd && ! -e /sys/block/nbd0 ]]; then
  is "attach --nbd without the kernel's client" "voltree: the kernel has no NBD client: modprobe nbd" \
    "$("$voltree" attach --nbd disk 2>&1 | cut -d, -f1)"
  is "and nothing is attached" 0 "$("$voltree" --json list --attachments | jq '.attachments | length')"
fi

# --- QEMU's patterns: FUA, zeroes with and without a hole, discard, all odd sizes.
qemu_io() { qemu-io -f raw "$@"; }
check "patterns" qemu_io -c 'write -P 0x11 0 1M' -c 'write -P 0x22 -f 1000 70001' -c 'read -P 0x22 1000 70001' \
  -c 'read -P 0x11 0 1000' -c 'write -z 200k 100k' -c 'read -P 0 200k 100k' -c 'write -z -u 400k 33333' \
  -c 'read -P 0 400k 33333' -c 'discard 512k 128k' -c 'read -P 0 512k 128k' -c 'flush' \
  -c 'aio_write -P 0x33 2M 1M' -c 'aio_write -P 0x44 3M 1M' -c 'aio_flush' -c 'read -P 0x33 2M 1M' "$(uri disk)"

# --- Real data, both ways, on several connections.
tar -C /usr/include -cf "$work/tree.tar" . 2>/dev/null
truncate -s 96M "$work/raw"
dd if="$work/tree.tar" of="$work/raw" bs=1M count=90 conv=notrunc status=none
check "nbdcopy in" nbdcopy --connections=4 --requests=32 "$work/raw" "$(uri disk)"
check "nbdcopy out" nbdcopy --connections=4 "$(uri disk)" "$work/out"
same "what nbdcopy brought back" "$work/raw" "$work/out"
same "what the file shows" "$work/raw" "$work/mnt/volumes/disk"
rm "$work/out"

qemu-img convert -f raw -O qcow2 "$work/raw" "$work/image.qcow2"
check "a qcow2 into a volume" qemu-img convert -n -f qcow2 -O raw "$work/image.qcow2" "$(uri other)"
check "qemu-img compare" qemu-img compare -f raw -F qcow2 "$(uri other)" "$work/image.qcow2"
check "the volume into a qcow2" qemu-img convert -f raw -O qcow2 "$(uri other)" "$work/back.qcow2"
check "and it is the same" qemu-img compare "$work/image.qcow2" "$work/back.qcow2"
check "qemu-img bench" qemu-img bench -w -c 2000 -d 32 -s 4096 -f raw "$(uri other)"
if command -v nbdfuse >/dev/null; then
  mkdir "$work/one"
  nbdfuse "$work/one" "$(uri disk)" &
  background+=($!)
  for _ in {1..100}; do [[ -e $work/one/nbd ]] && break; sleep 0.1; done
  same "through nbdfuse" "$work/raw" "$work/one/nbd"
  fusermount3 -u "$work/one"
fi
if fio --enghelp 2>/dev/null | grep -qw nbd; then
  check "fio with verification" fio --name=verify --directory="$work" --ioengine=nbd --uri="$(uri other)" --size=96M \
    --rw=randwrite --bs=512-64k --iodepth=32 --io_size=64M --verify=crc32c --verify_state_save=0 --do_verify=1
fi

# --- An incremental backup: what has changed since a snapshot comes from the extent maps.
"$voltree" snapshot disk@monday >/dev/null
check "full backup" nbdcopy "$(uri disk@monday)" "$work/backup"
check "a week of work" qemu_io -c 'write -P 0x77 5M 100k' -c 'write -P 0x78 40000001 4097' -c 'discard 60M 1M' \
  -c 'write -z 70M 4k' "$(uri disk)"
"$voltree" snapshot disk@friday >/dev/null
check "more work, not of this backup" qemu_io -c 'write -P 0x79 80M 1M' "$(uri disk)"
changed=0
while read -r offset length kind _; do
  [[ $kind == 1 ]] || continue
  changed=$((changed + length))
  dd if="$work/mnt/snapshots/disk/friday" of="$work/backup" iflag=skip_bytes,count_bytes oflag=seek_bytes \
    skip="$offset" seek="$offset" count="$length" bs=64k conv=notrunc status=none
done < <(nbdinfo --map=qemu:dirty-bitmap:monday "$(uri disk@friday)")
is "little was copied" yes "$( ((changed > 0 && changed < 2 * 1048576)) && echo yes || echo "$changed")"
check "the backup is friday" nbdcopy "$(uri disk@friday)" "$work/friday"
same "the backup" "$work/friday" "$work/backup"
dirty_of_qemu=$(qemu-img map --output=json --image-opts \
  "driver=nbd,server.type=unix,server.path=$socket,export=disk@friday,x-dirty-bitmap=qemu:dirty-bitmap:monday" |
  jq '[.[] | select(.data | not) | .length] | add')
is "what QEMU reads from the same context" "$changed" "$dirty_of_qemu"
is "diff says the same" "$changed" "$("$voltree" diff --json disk@monday disk@friday | jq '[.ranges[].length_bytes] | add')"

# --- Two doors. The file is open, and the kernel has its pages, while NBD changes them.
exec 5<>"$work/mnt/volumes/disk"
head -c 8192 <&5 >/dev/null
check "a write through NBD" qemu_io -c 'write -P 0x61 0 8k' "$(uri disk)"
is "the file shows it at once" "$(printf 'a%.0s' {1..16})" "$(dd if=/proc/self/fd/5 bs=16 count=1 status=none)"
printf 'through the file' | dd of="$work/mnt/volumes/disk" bs=16 conv=notrunc status=none
is "NBD shows what the file was given" 'through the file' \
  "$(nbdcopy "$(uri disk)" - | head -c 16 2>/dev/null || true)"
check "zeroes through NBD" qemu_io -c 'write -z 0 4k' "$(uri disk)"
is "the file shows them" 0 "$(dd if=/proc/self/fd/5 bs=4096 count=1 status=none | tr -d '\0' | wc -c)"
exec 5>&-

# --- What is connected is in use.
mkfifo "$work/words"
qemu-io -f raw "$(uri other)" <"$work/words" >"$work/said" 2>&1 &
client=$!
background+=("$client")
exec 6>"$work/words"
echo 'write -P 0x55 0 64k' >&6
for _ in {1..100}; do grep -q '^wrote' "$work/said" && break; sleep 0.1; done
"$voltree" nbd | grep -q other || fail "the connection is not listed: $("$voltree" nbd)"
status=0; "$voltree" delete other 2>"$work/error" || status=$?
is "deleting what is connected" 4 "$status"
grep -q 'NBD' "$work/error" || fail "no word of NBD: $(<"$work/error")"
status=0; "$voltree" resize other 1M --shrink 2>/dev/null || status=$?
is "shrinking what is connected" 4 "$status"
check "--force" "$voltree" delete other --force --wait
exec 6>&-
wait "$client" || true

# --- Clients that reconnect notice nothing of a restart, be it a stop or a death.
options="driver=nbd,server.type=unix,server.path=$socket,export=disk,reconnect-delay=60"
: >"$work/said"
qemu-io --image-opts "$options" <"$work/words" >"$work/said" 2>&1 &
client=$!
background+=("$client")
exec 6>"$work/words"
answers() { # answers COUNT: so many commands have ended
  local i
  for ((i = 0; i < 300; i++)); do
    (($(grep -c 'ops; ' "$work/said") >= $1)) && return
    sleep 0.1
  done
  fail "qemu-io says only: $(<"$work/said")"
}
echo 'write -P 0x81 1M 1M' >&6
answers 1
stop_daemon
echo 'write -P 0x82 2M 1M' >&6
serve
answers 2
kill_daemon
echo 'write -P 0x83 3M 1M' >&6
serve
answers 3
for i in 1 2 3; do # one at a time: qemu-io looks at its input once for each time that it is woken
  echo "read -P 0x8$i ${i}M 1M" >&6
  answers $((3 + i))
done
echo quit >&6
exec 6>&-
wait "$client" || fail "qemu-io ended with an error: $(<"$work/said")"
grep -qiE 'fail|error|verification' "$work/said" && fail "qemu-io saw an error: $(<"$work/said")"
if command -v nbdkit >/dev/null && nbdkit --filter=retry nbd --help >/dev/null 2>&1; then
  nbdkit -f -U "$work/retry.sock" --filter=retry nbd socket="$socket" export=disk retries=20 retry-delay=1 \
    retry-exponential=no 2>/dev/null &
  background+=($!)
  for _ in {1..100}; do [[ -S $work/retry.sock ]] && break; sleep 0.1; done
  relay="nbd+unix:///?socket=$work/retry.sock"
  check "through nbdkit" qemu_io -c 'read -P 0x81 1M 1M' "$relay"
  kill_daemon
  serve
  check "through nbdkit after a death" qemu_io -c 'read -P 0x82 2M 1M' -c 'write -P 0x84 4M 64k' "$relay"
fi

stop_daemon
check "the store" "$voltree" check --data
[[ ! -e $socket ]] || fail "the socket file stays behind"
finish
