#!/usr/bin/env bash
# Files that become volumes without a copy where the file system shares blocks (btrfs, XFS), with one where it does
# not (ext4); and which files Cinder may take in.
# Usage: share.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse
need_loop
for tool in jq python3; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

tried=0 host=$work/host
export VOLTREE_STORE=$host/store
mkdir "$host"

host_filesystem() { # host_filesystem TYPE: a file system of this host, on $host
  command -v mkfs."$1" >/dev/null || { echo "$1: skipped, there is no mkfs.$1 here"; return 1; }
  modprobe -q "$1" 2>/dev/null || true
  grep -qw "$1" /proc/filesystems || { echo "$1: skipped, this kernel has none"; return 1; }
  rm -f "$work/disk" "$work/disk.copy"
  truncate -s 2G "$work/disk"
  case $1 in
    xfs) mkfs.xfs -q -m reflink=1 "$work/disk" ;;
    *) mkfs."$1" -q "$work/disk" >/dev/null ;;
  esac
  mount -o loop "$work/disk" "$host"
}

used_bytes() { # of the host's file system
  sync -f "$host"
  df -B1 --output=used "$host" | tail -1 | tr -d ' '
}

json() { # json EXPRESSION voltree-arguments...
  local expression=$1
  shift
  "$voltree" "$@" --json | python3 -c "import json,sys; a=json.load(sys.stdin); print($expression)"
}

exported_sum() { "$voltree" export "$1" - --quiet | head -c "$2" | sha256sum | cut -d' ' -f1; }

# 32 MiB of data, a hole, 16 MiB, and an end inside a block.
data_bytes=$((48 << 20)) file_bytes=$(((64 << 20) + 777))
make_source() {
  head -c $((32 << 20)) /dev/urandom >"$1"
  truncate -s $((48 << 20)) "$1"
  head -c $(((16 << 20) + 777)) /dev/urandom >>"$1"
}

take_in() { # take_in TYPE NAME: with the daemon or without, as it is now
  local name=$2 sum before after shared
  sum=$(sha256sum "$host/source" | cut -d' ' -f1)
  before=$(used_bytes)
  shared=$(json 'a["shared_bytes"]' import "$host/source" "$name" --sha256 "$sum") || fail "$1: import"
  after=$(used_bytes)
  if [[ $1 == ext4 ]]; then
    is "$1: nothing is shared" 0 "$shared"
    ((after - before >= data_bytes)) || fail "$1: $((after - before)) bytes are too few for a copy"
  else
    is "$1: whole blocks are shared" $((64 << 20)) "$shared"
    ((after - before < data_bytes / 4)) || fail "$1: $((after - before)) bytes more are used: no sharing"
  fi
  is "$1: the volume is the file" "$sum" "$(exported_sum "$name" $file_bytes)"
  is "$1: its holes are holes" "$((data_bytes + 4096))" "$(json 'a["usage"]["referenced_bytes"]' show "$name")"
  if "$voltree" import "$host/source" wrong --sha256 "$(printf '0%.0s' {1..64})" >/dev/null 2>&1; then
    fail "$1: the sum of another file"
  fi
  is "$1: it left nothing" 0 "$(json 'sum("wrong" in n["name"] for n in a["nodes"])' list)"
}

# The disk below the host's file system, as it is at one moment: what a power failure leaves. (A copy that equals the
# disk when it is done was not overtaken by a write.)
copy_disk() {
  local i
  for i in {1..50}; do
    cp --sparse=always "$work/disk" "$work/disk.copy"
    cmp -s "$work/disk" "$work/disk.copy" && return 0
  done
  die "the disk does not come to rest in $i copies"
}

# What was on the disk when the import returned, and nothing of what was in memory, has all of the volume.
after_the_power_failed() { # after_the_power_failed TYPE SUM
  local boots i=0
  "$voltree" import "$host/source" last --quiet
  copy_disk
  kill_daemon
  # Its ring lets go of the files after it is gone.
  until umount "$host" 2>/dev/null; do
    ((++i < 300)) || die "$1: $host stays in use"
    sleep 0.1
  done
  mount -o loop "$work/disk.copy" "$host"
  boots=$("$(dirname "$0")/change_catalog" "$VOLTREE_STORE/catalog.db" \
    'update setting set value = ? where key = ?' another boot_id)
  is "$1: the catalog has one boot" 1 "$boots"
  start_daemon --allow-other
  is "$1: after the power failed" "$2" "$(exported_sum last $file_bytes)"
  check "$1: every checksum after that" "$voltree" check --data
  check "$1: delete it" "$voltree" delete last
}

# A daemon that dies while it shares leaves what was begun, and nothing that is half a volume.
daemon_dies() { # daemon_dies TYPE SUM
  local name found
  "$voltree" import "$host/source" torn --quiet 2>/dev/null &
  background=("$!")
  until found=$("$voltree" list) && [[ $found == *torn* ]]; do
    kill -0 "${background[0]}" 2>/dev/null || break # it was faster
  done
  kill_daemon
  wait "${background[0]}" || true
  background=()
  start_daemon --allow-other
  check "$1: every checksum after that" "$voltree" check --data
  for name in $(json '" ".join(n["name"] for n in a["nodes"] if "torn" in n["name"])' list); do
    [[ $name != torn ]] || is "$1: all of it" "$2" "$(exported_sum torn $file_bytes)"
    check "$1: delete what is left" "$voltree" delete "$name"
  done
}

# Neither sees what is written to the other.
apart() { # apart TYPE
  local sum
  sum=$(exported_sum first $file_bytes)
  dd if=/dev/urandom of="$host/source" bs=1M count=8 conv=notrunc,fsync status=none
  is "$1: the file's changes are not the volume's" "$sum" "$(exported_sum first $file_bytes)"
  sum=$(sha256sum "$host/source")
  dd if=/dev/urandom of="$work/mnt/volumes/first" bs=1M seek=16 count=8 conv=notrunc,fsync status=none
  is "$1: nor the other way" "$sum" "$(sha256sum "$host/source")"
}

manage() { # manage PATH DIRECTORIES [KEEP]: what Cinder is told: the size, or the exception
  local size made reference configuration
  reference=$(jq -cn --arg path "$1" '{"source-name": $path}')
  configuration=$(jq -cn --arg directories "$2" --argjson keep "${3:-false}" \
    '{manage_directories: $directories | split(" "), free_min_bytes: 0, manage_keeps_files: $keep}')
  size=$(driver_call manage_existing_get_size "{\"existing_ref\":$reference}" "$configuration")
  made=$(driver_call manage_existing \
    "{\"existing_ref\":$reference,\"volume\":{\"name\":\"volume-1\",\"id\":\"1\",\"size\":$(jq '.answer // 0' <<<"$size")}}" \
    "$configuration")
  if jq -e 'has("exception")' <<<"$size" >/dev/null; then
    is "both refuse $1" "$(jq -r .exception <<<"$size")" "$(jq -r .exception <<<"$made")"
  fi
  jq -rs '.[1].exception // .[0].answer' <<<"$size$made"
}

other=$host/other other_daemon=''
start_other() {
  rm -f "$other/run/control.sock"
  "$voltree" --store "$other" serve --foreground 2>>"$work/daemon.log" &
  other_daemon=$!
  wait_until "a daemon on the other store" test -S "$other/run/control.sock"
}

location_of_other() {
  VOLTREE_STORE=$other driver_call get_volume_stats '{"refresh":true}' '{"host_name":"stor1"}' |
    jq -r '.answer.pools[0].location_info'
}

migrate() { # migrate NAME LOCATION: whether it moved
  driver_call migrate_volume \
    "{\"volume\":{\"name\":\"$1\",\"size\":1},\"host\":\"stor1@other#pool\",\"location_info\":\"$2\"}" \
    '{"free_min_bytes":0,"host_name":"stor1"}' | jq .answer.moved
}

make_one_layer() { # make_one_layer NAME MIB: and its layer's inode
  "$voltree" create "$1" 128M >/dev/null
  dd if=/dev/urandom of="$work/mnt/volumes/$1" bs=1M seek=40 count="$2" conv=notrunc status=none
  find "$VOLTREE_STORE/layers" -type f ! -name '*.sum' -printf '%f %i\n' | sort | tail -1 | cut -d' ' -f2
}

whole_sum() { # whole_sum STORE NAME
  "$voltree" --store "$1" export "$2" - --quiet | sha256sum | cut -d' ' -f1
}

# One that is a single layer goes as it lies there, on whatever file system.
goes() { # goes TYPE LOCATION
  local inode sum before after
  inode=$(make_one_layer going 64)
  "$voltree" qos going total_iops_sec=500 >/dev/null
  sum=$(whole_sum "$VOLTREE_STORE" going)
  before=$(used_bytes)
  is "$1: it goes" true "$(migrate going "$2")"
  after=$(used_bytes)
  ((after - before < (8 << 20))) || fail "$1: $((after - before)) bytes more are used: it was copied"
  is "$1: its layer is what it was" 1 "$(find "$other/layers" -inum "$inode" -links 1 | wc -l)"
  is "$1: nothing stays here" "" "$(find "$VOLTREE_STORE/leaving" -type f)"
  is "$1: gone" 0 "$(json 'sum(n["name"] == "going" for n in a["nodes"])' list)"
  is "$1: whole there" "$sum" "$(whole_sum "$other" going)"
  is "$1: with its limits" "{'total_iops_sec': 500}" "$(json 'a["limits"]' --store "$other" show going)"
  is "$1: told again" true "$(migrate going "$2")"
  check "$1: erase it there" "$voltree" --store "$other" delete going --wait
}

# A daemon that dies in between leaves it in one of the two, or between them; the next try ends it.
dies_while_it_goes() { # dies_while_it_goes TYPE LOCATION
  local sum i whom=here moved try
  for i in {1..4}; do
    make_one_layer "going-$i" 8 >/dev/null
    sum=$(whole_sum "$VOLTREE_STORE" "going-$i")
    migrate "going-$i" "$2" >/dev/null 2>&1 &
    background=("$!")
    sleep "0.0$i" # anywhere: what is looked for holds at any moment
    if [[ $whom == here ]]; then
      kill_daemon
      start_daemon --allow-other
      whom=there
    else
      kill -KILL "$other_daemon"
      wait "$other_daemon" 2>/dev/null || true
      start_other
      whom=here
    fi
    wait "${background[0]}" || true
    background=()
    moved=$(migrate "going-$i" "$2")
    # A daemon that was killed lets go of its files a moment after it is gone.
    for ((try = 0; try < 50; try++)); do
      [[ $moved == true ]] && break
      sleep 0.1
      moved=$(migrate "going-$i" "$2")
    done
    is "$1: in the end it goes" true "$moved"
    is "$1: from here" 0 "$(json "sum(n['name'] == 'going-$i' for n in a['nodes'])" list)"
    is "$1: whole" "$sum" "$(whole_sum "$other" "going-$i")"
    check "$1: delete it" "$voltree" --store "$other" delete "going-$i" --wait
  done
  is "$1: nothing stays between them" "" "$(find "$VOLTREE_STORE/leaving" -type f)"
}

# A volume that moves to a store on the same file system takes its blocks with it.
moves() { # moves TYPE
  local sum before after location
  "$voltree" --store "$other" init >/dev/null
  start_other
  "$voltree" clone first moving --size 128M
  "$voltree" snapshot moving@gone # blocks in several layers
  dd if=/dev/urandom of="$work/mnt/volumes/moving" bs=1M seek=40 count=16 conv=notrunc status=none
  "$voltree" delete moving@gone
  sum=$(exported_sum moving $((128 << 20)))
  location=$(location_of_other)
  before=$(used_bytes)
  is "$1: it moves" true "$(migrate moving "$location")"
  # What is overwritten of a shared block is new space, until its file goes.
  check "$1: what was here is erased" "$voltree" erase --wait
  after=$(used_bytes)
  if [[ $1 != ext4 ]]; then
    ((after - before < data_bytes / 4)) || fail "$1: $((after - before)) bytes more are used: it was copied"
  fi
  is "$1: here" 0 "$(json 'sum(n["name"] == "moving" for n in a["nodes"])' list)"
  is "$1: there, whole" "$sum" "$("$voltree" --store "$other" export moving - --quiet | sha256sum | cut -d' ' -f1)"
  goes "$1" "$location"
  dies_while_it_goes "$1" "$location"
  check "$1: every checksum there" "$voltree" --store "$other" check --data
  kill "$other_daemon"
  wait "$other_daemon" || true
}

refused=ManageExistingInvalidReference
what_cinder_may_take() { # what_cinder_may_take TYPE
  mkdir "$host/in" "$host/out"
  cp --reflink=auto "$host/source" "$host/in/file"
  cp --reflink=auto "$host/source" "$host/out/file"
  ln -s "$host/out/file" "$host/in/outwards"
  ln -s "$host/in/file" "$host/out/inwards"
  ln -s "$host/in" "$host/linked"
  : >"$host/in/empty"
  mkfifo "$host/in/fifo"
  printf 'QFI\373\0\0\0\3' >"$host/in/qcow2"
  truncate -s 1M "$host/in/qcow2"
  local path
  for path in "$host/in/outwards" "$host/out/file" "$host/in/../out/file" "$host/in/empty" "$host/in/fifo" "$host/in" \
    "$host/in/nothing" "$host/in/qcow2" /dev/null /etc/passwd; do
    is "$1: $path" $refused "$(manage "$path" "$host/in")"
  done
  is "$1: no directory" $refused "$(manage "$host/in/file" "")"
  is "$1: a name that only begins alike" $refused "$(manage "$host/in/file" "$host/i")"
  local layer
  layer=$(find "$VOLTREE_STORE/layers" -type f ! -name '*.sum' | head -1)
  is "$1: a part of the store" $refused "$(manage "$layer" "$host")"
  is "$1: a volume's file" $refused "$(manage "$work/mnt/volumes/first" "$work /")"
  is "$1: nothing was made" 0 "$(json 'sum("volume-1" in n["name"] for n in a["nodes"])' list)"

  local before after sum inode
  sum=$(sha256sum <"$host/in/file")
  before=$(used_bytes)
  is "$1: a file, by a link from elsewhere, that stays" 1 "$(manage "$host/out/inwards" "/nowhere $host/linked" true)"
  after=$(used_bytes)
  [[ $1 == ext4 ]] || ((after - before < data_bytes / 4)) || fail "$1: manage copied $((after - before)) bytes"
  is "$1: whole GiB" $((1 << 30)) "$(json 'a["size_bytes"]' show volume-1)"
  is "$1: what Cinder took in" "$sum" "$(head -c $file_bytes "$work/mnt/volumes/volume-1" | sha256sum)"
  is "$1: and again" 1 "$(manage "$host/in/file" "$host/in")"
  check "$1: delete it" "$voltree" delete volume-1 --wait

  # The file itself, on whatever file system.
  inode=$(stat -c %i "$host/in/file")
  before=$(used_bytes)
  is "$1: the file itself, by a link from elsewhere" 1 "$(manage "$host/out/inwards" "/nowhere $host/linked")"
  after=$(used_bytes)
  ((after - before < data_bytes / 4)) || fail "$1: manage copied $((after - before)) bytes"
  [[ ! -e $host/in/file ]] || fail "$1: the file is where it was"
  is "$1: the layer is the file" 1 "$(find "$VOLTREE_STORE/layers" -inum "$inode" | wc -l)"
  is "$1: whole GiB of it" $((1 << 30)) "$(json 'a["size_bytes"]' show volume-1)"
  is "$1: what Cinder took" "$sum" "$(head -c $file_bytes "$work/mnt/volumes/volume-1" | sha256sum)"
  is "$1: when the answer was lost" 1 "$(manage "$host/out/file" "$host/out")"
  [[ -e $host/out/file ]] || fail "$1: the volume was there, and the file went"
}

# A daemon that dies while it takes a file leaves the file or the volume.
dies_while_it_takes() { # dies_while_it_takes TYPE
  local sum name i
  sum=$(sha256sum <"$host/out/file" | cut -d' ' -f1)
  for i in {1..4}; do
    "$voltree" manage "$host/out/file" "taken-$i" >/dev/null 2>&1 &
    background=("$!")
    sleep "0.0$i" # anywhere: what is looked for holds at any moment
    kill_daemon
    wait "${background[0]}" || true
    background=()
    start_daemon --allow-other
    name=$(json '" ".join(n["name"] for n in a["nodes"] if n["name"].startswith("taken-"))' list)
    if [[ -z $name ]]; then
      is "$1: the file is what it was" "$sum 1" \
        "$(sha256sum <"$host/out/file" | cut -d' ' -f1) $(stat -c %h "$host/out/file")"
      continue
    fi
    is "$1: the volume is whole" "$sum" "$(exported_sum "$name" $file_bytes)"
    [[ ! -e $host/out/file ]] || fail "$1: the file is there, too"
    "$voltree" export "$name" "$host/out/file" --quiet
    truncate -s $file_bytes "$host/out/file"
    check "$1: delete it" "$voltree" delete "$name" --wait
  done
  check "$1: every checksum after that" "$voltree" check --data
}

try_host() { # try_host TYPE
  host_filesystem "$1" || return 0
  tried=$((tried + 1))
  local start=$SECONDS sum
  make_source "$host/source"
  "$voltree" init >/dev/null
  take_in "$1" embedded
  start_daemon --allow-other
  take_in "$1" first
  sum=$(exported_sum first $file_bytes)
  kill_daemon
  start_daemon --allow-other
  is "$1: after the daemon died" "$sum" "$(exported_sum first $file_bytes)"
  daemon_dies "$1" "$sum"
  after_the_power_failed "$1" "$sum"
  apart "$1"
  what_cinder_may_take "$1"
  dies_while_it_takes "$1"
  moves "$1"
  check "$1: the store is sound" "$voltree" check --data
  sum=$(sha256sum "$host/source")
  check "$1: delete everything" "$voltree" delete embedded first volume-1 --wait
  is "$1: the file is left" "$sum" "$(sha256sum "$host/source")"
  is "$1: files of layers" 0 "$(find "$VOLTREE_STORE/layers" -type f | wc -l)"
  stop_daemon
  umount "$host"
  echo "$1: $((SECONDS - start)) s"
}

for type in btrfs xfs ext4; do try_host $type; done
((tried)) || skip "none of the file systems is here"
finish
