#!/usr/bin/env bash
# A guest under QEMU (software emulation): Debian's kernel with a volume as its virtio disk over NBD, with its own NBD
# client on another, and with a daemon of its own that attaches volumes as NBD devices. What the guest does is
# guest_init.sh.
# Usage: guest.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
init=$(realpath "$(dirname "$0")/guest_init.sh")
need_fuse
for tool in qemu-system-x86_64 nbd-client depmod e2fsck mke2fs apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

# --- The kernel and a static busybox, unpacked from Debian's packages without installing them.
mkdir "$work/packages" "$work/kernel" "$work/busybox"
(
  cd "$work/packages"
  image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}')
  [[ -n $image ]] && apt-get -qq download "$image" busybox-static
) >"$work/download.log" 2>&1 || skip "no kernel to boot: $(tail -n1 "$work/download.log")"
dpkg-deb -x "$work"/packages/linux-image*.deb "$work/kernel"
dpkg-deb -x "$work"/packages/busybox-static*.deb "$work/busybox"
vmlinuz=$(echo "$work"/kernel/boot/vmlinuz-*)
version=${vmlinuz##*/vmlinuz-}

# --- The guest's root: busybox, the tools with their libraries, the modules with theirs.
root=$work/root
mkdir -p "$root"/{bin,lib,lib64,proc,sys,dev,etc}
cp "$init" "$root/init"
cp "$(find "$work/busybox" -path '*/bin/busybox' -type f | head -n1)" "$root/bin/busybox"
strip -o "$work/voltree" "$voltree"
for tool in "$work/voltree" "$(command -v nbd-client)" "$(command -v e2fsck)" "$(command -v mke2fs)"; do
  cp "$tool" "$root/bin/"
  ldd "$tool" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -nL "$library" "$root$library"
  done
done
cp /etc/mke2fs.conf "$root/etc/"
depmod -b "$work/kernel" "$version"
for module in virtio_pci virtio_blk virtio_net ext4 nbd fuse loop; do
  modprobe -d "$work/kernel" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" {print $2}' | sort -u | while read -r module; do
  module=${module#"$work/kernel"}
  mkdir -p "$root${module%/*}"
  cp "$work/kernel$module" "$root$module"
done
cp "$work/kernel/lib/modules/$version"/modules.* "$root/lib/modules/$version/"
chmod +x "$root/init"
(cd "$root" && find . | "$root/bin/busybox" cpio -o -H newc 2>/dev/null) >"$work/initrd"

# --- The host's side.
socket=$work/nbd.sock
serve() { start_daemon --nbd-socket "$socket" --nbd-listen "127.0.0.1:$1"; }
"$voltree" init >/dev/null
serve 0
"$voltree" create vm 1G >/dev/null
"$voltree" create kernel 256M >/dev/null
port=$("$voltree" nbd kernel | sed -n 's|.*:\([0-9]*\)/kernel$|\1|p')

qemu-system-x86_64 -accel tcg -m 768 -smp 2 -nodefaults -nographic -no-reboot -serial "file:$work/console" \
  -kernel "$vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1 nbd_port=$port" \
  -blockdev "driver=nbd,node-name=disk,server.type=unix,server.path=$socket,export=vm,reconnect-delay=60,discard=unmap" \
  -device virtio-blk-pci,drive=disk -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= &
qemu=$!
background+=("$qemu")

# While the guest copies, the daemon is killed, and comes back.
wait_for_guest() { # wait_for_guest LINE
  until grep -q "^$1" "$work/console" 2>/dev/null; do
    kill -0 "$qemu" 2>/dev/null || return 1
    sleep 0.2
  done
}
wait_for_guest "GUEST COPYING" || die "the guest did not get far: $(tail -n 30 "$work/console")"
sleep 1
kill_daemon
sleep 1
serve "$port"
status=0
wait "$qemu" || status=$?
is "QEMU's exit status" 0 "$status"

tr -cd '\n\t\40-\176' <"$work/console"
while read -r line; do
  checks=$((checks + 1))
  [[ $line == OK* ]] || fail "in the guest: ${line#FAILED }"
done < <(tr -d '\r' <"$work/console" | grep -E '^(OK|FAILED) ')
check "the guest came to its end" grep -q "^GUEST DONE" "$work/console"

# --- What the guest wrote is on the host what it was there.
check "fsck of vm on the host" e2fsck -fn "$work/mnt/volumes/vm"
check "fsck of kernel on the host" e2fsck -fn "$work/mnt/volumes/kernel"
check "check" "$voltree" check
stop_daemon
finish
