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
# shellcheck source=tests/integration/migrate_lib.sh
source "$(dirname "$0")/migrate_lib.sh"

"$voltree" --store "$here" init >/dev/null
"$voltree" --store "$there" init >/dev/null
serve "$here"
serve "$there"
target=$(location_of "$there" stor1)
is "the location tells of the socket" "$there/run/control.sock" "${target##*:}"

make_raw "$work/raw"

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

settings_go "copied" "$target" # it has no layer
fresh one
settings_go "handed over" "$target" one

check "a store" "$voltree" --store "$here" check --data
check "the other store" "$voltree" --store "$there" check --data
finish
