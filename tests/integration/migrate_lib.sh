# Sourced by the tests of moves between two stores, $here and $there.
# shellcheck shell=bash disable=SC2154,SC2034

serve() { # serve STORE [OPTION...]: a daemon on it, ended with the script
  "$voltree" --store "$1" serve --foreground "${@:2}" 2>>"$work/daemon.log" &
  background+=("$!")
  wait_until "a daemon on $1" serves "$1"
}
serves() { "$voltree" --store "$1" version 2>/dev/null | grep -q daemon; }
names() { "$voltree" --store "$1" --json list | jq -r '[.nodes[].name] | join(" ")'; }
export VOLTREE_STORE=$here # whom the driver asks: the store that the volume leaves
driver() { # driver CALL ARGUMENTS HOST: with that host's name
  driver_call "$1" "$2" "{\"free_min_bytes\":0,\"host_name\":\"$3\"}"
}
location_of() { VOLTREE_STORE=$1 driver get_volume_stats '{"refresh":true}' "$2" | jq -r '.answer.pools[0].location_info'; }
migrate() { # migrate NAME LOCATION [MORE-OF-THE-VOLUME]
  driver migrate_volume "{\"volume\":{\"name\":\"$1\",\"size\":1${3-}},\"host\":\"stor1@other#pool\",\"location_info\":\"$2\"}" stor1
}
moved='{"answer": {"moved": true, "model_update": null}}'
stays='{"answer": {"moved": false, "model_update": null}}'

make_raw() { # make_raw FILE: data at both ends, and what reads as zeros in three ways
  python3 - "$1" <<'PY'
import os, random, sys
random.seed(11)
with open(sys.argv[1], "wb") as disk:
    disk.truncate(1 << 30)
    for at, length in ((0, 70001), (3 << 20, 5 << 20), ((1 << 30) - 5000, 5000)):
        disk.seek(at)
        disk.write(random.randbytes(length))
    disk.seek(30 << 20)
    disk.write(bytes(4 << 20))
PY
}
fresh() { # fresh NAME: a volume with that data and a limit, here
  check "import" "$voltree" --store "$here" import "$work/raw" "$1" --quiet
  check "its limit" "$voltree" --store "$here" qos "$1" total_iops_sec=100000
}
settings_of() { # settings_of STORE NAME: all that was set of a volume
  "$voltree" --store "$1" --json show "$2" | jq -cS '[.erase_policy, .limits, .notes, .reserve_bytes]'
}
settings_go() { # settings_go WHAT LOCATION [NAME]: of a new volume with an erase policy of its own, or of NAME
  local name=${3-set}
  [[ ${3-} ]] || check "$1: make it" "$voltree" --store "$here" create "$name" 1G --erase random
  check "$1: a limit" "$voltree" --store "$here" qos "$name" total_iops_sec=70000
  check "$1: a reserve" "$voltree" --store "$here" reserve "$name" 2M
  is "$1: a note" null "$(driver attach_volume \
    "{\"volume\":{\"name\":\"$name\",\"size\":1},\"instance_uuid\":\"ann\",\"host_name\":null,\"mountpoint\":\"/x\"}" stor1 |
    jq -c .answer)"
  local was
  was=$(settings_of "$here" "$name")
  [[ $was == *70000*ann*2097152* ]] || fail "$1: it has $was"
  is "$1: it moves" "$moved" "$(migrate "$name" "$2")"
  is "$1: what was set of it" "$was" "$(settings_of "$there" "$name")"
  check "$1: delete" "$voltree" --store "$there" delete "$name"
}
arrived() { # arrived WHAT NAME: there, whole, and no longer here
  is "$1: here" "" "$(names "$here")"
  is "$1: there" "$2" "$(names "$there")"
  "$voltree" --store "$there" export "$2" - 2>/dev/null | cmp - "$work/raw" || fail "$1: it differs"
  check "$1: delete" "$voltree" --store "$there" delete "$2"
}
