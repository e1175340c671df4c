#!/bin/busybox sh
# /init of the guest that guest.sh boots: what a kernel of its own makes of volumes. Says "OK what" or "FAILED what" on
# the console, and "GUEST DONE" at its end.
# $nbd_port, on the kernel's command line: where the host serves the volume "kernel" over TCP.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /run /tmp /mnt/a /mnt/b /mnt/c /mnt/tree
for word in $(cat /proc/cmdline); do
  case $word in nbd_port=*) nbd_port=${word#*=} ;; esac
done

ok() { echo "OK $*"; }
failed() { echo "FAILED $*"; }
# check WHAT COMMAND...
check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then ok "$what"; else failed "$what: $output"; fi
}
# refused WHAT WORDS COMMAND...: it fails, and says so
refused() {
  local what=$1 words=$2 output
  shift 2
  if output=$("$@" 2>&1); then failed "$what: it was not refused"; return; fi
  case $output in *"$words"*) ok "$what" ;; *) failed "$what: $output" ;; esac
}
sums() { (cd "$1" && find . -type f ! -path './lost+found/*' -exec md5sum {} + | sort -k2 | md5sum); }
same() { # same WHAT FOLDER FOLDER
  if [ "$(sums "$2")" = "$(sums "$3")" ]; then ok "$1"; else failed "$1: it differs"; fi
}
wait_for() { # wait_for WHAT COMMAND...
  local what=$1 i=0
  shift
  while ! "$@" >/dev/null 2>&1; do
    i=$((i + 1))
    [ $i -lt 300 ] || { failed "$what: waited in vain"; return 1; }
    sleep 0.2
  done
}

# What is copied about: of a known size, whatever libraries the tools need.
mkdir /files
cp -a /lib/modules /bin/busybox /bin/voltree /files/

modprobe -a virtio_pci virtio_blk virtio_net ext4 nbd fuse loop
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up

echo "# a disk by virtio"
wait_for "the disk" test -b /dev/vda
check "mkfs by virtio" /bin/mke2fs -q -t ext4 -F /dev/vda
check "mount by virtio" mount -t ext4 /dev/vda /mnt/a
check "copy by virtio" cp -a /files /mnt/a/
sync
echo "GUEST COPYING"
for round in 1 2 3 4 5 6 7 8; do # the host kills its daemon meanwhile
  cp -a /mnt/a/files "/mnt/a/round$round" || failed "copy while the daemon was killed"
  sync
done
check "umount by virtio" umount /mnt/a
check "fsck by virtio" e2fsck -fn /dev/vda
check "mount again by virtio" mount -t ext4 /dev/vda /mnt/a
same "the files by virtio" /files /mnt/a/files
same "what was copied while the daemon was killed" /files /mnt/a/round8

echo "# the kernel's client"
check "nbd-client" /bin/nbd-client 10.0.2.2 "$nbd_port" /dev/nbd0 -N kernel -b 512
check "mkfs by nbd" /bin/mke2fs -q -t ext4 -F /dev/nbd0
check "mount by nbd" mount -t ext4 -o discard /dev/nbd0 /mnt/b
check "copy by nbd" cp -a /files /mnt/b/
check "copy and delete by nbd" sh -c 'cp -a /files /mnt/b/twice && sync && rm -r /mnt/b/twice && sync'
check "fstrim by nbd" fstrim /mnt/b
check "umount by nbd" umount /mnt/b
check "fsck by nbd" e2fsck -fn /dev/nbd0
check "mount again by nbd" mount -t ext4 /dev/nbd0 /mnt/b
same "the files by nbd" /files /mnt/b/files
check "umount again by nbd" umount /mnt/b
check "nbd-client -d" /bin/nbd-client -d /dev/nbd0

echo "# voltree attach --nbd"
export VOLTREE_STORE=/mnt/a/store
serve() {
  voltree serve --foreground >>/tmp/daemon.log 2>&1 &
  daemon=$!
  wait_for "the daemon" sh -c 'voltree version | grep -q daemon'
}
check "init" voltree init
check "create" voltree create disk 200M
serve
device=$(voltree attach --nbd disk) && ok "attach --nbd: $device" || failed "attach --nbd"
is() { if [ "$2" = "$3" ]; then ok "$1"; else failed "$1: expected $2, got $3"; fi; }
is "the device's size" 209715200 "$(blockdev --getsize64 "$device")"
refused "a second attach" "attached already" voltree attach --nbd disk
refused "delete" "is attached" voltree delete disk
refused "delete --force" "attached" voltree delete --force disk
check "mkfs on it" /bin/mke2fs -q -t ext4 -F "$device"
check "mount it" mount -t ext4 "$device" /mnt/c
refused "detach while mounted" "mounted on /mnt/c" voltree detach disk
(for round in 1 2 3 4 5 6 7 8; do cp -a /files "/mnt/c/round$round" && sync || exit 1; done) &
copy=$!
sleep 1
kill -9 "$daemon"
wait "$daemon"
serve
if wait "$copy"; then ok "copy while the daemon is killed"; else failed "copy while the daemon is killed"; fi
check "stop" kill -TERM "$daemon"
wait "$daemon"
is "the daemon's exit status" 0 $?
serve
check "copy after a stop" sh -c 'cp -a /files /mnt/c/last && sync'
check "grow" voltree resize disk 300M
is "the device has grown" 314572800 "$(blockdev --getsize64 "$device")"
check "umount it" umount /mnt/c
check "fsck it" e2fsck -fn "$device"
check "write beyond the old end" dd if=/bin/busybox of="$device" bs=512 seek=600000 conv=fsync
check "mount it again" mount -t ext4 "$device" /mnt/c
same "the files on it" /files /mnt/c/round8
same "the last files on it" /files /mnt/c/last
check "umount it again" umount /mnt/c
check "detach" voltree detach disk
refused "detach again" "not attached" voltree detach disk
check "snapshot" voltree snapshot disk@s
device=$(voltree attach --nbd disk@s) && ok "attach --nbd of a snapshot: $device" || failed "attach --nbd of a snapshot"
refused "a write to a snapshot" "" dd if=/bin/busybox of="$device" bs=4096 count=1 conv=fsync
check "stop with an idle device" kill -TERM "$daemon"
wait "$daemon"
serve
check "the idle device is there again" dd if="$device" of=/dev/null bs=1M count=4
check "detach the snapshot" voltree detach disk@s
check "delete" voltree delete --wait disk@s
check "check" voltree check
kill -TERM "$daemon"
wait "$daemon"

# Dirty pages of a file system on a loop device on the tree can only go where the daemon writes them: it must not wait
# for memory itself. The daemon and those who write are in one small group, with less than they write.
echo "# a loop device when memory is short"
check "cgroups" mount -t cgroup2 none /sys/fs/cgroup
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/small
echo 96M >/sys/fs/cgroup/small/memory.max
# In the background only: it becomes the command, whose process is then $!.
in_group() { exec sh -c 'echo $$ >/sys/fs/cgroup/small/cgroup.procs && exec "$@"' - "$@"; }
in_group voltree serve --foreground --mount /mnt/tree >>/tmp/daemon.log 2>&1 &
daemon=$!
wait_for "the daemon" sh -c 'voltree version | grep -q daemon'
check "create" voltree create pressed 400M
device=$(voltree attach pressed) && ok "attach: $device" || failed "attach"
check "mkfs on it" /bin/mke2fs -q -t ext4 -F "$device"
check "mount it" mount -t ext4 "$device" /mnt/c
writers=''
for number in 1 2; do
  in_group sh -c 'yes "line of file $1" | head -c 150000000 >/mnt/c/f$1' - $number &
  writers="$writers $!"
done
for writer in $writers; do
  if wait "$writer"; then ok "a writer"; else failed "a writer"; fi
done
check "sync" sync
for number in 1 2; do
  check "file $number" sh -c 'yes "line of file $1" | head -c 150000000 | cmp - /mnt/c/f$1' - $number
done
check "umount it" umount /mnt/c
check "fsck it" e2fsck -fn "$device"
check "detach" voltree detach pressed
cat /tmp/daemon.log
kill -TERM "$daemon"
wait "$daemon"
check "umount the disk" umount /mnt/a
check "fsck the disk" e2fsck -fn /dev/vda

echo "GUEST DONE"
poweroff -f
