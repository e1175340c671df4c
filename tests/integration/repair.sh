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
  local i
  for ((i = 0; i < 300; i++)); do
    "$voltree" version 2>/dev/null | grep -q daemon && break
    sleep 0.1
  done
  is "a store that is open" 4 "$(status_of "$voltree" repair)"
  stop_daemon
}

test_lost_catalog
test_damaged_catalog
test_open_store_is_busy
finish
