#!/usr/bin/env bash
# The Python side of the Cinder driver against a real daemon (openstack_shim.py says what that shows).
# Usage: openstack.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
here=$(realpath "$(dirname "$0")")
need_fuse
for tool in python3 qemu-img jq; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

names() { "$voltree" --json list | jq -r '[.nodes[].name] | join(" ")'; }
copy_image() { # copy_image FILE: to the volume
  driver_call copy_image_to_volume "{\"volume\":{\"name\":\"volume\",\"size\":1},\"image\":{\"path\":\"$1\",\"disk_format\":\"raw\"}}"
}

# A daemon that ends in the middle of an image leaves the volume as it was. Asked to stop, it undoes what there is of the
# image; killed, it leaves that to the next try.
ends_in_between() {
  local signal i caller
  check "a volume" "$voltree" create volume 1G
  echo old >"$work/mnt/volumes/volume"
  for signal in TERM KILL; do
    copy_image "$slow_image" >"$work/answer" &
    caller=$!
    background+=("$caller")
    for ((i = 0; i < 600; i++)); do [[ $(names) == *volume.import-* ]] && break; sleep 0.05; done
    if [[ $signal == TERM ]]; then stop_daemon; else kill_daemon; fi
    wait "$caller" || true
    [[ $signal == KILL ]] || is "what it says" "the daemon is stopping" "$(jq -r .message "$work/answer")"
    start_daemon
    is "SIG$signal: the volume" old "$(head -1 "$work/mnt/volumes/volume")"
    if [[ $signal == TERM ]]; then
      is "SIG$signal: nothing is left" "volume" "$(names)"
    else
      is "SIG$signal: what is left" 1 "$(names | tr ' ' '\n' | grep -c import-)"
    fi
  done
  check "a fast image" "$voltree" --store "$work/snail" qos image --clear
  is "the next try" '{"answer": null}' "$(copy_image "$slow_image")"
  is "removes it" "volume" "$(names)"
  check "and is the image" cmp -n 33554432 "$slow_image" "$work/mnt/volumes/volume"
  check "delete" "$voltree" delete volume
}

# An image that is read at a snail's pace: a volume of another store, with a limit.
slow_image=$work/slow/volumes/image
start_snail() {
  mkdir "$work/slow"
  "$voltree" --store "$work/snail" init >/dev/null
  check "an image" "$voltree" --store "$work/snail" create image 32M
  "$voltree" --store "$work/snail" serve --foreground --mount "$work/slow" 2>>"$work/daemon.log" &
  background+=("$!")
  local i
  for ((i = 0; i < 600; i++)); do [[ -e $slow_image ]] && break; sleep 0.1; done
  head -c 32M /dev/urandom >"$slow_image"
  check "a slow image" "$voltree" --store "$work/snail" qos image read_bytes_sec=1M
}

"$voltree" init >/dev/null
mkdir "$work/images"
start_daemon
start_snail
check "the driver" python3 "$here/openstack_shim.py" "$here/../../driver/openstack" "$VOLTREE_STORE/run/control.sock" \
  "$work/mnt" "$work/images" "$slow_image"
is "nothing is left" "[]" "$("$voltree" --json list | jq -c .nodes)"
ends_in_between
check "the store" "$voltree" check --data
stop_daemon
finish
