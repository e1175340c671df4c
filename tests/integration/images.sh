#!/usr/bin/env bash
# Import and export: raw images as files and streams, sparse, with a daemon and without; sums, right and wrong; what is
# killed or runs out of space leaves no volume and no file.
# Usage: images.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
for tool in qemu-img jq python3; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

same() { check "$1" cmp "$2" "$3"; }
sum_of() { sha256sum "$1" | cut -d' ' -f1; }
names() { "$voltree" --json list | jq -r '[.nodes[].name] | join(" ")'; }
# refused WHAT EXIT WORDS COMMAND...: it fails with this status and says so, and there is no volume.
refused() {
  local what=$1 expected=$2 words=$3 status=0
  shift 3
  "$@" >"$work/out" 2>"$work/error" </dev/null || status=$?
  is "$what: the exit status ($(<"$work/error"))" "$expected" "$status"
  grep -qF -- "$words" "$work/error" || fail "$what: no word of \"$words\": $(<"$work/error")"
}
is_gone() { is "$1: nothing is left" "$volumes" "$(names)"; }

# A disk with data at both ends, zeros that are written, and holes.
python3 - "$work/raw" <<'PY'
import os, random, sys
random.seed(7)
with open(sys.argv[1], "wb") as disk:
    disk.truncate(48 << 20)
    for at, length in ((0, 70001), (3 << 20, 1 << 20), (20000001, 4097), ((48 << 20) - 5000, 5000)):
        disk.seek(at)
        disk.write(random.randbytes(length))
    disk.seek(30 << 20)
    disk.write(bytes(4 << 20))
PY
sum=$(sum_of "$work/raw")
"$voltree" init >/dev/null
volumes=""

raw_round_trips() { # raw_round_trips WHAT: with whatever there is, a daemon or none
  local what=$1 data
  check "$what: a raw file" "$voltree" import "$work/raw" disk --sha256 "$sum" --quiet
  check "$what: and back" "$voltree" export disk "$work/back" --quiet
  same "$what: the file" "$work/raw" "$work/back"
  data=$("$voltree" --json list --usage | jq '.nodes[] | select(.name == "disk") | .usage.referenced_bytes')
  is "$what: zeros are holes" yes "$( ((data < 2 << 20)) && echo yes || echo "$data")"
  is "$what: of the file, too" yes "$( (($(du -B1 "$work/back" | cut -f1) < 2 << 20)) && echo yes || du -B1 "$work/back")"
  check "$what: through pipes" bash -c "cat '$work/raw' | '$voltree' import - piped --sha256 $sum --quiet"
  is "$what: the stream's size" 50331648 "$("$voltree" --json show piped | jq .size_bytes)"
  "$voltree" export piped - 2>/dev/null | cmp - "$work/raw" || fail "$what: the stream differs"
  is "$what: export --sha256" "$sum  $work/summed" "$("$voltree" export disk "$work/summed" --sha256)"
  "$voltree" export disk - --sha256 2>"$work/said" | sha256sum -c --quiet <(echo "$sum  -") ||
    fail "$what: the sum of a stream"
  is "$what: the sum of a stream" "$sum  -" "$(<"$work/said")"
  is "$what: JSON" "50331648 $sum" "$("$voltree" --json import "$work/raw" other --sha256 "${sum^^}" | jq -r '"\(.bytes) \(.sha256)"')"
  check "$what: a larger volume" "$voltree" import "$work/raw" larger --size 64M
  is "$what: its size" 67108864 "$("$voltree" --json show larger | jq .size_bytes)"
  check "$what: a larger volume of a stream" bash -c "'$voltree' import - streamed --size 64M <'$work/raw'"
  "$voltree" export streamed - 2>/dev/null | cmp - <(cat "$work/raw"; head -c 16777216 /dev/zero) || fail "$what: the larger volume differs"
  check "$what: a snapshot" "$voltree" snapshot disk@monday
  check "$what: is exported" "$voltree" export disk@monday "$work/monday"
  same "$what: the snapshot" "$work/raw" "$work/monday"
  volumes="disk disk@monday larger other piped streamed"
  is "$what: the volumes" "$volumes" "$(names)"

  refused "$what: a wrong sum" 2 "its SHA-256 is $sum, not" "$voltree" import "$work/raw" bad --sha256 "$(printf '0%.0s' {1..64})"
  is_gone "$what: a wrong sum"
  refused "$what: no sum" 2 "64 hexadecimal digits" "$voltree" import "$work/raw" bad --sha256 abc
  refused "$what: too small" 2 "less than the image" "$voltree" import "$work/raw" bad --size 1M
  refused "$what: a stream that is too long" 2 "longer than --size" bash -c "cat '$work/raw' | '$voltree' import - bad --size 1M"
  refused "$what: too large" 2 "is more than" "$voltree" import "$work/raw" bad --max-size 1M
  refused "$what: a name that is taken" 1 "already" "$voltree" import "$work/raw" disk
  refused "$what: no file" 3 "nothing-here" "$voltree" import "$work/nothing-here" bad
  refused "$what: an empty file" 2 "is empty" "$voltree" import /dev/null bad
  refused "$what: a folder" 2 "is a directory" "$voltree" import "$work" bad
  refused "$what: no volume" 3 "nobody" "$voltree" export nobody "$work/none"
  refused "$what: a file that is there" 1 "--force" "$voltree" export disk "$work/back"
  refused "$what: a device" 2 "no regular file" "$voltree" export disk /dev/null --force
  is_gone "$what: refused"
  [[ ! -e $work/none ]] || fail "$what: a file of no volume"
  printf 'old' >"$work/old"
  ln -sf old "$work/link"
  check "$what: --force" "$voltree" export disk "$work/link" --force
  same "$what: the replaced file" "$work/raw" "$work/old"
  [[ -z $(find "$work" -maxdepth 1 -name '.voltree-export-*') ]] || fail "$what: temporary files stay behind"
  check "$what: delete" "$voltree" delete disk larger other piped streamed --snapshots
  rm "$work"/{back,summed,monday,old,link}
  volumes=""
}

# A file of an odd length, and names of the greatest length.
odd_sizes() {
  head -c 1000001 "$work/raw" >"$work/odd"
  check "an odd length" "$voltree" import "$work/odd" odd
  is "whole sectors" 1000448 "$("$voltree" --json show odd | jq .size_bytes)"
  "$voltree" export odd - 2>/dev/null | cmp - <(cat "$work/odd"; head -c 447 /dev/zero) || fail "the odd file differs"
  "$voltree" export odd - 2>/dev/null | head -c 1000 >/dev/null || true # a reader that goes away
  long=$(printf 'ü%.0s' {1..127})
  check "a long name" "$voltree" import "$work/odd" "$long"
  check "delete" "$voltree" delete odd "$long"
  is_gone "odd sizes"
}

# Asked to stop, an import cleans up; killed, it leaves a volume of another name.
stopped() {
  mkfifo "$work/slow"
  local signal importer i
  for signal in TERM KILL; do
    "$voltree" import - victim <"$work/slow" >/dev/null 2>"$work/error" &
    importer=$!
    background+=("$importer")
    exec 7>"$work/slow"
    head -c 8388608 "$work/raw" >&7
    if [[ -n $daemon ]]; then
      for ((i = 0; i < 100; i++)); do [[ $(names) == *import-* ]] && break; sleep 0.1; done
    else
      sleep 1 # the store is the importer's: nobody can look
    fi
    kill "-$signal" "$importer"
    wait "$importer" 2>/dev/null || true
    exec 7>&-
    for name in $(names); do
      [[ $signal == KILL && $name == victim.import-* ]] || fail "SIG$signal leaves $name"
      for ((i = 0; i < 100; i++)); do "$voltree" delete "$name" >/dev/null 2>&1 && break; sleep 0.1; done
    done
    is_gone "SIG$signal"
  done
  rm "$work/slow"
}

# A host that fills up: exit status 5, and no volume.
full_host() {
  [[ $EUID == 0 ]] || return 0
  mkdir "$work/small"
  mount -t tmpfs -o size=24M tmpfs "$work/small" || return 0
  python3 -c 'import os, sys; open(sys.argv[1], "wb").write(os.urandom(40 << 20))' "$work/random"
  "$voltree" init "$work/small/store" >/dev/null
  refused "a full host" 5 "space" "$voltree" --store "$work/small/store" import "$work/random" bad
  is "and no volume" 0 "$("$voltree" --store "$work/small/store" --json list | jq '.nodes | length')"
  "$voltree" init "$work/large" >/dev/null
  check "elsewhere" "$voltree" --store "$work/large" import "$work/random" disk
  refused "a full target" 5 "space" "$voltree" --store "$work/large" export disk "$work/small/image"
  is "and no file" "store" "$(ls -A "$work/small")"
  umount "$work/small"
}

raw_round_trips "embedded"
odd_sizes
stopped
full_host
if (need_fuse) >/dev/null; then
  start_daemon
  raw_round_trips "daemon"
  stopped
  is "the private socket" 600 "$(stat -c %a "$VOLTREE_STORE/run/nbd.sock")"
  stop_daemon
  # The rules of access are for others.
  echo 'unix * none' >"$work/rules"
  start_daemon --nbd-socket "$work/nbd.sock" --nbd-access "$work/rules"
  check "import beside rules" "$voltree" import "$work/raw" disk
  check "export beside rules" "$voltree" export disk "$work/back"
  same "beside rules" "$work/raw" "$work/back"
  is "the URIs do not tell of it" 1 "$("$voltree" nbd disk | wc -l)"
  stop_daemon
fi
[[ ! -e $VOLTREE_STORE/run/nbd.sock ]] || fail "the private socket stays behind"
check "the store" "$voltree" check --data
finish
