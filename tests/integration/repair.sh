#!/usr/bin/env bash
# Stores that are not whole: without their catalog, without some of their layers, copied.
# Usage: repair.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

json() { # json EXPRESSION voltree-arguments...: a Python expression over the answer `a`
  local expression=$1
  shift
  "$voltree" "$@" --json 2>/dev/null | python3 -c "import json,sys; a=json.load(sys.stdin); print($expression)"
}

status_of() { # status_of COMMAND...: its exit status
  local status=0
  "$@" >"$work/said" 2>&1 || status=$?
  echo "$status"
}

said() { # said PATTERN: what the last status_of heard
  checks=$((checks + 1))
  grep -qE -- "$1" "$work/said" || fail "no \"$1\" in: $(cat "$work/said")"
}

sum_of() { "$voltree" export "$1" - --quiet | sha256sum | cut -d' ' -f1; }

wait_for_daemon() {
  local i
  for ((i = 0; i < 300; i++)); do
    "$voltree" version 2>/dev/null | grep -q daemon && return
    sleep 0.1
  done
  die "the daemon does not start: $(tail -5 "$work/daemon.log")"
}

make_store() {
  rm -rf "$VOLTREE_STORE"
  "$voltree" init >/dev/null
  head -c 3M /dev/urandom >"$work/one"
  "$voltree" import "$work/one" disk --quiet >/dev/null
  "$voltree" snapshot disk@monday >/dev/null
  "$voltree" clone disk@monday copy >/dev/null
  "$voltree" qos disk total_iops_sec=100000 >/dev/null
}

test_lost_catalog() {
  make_store
  local disk
  disk=$(sum_of disk)
  is "a sound catalog" 0 "$(status_of "$voltree" repair --apply)"
  said 'the catalog is sound'
  rm "$VOLTREE_STORE"/catalog.db
  is "listing without a catalog" 6 "$(status_of "$voltree" list)"
  said 'voltree repair'
  is "a dry run" 6 "$(status_of "$voltree" repair "$VOLTREE_STORE")"
  said 'a new catalog would have 2 volumes, 1 snapshots'
  [[ ! -e $VOLTREE_STORE/catalog.db ]] || fail "a dry run made a catalog"
  is "as JSON" "False 2 1" "$(json "a['applied'], a['volumes'], a['snapshots']" repair | tr -d '(),')"
  is "a repair" 0 "$(status_of "$voltree" repair --apply)"
  said 'the new catalog has 2 volumes'
  is "a check" 0 "$(status_of "$voltree" check --data)"
  is "the data" "$disk" "$(sum_of disk)"
  is "the clone" "$disk" "$(sum_of copy)"
  is "the limit" 100000 "$(json "a['limits']['total_iops_sec']" qos disk)"
}

test_damaged_catalog() {
  make_store
  local disk
  disk=$(sum_of disk)
  dd if=/dev/zero of="$VOLTREE_STORE/catalog.db" bs=4096 seek=2 count=6 conv=notrunc status=none
  is "a repair" 0 "$(status_of "$voltree" repair --apply)"
  said 'the old catalog is .*catalog.db.damaged-'
  is "a check" 0 "$(status_of "$voltree" check --data)"
  is "the data" "$disk" "$(sum_of disk)"
}

test_open_store_is_busy() {
  make_store
  "$voltree" serve --foreground 2>>"$work/daemon.log" &
  daemon=$!
  wait_for_daemon
  is "a store that is open" 4 "$(status_of "$voltree" repair)"
  stop_daemon
}

test_missing_layer() {
  make_store
  "$voltree" import "$work/one" other --quiet >/dev/null
  local file disk
  disk=$(sum_of disk)
  file=$(find "$VOLTREE_STORE/layers" -name '00000001')
  mv "$file" "$work/layer"
  is "a check" 6 "$(status_of "$voltree" check)"
  said 'DAMAGE: layer 00000001: .* is missing.*seen by copy, disk, disk@monday'
  is "a list" 0 "$(status_of "$voltree" list)"
  said '^disk .* damaged$'
  is "show" 0 "$(status_of "$voltree" show copy)"
  said 'layers missing: +00000001'
  is "reading it" 1 "$(status_of "$voltree" export disk "$work/nothing" --quiet)"
  is "reading another" "$disk" "$(sum_of other)"
  is "a snapshot" 0 "$(status_of "$voltree" snapshot disk@now)"
  is "a scrub" 6 "$(status_of "$voltree" scrub)"
  said 'seen by copy, disk, disk@monday'
  mv "$work/layer" "$file" # it is found
  is "a check" 0 "$(status_of "$voltree" check --data)"
  is "the data" "$disk" "$(sum_of disk)"
  rm "$file"
  is "a delete" 0 "$(status_of "$voltree" delete disk copy --snapshots --wait)"
  is "certificates" 0 "$(status_of "$voltree" erase --certificates)"
  said 'layer 00000001 had no file to overwrite'
  is "what is left" 0 "$(status_of "$voltree" check --data)"
}

test_scrub() {
  make_store
  local layer
  layer=$(find "$VOLTREE_STORE/layers" -name '00000001')
  is "the status before the first" 0 "$(status_of "$voltree" scrub --status)"
  said 'never'
  is "a sound store" 0 "$(status_of "$voltree" scrub --rate 1G)"
  said 'done at'
  printf 'x' | dd of="$layer" bs=1 seek=$((5 * 4096 + 7)) conv=notrunc status=none
  is "a block that has rotted" 6 "$(status_of "$voltree" scrub)"
  said 'layer 00000001: 4.0 KiB at 20480 .*seen by copy, disk, disk@monday'
  is "the last result" 1 "$(json "a['bad_blocks']" scrub --status)"
  # In a daemon: slowly, stopped, and taken up by the next one.
  "$voltree" serve --foreground 2>>"$work/daemon.log" &
  daemon=$!
  wait_for_daemon
  is "in the background" 0 "$(status_of "$voltree" scrub --background --rate 100k)"
  is "it runs" True "$(json "a['running']" scrub --status)"
  is "a second one" 4 "$(status_of "$voltree" scrub)"
  stop_daemon
  "$voltree" serve --foreground 2>>"$work/daemon.log" &
  daemon=$!
  wait_for_daemon
  is "it goes on" True "$(json "a['running']" scrub --status)"
  is "a stop" 0 "$(status_of "$voltree" scrub --stop)"
  said 'stopped'
  is "the rest of it" 6 "$(status_of "$voltree" scrub)"
  said 'done at'
  is "how much it read" True "$(json "a['done_bytes'] == a['total_bytes']" scrub --status)"
  stop_daemon
}

test_copy() {
  make_store
  "$voltree" serve --foreground 2>>"$work/daemon.log" &
  daemon=$!
  wait_for_daemon
  local uuid
  uuid=$(json "a['uuid']" stats)
  cp -a --sparse=always "$VOLTREE_STORE" "$work/copy"
  is "the copy says so" True "$(json "'taken while that was open' in a['warning']" --store "$work/copy" stats)"
  is "where it is from" "$uuid" "$(json "a['copied_from']" --store "$work/copy" stats)"
  is "it has a uuid of its own" False "$(json "a['uuid'] == '$uuid'" --store "$work/copy" stats)"
  is "it is sound" 0 "$(status_of "$voltree" --store "$work/copy" check --data)"
  is "no warning is left" "" "$(json "a['warning']" --store "$work/copy" stats)"
  stop_daemon
  mv "$VOLTREE_STORE" "$work/moved"
  is "a store that is renamed is itself" "$uuid" "$(json "a['uuid']" --store "$work/moved" stats)"
  rm -rf "$work/moved" "$work/copy"
}

test_lost_catalog
test_damaged_catalog
test_missing_layer
test_scrub
test_copy
test_open_store_is_busy
finish
