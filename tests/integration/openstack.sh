#!/usr/bin/env bash
# The Python side of the Cinder driver against a real daemon (openstack_shim.py says what that shows).
# Usage: openstack.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
here=$(realpath "$(dirname "$0")")
need_fuse
command -v python3 >/dev/null || skip "this needs python3"

"$voltree" init >/dev/null
start_daemon
check "the driver" python3 "$here/openstack_shim.py" "$here/../../driver/openstack" "$VOLTREE_STORE/run/control.sock" \
  "$work/mnt"
is "nothing is left" "[]" "$("$voltree" --json list | jq -c .nodes)"
check "the store" "$voltree" check --data
stop_daemon
finish
