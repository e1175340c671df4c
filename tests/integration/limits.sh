#!/usr/bin/env bash
# A daemon that has run out of file descriptors: what needs no new ones works, what does is refused, and nothing that
# was acknowledged is lost.
# Usage: limits.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse
if ldd "$voltree" | grep -q libubsan; then
  skip "UBSan's look at an object's type takes descriptors itself, and calls the object damaged when it gets none"
fi

volumes=40
write() { # write VOLUME: 128 KiB of its own
  python3 -c 'import random, sys; random.seed(sys.argv[1]); sys.stdout.buffer.write(random.randbytes(131072))' "$1" |
    dd of="$work/mnt/volumes/$1" bs=128k iflag=fullblock conv=notrunc,fsync status=none 2>>"$work/refused"
}
holds() { # holds VOLUME: what write has written
  cmp -n 131072 "$work/mnt/volumes/$1" \
    <(python3 -c 'import random, sys; random.seed(sys.argv[1]); sys.stdout.buffer.write(random.randbytes(131072))' "$1")
}

"$voltree" init >/dev/null
for ((i = 0; i < volumes; i++)); do "$voltree" create "v$i" 1M >/dev/null; done
# A daemon takes what the host's hard limit allows: here that is little.
real=$voltree
cat >"$work/limited" <<END
#!/bin/bash
if [[ \$1 == serve ]]; then ulimit -Sn 90; ulimit -Hn 90; fi
exec "$real" "\$@"
END
chmod +x "$work/limited"
voltree=$work/limited
start_daemon
voltree=$real

written=() refused=()
for ((i = 0; i < volumes; i++)); do
  if write "v$i"; then written+=("v$i"); else refused+=("v$i"); fi
done
((${#written[@]} >= 10)) || fail "only ${#written[@]} volumes could be written to"
((${#refused[@]} > 0)) || die "the limit was not reached"
is "the store takes writes" read-write "$("$voltree" stats | sed -n 's/^state: *//p')"
check "what is open is written to" write "${written[0]}"
check "and read" holds "${written[1]}"
check "the list" "$voltree" list
for name in "${written[@]:2:6}"; do check "delete" "$voltree" delete "$name" --wait; done
check "there is room again" write "${refused[0]}"
kill_daemon
start_daemon
for name in "${written[@]:0:2}" "${written[@]:8}" "${refused[0]}"; do check "$name after it" holds "$name"; done
for name in "${refused[@]:1}"; do check "$name can be written to" write "$name"; done
check "the store is sound" "$voltree" check --data
stop_daemon
finish
