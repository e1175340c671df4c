#!/usr/bin/env bash
# 200 volumes in the hands of 8 clients of the control socket at once (many.py); then nothing of them is left.
# Usage: many.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
here=$(realpath "$(dirname "$0")")
need_fuse
command -v python3 >/dev/null || skip "this needs python3"

"$voltree" init >/dev/null
start_daemon
check "8 clients" python3 "$here/many.py" "$VOLTREE_STORE/run/control.sock"
check "the store" "$voltree" check --data
is "files of layers" "" "$(find "$VOLTREE_STORE/layers" -type f)"
stop_daemon
check "the store without the daemon" "$voltree" check --data
finish
