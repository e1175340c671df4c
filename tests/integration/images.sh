#!/usr/bin/env bash
# Import and export: raw images as files and streams, sparse, with a daemon and without; the formats of other programs;
# sums, right and wrong; hostile images, each refused without a foreign file being opened; what is killed or runs out of
# space leaves no volume and no file.
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

# Each format that is written there and back, and what QEMU makes itself.
format_round_trips() { # format_round_trips WHAT
  local what=$1 format options image
  check "$what: a volume" "$voltree" import "$work/raw" disk
  for format in qcow2 vmdk vhdx vdi; do
    image=$work/image.$format
    check "$what: export $format" "$voltree" export disk "$image" --format "$format"
    check "$what: QEMU compares $format" qemu-img compare -f "$format" -F raw "$image" "$work/raw"
    check "$what: import $format" "$voltree" import "$image" back --format "$format" --sha256 "$(sum_of "$image")"
    check "$what: export it as raw" "$voltree" export back "$work/back"
    same "$what: $format there and back" "$work/raw" "$work/back"
    refused "$what: $format without --format" 2 "--format raw" "$voltree" import "$image" bad
    refused "$what: $format with a wrong sum" 2 "SHA-256" "$voltree" import "$image" bad --format "$format" --sha256 "$sum"
    check "$what: $format as it is" "$voltree" import "$image" bytes --format raw
    check "$what: delete" "$voltree" delete back bytes
    rm "$work/back"
  done
  is "$what: export --sha256" "$(sum_of "$work/image.qcow2")" \
    "$("$voltree" export disk "$work/image.qcow2" --format qcow2 --force --sha256 | cut -d' ' -f1)"
  check "$what: export --compress" "$voltree" export disk "$work/small.qcow2" --format qcow2 --compress
  check "$what: QEMU compares it" qemu-img compare -f qcow2 -F raw "$work/small.qcow2" "$work/raw"
  while read -r format options; do
    # shellcheck disable=SC2086 # several words
    qemu-img convert -f raw -O "$format" $options "$work/raw" "$work/theirs"
    check "$what: QEMU's $format $options" "$voltree" import "$work/theirs" theirs --format "$format" --size 64M
    "$voltree" export theirs - 2>/dev/null | cmp - <(cat "$work/raw"; head -c 16777216 /dev/zero) ||
      fail "$what: QEMU's $format $options differs"
    check "$what: delete" "$voltree" delete theirs
  done <<'FORMATS'
qcow2 -c
qcow2 -c -o compression_type=zstd
qcow2 -o compat=0.10
qcow2 -o extended_l2=on,cluster_size=128k
qcow2 -o cluster_size=512
vmdk -o subformat=monolithicSparse
vmdk -o subformat=streamOptimized
vhdx -o subformat=fixed
vdi -o static=on
FORMATS
  qemu-img create -q -f qcow2 "$work/theirs" 48M
  qemu-img snapshot -c inside "$work/theirs"
  check "$what: snapshots inside" "$voltree" import "$work/theirs" theirs --format qcow2
  check "$what: delete" "$voltree" delete disk theirs
  rm "$work"/{image.*,small.qcow2,theirs}
}

# hostile WHAT EXIT WORDS FILE FORMAT: refused; the secret was not opened, by us or by QEMU.
hostile() {
  local what=$1 expected=$2 words=$3 file=$4 format=$5 trace=()
  if command -v strace >/dev/null; then
    trace=(strace -f -qq -e "trace=open,openat,openat2" -o "$work/trace")
  fi
  refused "$what" "$expected" "$words" "${trace[@]}" "$voltree" import "$file" bad --format "$format"
  is_gone "$what"
  if ((${#trace[@]})) && grep -E 'secret|/etc/passwd' "$work/trace" | grep -qv ' = -1 '; then
    fail "$what: a foreign file was opened: $(grep -E 'secret|/etc/passwd' "$work/trace")"
  fi
  [[ -z $daemon ]] || through_driver "$what" "$file" "$format"
}
# through_driver WHAT FILE FORMAT: the driver refuses it, too, and the volume stays as it was.
through_driver() {
  local answer
  answer=$(driver_call copy_image_to_volume "{\"volume\":{\"name\":\"kept\",\"size\":1},
    \"image\":{\"path\":\"$2\",\"disk_format\":\"$3\"}}")
  is "$1: the driver's answer ($answer)" ImageUnacceptable "$(jq -r .exception <<<"$answer")"
  check "$1: the volume" cmp -n 50331648 "$work/raw" "$work/mnt/volumes/kept"
}
patched() { # patched FILE OFFSET BYTES-IN-HEX: a copy of good.qcow2
  cp "$work/good.qcow2" "$1"
  python3 -c 'import sys; f = open(sys.argv[1], "r+b"); f.seek(int(sys.argv[2])); f.write(bytes.fromhex(sys.argv[3]))' "$@"
}

hostile_images() {
  local image=$work/hostile secret=$work/secret
  head -c 1048576 /dev/urandom >"$secret"
  qemu-img convert -f raw -O qcow2 "$work/raw" "$work/good.qcow2"

  qemu-img create -q -f qcow2 -b /etc/passwd -F raw "$image" 1M
  hostile "a backing file" 1 "backing file" "$image" qcow2
  qemu-img create -q -f qcow2 -b "$secret" -F raw "$work/middle"
  qemu-img create -q -f qcow2 -b "$work/middle" -F qcow2 "$image"
  hostile "a chain" 1 "backing file" "$image" qcow2
  qemu-img create -q -f qcow2 -u -b 'json:{"driver":"file","filename":"/etc/passwd"}' -F raw "$image" 1M
  hostile "a backing file in JSON" 1 "backing file" "$image" qcow2
  qemu-img create -q -f qcow2 -o "data_file=$secret,data_file_raw=on" "$image" 1M
  hostile "a data file" 1 "another file" "$image" qcow2
  patched "$image" 32 00000002
  hostile "encryption" 1 "encrypted" "$image" qcow2
  patched "$image" 24 7ffffffffffffe00
  hostile "8 EiB" 2 "a disk of" "$image" qcow2
  patched "$image" 56 ffffffff
  hostile "a huge refcount table" 2 "refcount table" "$image" qcow2
  patched "$image" 36 00400001
  hostile "a huge L1 table" 2 "L1 table" "$image" qcow2
  patched "$image" 72 0000000000000100
  hostile "unknown features" 1 "not known" "$image" qcow2
  cp "$work/good.qcow2" "$image"
  truncate -s -200000 "$image"
  hostile "a qcow2 that is cut off" 2 "QEMU says" "$image" qcow2
  hostile "a wrong format" 2 "is a qcow2 image, not vmdk" "$image" vmdk
  hostile "raw as qcow2" 2 "not qcow2" "$work/raw" qcow2

  printf '%s\n' '# Disk DescriptorFile' version=1 CID=fffffffe parentCID=ffffffff 'createType="monolithicFlat"' \
    "RW 2048 FLAT \"$secret\" 0" >"$image"
  hostile "a VMDK descriptor" 2 "names other files" "$image" vmdk
  qemu-img create -q -f vmdk "$work/good.vmdk" 1M
  python3 - "$work/good.vmdk" "$image" "$secret" <<'PY'
import sys
good, hostile, secret = sys.argv[1:]
data = bytearray(open(good, "rb").read())
text = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "{secret}" 0\n'
data[512:512 + 10240] = text.encode().ljust(10240, b"\0")
open(hostile + ".embedded", "wb").write(data)
data[12:20] = bytes(8)
open(hostile, "wb").write(data)
PY
  hostile "a VMDK of other files" 1 "other files" "$image" vmdk
  hostile "a VMDK with a flat extent" 1 "a VMDK of type" "$image.embedded" vmdk
  qemu-img create -q -f vmdk -b "$work/good.vmdk" -F vmdk "$image"
  hostile "a VMDK with a parent" 1 "parent" "$image" vmdk

  local format options
  while read -r format options; do
    # shellcheck disable=SC2086 # several words
    qemu-img convert -f raw -O "$format" $options "$work/raw" "$image"
    truncate -s -200000 "$image"
    hostile "a $format $options that is cut off" 2 ": " "$image" "$format"
  done <<'FORMATS'
vmdk -o subformat=monolithicSparse
vmdk -o subformat=streamOptimized
vhdx
vdi
FORMATS
  rm "$image"* "$work"/{good.*,middle,secret}
}

# The driver for Cinder: to an image and back, in each format; hostile ones.
driver_round_trips() {
  local format file=$work/image
  is "the driver's volume" '{"answer": null}' "$(driver_call create_volume '{"volume":{"name":"kept","size":1}}')"
  check "its data" cp "$work/raw" "$work/mnt/volumes/kept"
  for format in raw qcow2 vmdk vhdx vdi; do
    is "$format: out" '{"answer": null}' "$(driver_call copy_volume_to_image \
      "{\"volume\":{\"name\":\"kept\",\"size\":1},\"image\":{\"path\":\"$file\",\"disk_format\":\"$format\"}}")"
    check "$format: QEMU compares it" qemu-img compare -q -f "$format" -F raw "$file" "$work/mnt/volumes/kept"
    driver_call create_volume '{"volume":{"name":"back","size":2}}' >/dev/null
    head -c 8388608 /dev/urandom >"$work/mnt/volumes/back"
    is "$format: in" '{"answer": null}' "$(driver_call copy_image_to_volume \
      "{\"volume\":{\"name\":\"back\",\"size\":2},\"image\":{\"path\":\"$file\",\"disk_format\":\"$format\"}}")"
    is "$format: the size" 2147483648 "$(stat -c %s "$work/mnt/volumes/back")"
    check "$format: the volume" qemu-img compare -q -f raw -F raw "$work/mnt/volumes/back" "$work/mnt/volumes/kept"
    check "$format: delete" "$voltree" delete back
    rm "$file"
  done
  volumes="kept"
  hostile_images
  qemu-img create -q -f qcow2 "$file" 1025M
  through_driver "a disk that is too large" "$file" qcow2
  rm "$file"
  check "delete" "$voltree" delete kept
  volumes=""
}

raw_round_trips "embedded"
format_round_trips "embedded"
hostile_images
odd_sizes
stopped
full_host
if (need_fuse) >/dev/null; then
  start_daemon
  raw_round_trips "daemon"
  format_round_trips "daemon"
  stopped
  driver_round_trips
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
check "an import as the last" "$voltree" import "$work/raw" last # a killed one leaves its socket to the next
[[ ! -e $VOLTREE_STORE/run/nbd.sock ]] || fail "the private socket stays behind"
check "the store" "$voltree" check --data
finish
