#!/usr/bin/env bash
# Volumes for instances of this host as loop devices: read-only ones and writable ones beside each other.
# Usage: local.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse
need_loop
for tool in jq python3; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

driver_configuration='{"free_min_bytes":0,"connection":"local"}'
volume='{"name":"disk","size":1}'
connect() { # connect MODE: the device that an instance gets
  driver_call initialize_connection "{\"volume\":$volume,\"connector\":{\"host\":\"h\",\"mode\":\"$1\"}}" |
    jq -r '.answer.data.device_path // .exception'
}
terminate() { # terminate HOSTS-THAT-HAVE-IT: whether others of the host keep it
  driver_call terminate_connection \
    "{\"volume\":{\"name\":\"disk\",\"size\":1,\"attachments\":$1},\"connector\":{\"host\":\"h\"}}" | jq -r .answer
}
devices() { "$voltree" --json list --attachments | jq -r '[.attachments[].device] | sort | join(" ")'; }
read_direct() { dd if="$1" bs=4096 count=1 iflag=direct status=none | tr -d '\0'; }
write_direct() { printf %-4096s "$2" | dd of="$1" bs=4096 count=1 oflag=direct conv=notrunc status=none; }

"$voltree" init >/dev/null
start_daemon
"$voltree" create disk 1G

for order in "ro rw" "rw ro"; do
  for mode in $order; do
    device=$(connect "$mode")
    [[ $device == /dev/loop* ]] || die "$order: $mode got $device"
    if [[ $mode == ro ]]; then reads=$device; else writes=$device; fi
    is "$order: $mode again" "$device" "$(connect "$mode")"
  done
  is "$order: one is read-only" 1 "$(blockdev --getro "$reads")"
  is "$order: the other is not" 0 "$(blockdev --getro "$writes")"
  check "$order: write" write_direct "$writes" "$order"
  is "$order: the reader sees it" "$order" "$(read_direct "$reads" | sed 's/ *$//')"
  if write_direct "$reads" wrong 2>/dev/null; then fail "$order: the read-only one takes writes"; fi
  is "$order: both are booked" "$(printf '%s\n' "$reads" "$writes" | sort | paste -sd' ')" "$(devices)"
  status=0
  "$voltree" attach disk >/dev/null 2>"$work/said" || status=$?
  is "$order: nobody gets a third by hand" "4 1" "$status $(grep -c "attached already" "$work/said")"
  is "$order: one of two goes" true "$(terminate '[{"attached_host":"h"},{"attached_host":"h"}]')"
  is "$order: the last one goes" false "$(terminate '[{"attached_host":"h"}]')"
  is "$order: no device is left" "" "$(devices)"
done

# A daemon that is started again makes both anew, under their paths.
reads=$(connect ro)
writes=$(connect rw)
kill_daemon
start_daemon
is "the reader's device" "$reads" "$(connect ro)"
is "the writer's device" "$writes" "$(connect rw)"
is "it reads" "rw ro" "$(read_direct "$reads" | sed 's/ *$//')"
is "the end" false "$(terminate '[]')"
check "delete" "$voltree" delete disk --wait
check "the store is sound" "$voltree" check --data
stop_daemon
finish
