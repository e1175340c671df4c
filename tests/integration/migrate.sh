#!/usr/bin/env bash
# A volume's move from one store to another on this host: all of it, its limits, and what is left of tries that were
# interrupted. Two daemons, without a mount.
# Usage: migrate.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
for tool in jq python3; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

here=$work/here there=$work/there
serve() { # serve STORE: a daemon on it, ended with the script
  "$voltree" --store "$1" serve --foreground 2>>"$work/daemon.log" &
  background+=("$!")
  local i
  for ((i = 0; i < 600; i++)); do
    "$voltree" --store "$1" version 2>/dev/null | grep -q daemon && return 0
    sleep 0.1
  done
  die "no daemon on $1: $(tail -5 "$work/daemon.log")"
}
names() { "$voltree" --store "$1" --json list | jq -r '[.nodes[].name] | join(" ")'; }
export VOLTREE_STORE=$here # whom the driver asks: the store that the volume leaves
driver() { # driver CALL ARGUMENTS HOST: with that host's name
  python3 - "$VOLTREE_STORE/run/control.sock" "$@" <<'PY'
import json, socket, sys
path, call, arguments, host = sys.argv[1:]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
    daemon.connect(path)
    params = {"call": call, "arguments": json.loads(arguments),
              "configuration": {"free_min_bytes": 0, "host_name": host}}
    daemon.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "driver.call", "params": params}).encode() + b"\n")
    for line in daemon.makefile():
        answer = json.loads(line)
        if "id" in answer:
            print(json.dumps(answer.get("result", answer.get("error"))))
            break
PY
}
location_of() { VOLTREE_STORE=$1 driver get_volume_stats '{"refresh":true}' "$2" | jq -r '.answer.pools[0].location_info'; }
migrate() { # migrate NAME LOCATION [MORE-OF-THE-VOLUME]
  driver migrate_volume "{\"volume\":{\"name\":\"$1\",\"size\":1${3-}},\"host\":\"stor1@other#pool\",\"location_info\":\"$2\"}" stor1
}
moved='{"answer": {"moved": true, "model_update": null}}'
stays='{"answer": {"moved": false, "model_update": null}}'

"$voltree" --store "$here" init >/dev/null
"$voltree" --store "$there" init >/dev/null
serve "$here"
serve "$there"
target=$(location_of "$there" stor1)
is "the location tells of the socket" "$there/run/control.sock" "${target##*:}"

# Data at both ends, and what reads as zeros in three ways.
python3 - "$work/raw" <<'PY'
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
fresh() { # fresh NAME: a volume with that data and a limit, here
  check "import" "$voltree" --store "$here" import "$work/raw" "$1" --quiet
  check "its limit" "$voltree" --store "$here" qos "$1" total_iops_sec=100000
}
arrived() { # arrived WHAT NAME: there, whole, and no longer here
  is "$1: here" "" "$(names "$here")"
  is "$1: there" "$2" "$(names "$there")"
  "$voltree" --store "$there" export "$2" - 2>/dev/null | cmp - "$work/raw" || fail "$1: it differs"
  check "$1: delete" "$voltree" --store "$there" delete "$2"
}

fresh disk
is "the same store" "$moved" "$(migrate disk "$(location_of "$here" stor1)")"
is "another host" "$stays" "$(migrate disk "$(location_of "$there" stor2)")"
is "another driver" "$stays" "$(migrate disk "LVMVolumeDriver:stor1:group:default:0")"
is "an attached volume" "$stays" "$(migrate disk "$target" ',"attachments":[{"attached_host":"stor1"}]')"
check "a snapshot" "$voltree" --store "$here" snapshot disk@s
is "one with snapshots" "$stays" "$(migrate disk "$target")"
check "delete it" "$voltree" --store "$here" delete disk@s
is "it is where it was" "disk" "$(names "$here")"
is "and nothing is there" "" "$(names "$there")"
is "nobody listens" VolumeBackendAPIException "$(migrate disk "${target%:*}:$work/nowhere" | jq -r .exception)"
is "another store listens" VolumeBackendAPIException "$(migrate disk "${target%:*}:$here/run/control.sock" | jq -r .exception)"

is "it moves" "$moved" "$(migrate disk "$target")"
is "its limit" 100000 "$("$voltree" --store "$there" --json qos disk | jq .limits.total_iops_sec)"
is "told again" "$moved" "$(migrate disk "$target")"
arrived "moved" disk
is "one that never was" VolumeNotFound "$(migrate disk "$target" | jq -r .exception)"

# What tries that were killed leave: a part of it there, and the copy here.
fresh disk
check "a part" "$voltree" --store "$there" create disk.import-0123abcd 1G
check "a copy" "$voltree" --store "$here" clone disk disk.export-0123abcd
is "a try after a killed one" "$moved" "$(migrate disk "$target")"
arrived "after a killed try" disk

# Killed between the two last steps: it is in both.
fresh disk
check "it is there" "$voltree" --store "$there" import "$work/raw" disk --quiet
is "the last step" "$moved" "$(migrate disk "$target")"
arrived "after the last step" disk

# There is another one of that name.
fresh disk
check "another one" "$voltree" --store "$there" create disk 1G
answer=$(migrate disk "$target")
is "another one ($answer)" VolumeBackendAPIException "$(jq -r .exception <<<"$answer")"
is "stays empty" 0 "$("$voltree" --store "$there" --json list --usage | jq '.nodes[0].usage.referenced_bytes')"
"$voltree" --store "$here" export disk - 2>/dev/null | cmp - "$work/raw" || fail "the refused one differs"
is "here" disk "$(names "$here")"
check "delete" "$voltree" --store "$there" delete disk

check "a store" "$voltree" --store "$here" check --data
check "the other store" "$voltree" --store "$there" check --data
finish
