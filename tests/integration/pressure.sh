#!/usr/bin/env bash
# Memory is short, and the way to have more leads through the volume: dirty pages of a file system on a loop device on
# the tree can only go where the daemon writes them, which must not wait for memory itself. The daemon and those who write
# are in one small memory cgroup.
# Usage: pressure.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse
need_loop

readonly limit_mib=256 data_mib=768
group='' # a folder of the memory controller
make_group() {
  local parent
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    grep -qw memory /sys/fs/cgroup/cgroup.subtree_control || return 1
    parent=/sys/fs/cgroup
  else
    parent=/sys/fs/cgroup/memory
  fi
  mkdir "$parent/voltree-test.$$" 2>/dev/null || return 1
  group=$parent/voltree-test.$$
  if [[ -e $group/memory.max ]]; then
    echo $((limit_mib << 20)) >"$group/memory.max"
  else
    echo $((limit_mib << 20)) >"$group/memory.limit_in_bytes"
  fi
}
capabilities=$(awk '/^CapEff/ {print $2}' /proc/self/status)
((0x$capabilities >> 24 & 1)) ||
  skip "this needs CAP_SYS_RESOURCE: without it the kernel makes a daemon wait for its own device (the guest has it)"
make_group || skip "this needs a memory cgroup of its own"
leave_group() {
  [[ -z $group ]] || rmdir "$group" 2>/dev/null || true
}
trap 'leave_group; clean_up' EXIT

inner=$work/inner
mkdir "$inner"
"$voltree" init >/dev/null
start_daemon
echo "$daemon" >"$group/cgroup.procs"
"$voltree" create disk 2G >/dev/null
device=$("$voltree" attach disk) || die "no device"
mkfs.ext4 -q -F "$device"
mount "$device" "$inner"

# Each writes what its number makes, three times what fits; nothing is flushed before the end.
writers=()
for i in 1 2 3; do
  bash -c 'echo $$ >"$1/cgroup.procs" && exec head -c "$3" <(yes "line of file $2") >"$4/f$2"' - \
    "$group" "$i" $((data_mib / 3 << 20)) "$inner" &
  writers+=("$!")
done
background=("${writers[@]}")
for i in "${!writers[@]}"; do
  checks=$((checks + 1))
  wait "${writers[i]}" || fail "writer $((i + 1))"
done
background=()
check "sync" sync -f "$inner"
check "a snapshot meanwhile" "$voltree" snapshot disk@full
for i in 1 2 3; do
  # shellcheck disable=SC2016 # for the inner shell
  check "file $i" bash -c 'cmp <(head -c "$2" <(yes "line of file $1")) "$3/f$1"' - "$i" $((data_mib / 3 << 20)) "$inner"
done
peak=$(cat "$group/memory.peak" "$group/memory.max_usage_in_bytes" 2>/dev/null | head -1)
echo "at most $((peak >> 20)) MiB of $limit_mib were used for $data_mib"
umount "$inner"
check "the file system" e2fsck -fn "$device"
check "detach" "$voltree" detach disk
stop_daemon
check "the store" "$voltree" check --data
finish
