# Sourced after lib.sh: a throw-away copy of the root that build_root makes, with its own processes, network and mounts.
# shellcheck shell=bash disable=SC2154,SC2016 # lib.sh sets them; the inner shell expands them

cinder_root=${VOLTREE_CINDER_ROOT:-/var/cache/voltree/cinder}
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
project=$(realpath "$here/../../..")

need_cinder() {
  need_root
  need_fuse
  [[ -e $cinder_root/.complete ]] ||
    skip "there is no Debian with Cinder in $cinder_root: $here/build_root makes one (5 minutes, 2 GB)"
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || skip "this needs overlayfs"
}

# in_container COMMAND...: it sees this folder as /tests, voltree and the shim installed, and what it writes to /results
# in $work/results. Everything else that it does is gone when it ends, and so are the processes that it started.
in_container() {
  local upper=$work/container
  mkdir -p "$upper/"{upper,work,root} "$work/results"
  unshare --mount --pid --fork --net --uts --ipc --kill-child -- bash -ec '
    lower=$1 upper=$2 here=$3 shim=$4 voltree=$5 results=$6
    shift 6
    mount --make-rprivate /
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper/upper,workdir=$upper/work" "$upper/root"
    cd "$upper/root"
    mount -t proc proc proc
    mount --rbind /dev dev
    mount --rbind /sys sys
    mount -t tmpfs tmpfs run
    mkdir -p tests results run/lock
    mknod -m 0666 run/fuse c 10 229 # as udev makes it
    mount --bind run/fuse dev/fuse
    mount --bind "$here" tests
    mount --bind "$results" results
    touch usr/bin/voltree usr/lib/python3/dist-packages/voltree_cinder.py
    mount --bind "$voltree" usr/bin/voltree
    mount --bind "$shim" usr/lib/python3/dist-packages/voltree_cinder.py
    ip link set lo up
    hostname cinder
    echo "127.0.0.1 cinder" >>etc/hosts
    echo user_allow_other >>etc/fuse.conf
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root TERM=dumb \
      chroot . "$@"
  ' - "$cinder_root" "$upper" "$here" "$project/driver/openstack/voltree_cinder.py" "$voltree" "$work/results" "$@"
}
