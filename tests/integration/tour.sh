#!/usr/bin/env bash
# The README's tour, as it is printed: the shell blocks below a "<!-- tour -->" line run in one shell, in a HOME of
# their own. Any command that fails ends it.
# Usage: tour.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
readme=$(realpath "$(dirname "$0")/../../README.md")
need_fuse
need_loop

mkdir "$work/home" "$work/bin"
ln -s "$voltree" "$work/bin/voltree"
awk '/^<!-- tour -->$/ { marked = 1; next }
  /^```sh$/ && marked { inside = 1; marked = 0; next }
  /^```$/ { inside = 0 }
  inside' "$readme" >"$work/tour"
is "commands in the tour" yes "$( (($(wc -l <"$work/tour") > 20)) && echo yes)"

# On a failure midway: nothing may stay mounted or attached.
end_tour() {
  export VOLTREE_STORE=$work/home/store
  local name
  for name in disk copy; do
    mountpoint -q "$work/home/$name" && umount "$work/home/$name"
    "$voltree" detach "$name" >/dev/null 2>&1
  done
  mountpoint -q "$work/home/mnt" && fusermount3 -uz "$work/home/mnt"
}

unset VOLTREE_STORE
if ! HOME=$work/home PATH=$work/bin:$PATH bash -euxo pipefail "$work/tour" </dev/null 2>&1; then
  end_tour || true
  die "the tour stopped at the line above"
fi
checks=$((checks + 1))
# The daemon's last second.
for ((i = 0; i < 100; i++)); do
  [[ -e $work/home/store/run/control.sock ]] || break
  sleep 0.1
done
[[ ! -e $work/home/store/run/control.sock ]] || fail "the daemon goes on after the unmount"
is "layer files left" 0 "$(find "$work/home/store/layers" -type f | wc -l)"
finish
