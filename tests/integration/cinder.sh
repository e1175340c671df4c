#!/usr/bin/env bash
# The volume driver in Debian's own Cinder.
# Usage: cinder.sh VOLTREE-BINARY interface|functional|services [PART...]     (VOLTREE_CINDER_SHORT: the quick parts)
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
# shellcheck source=tests/integration/cinder/container.sh
source "$(dirname "$0")/cinder/container.sh"
need_cinder

parts=("${@:3}")
[[ ${VOLTREE_CINDER_SHORT:-} && ${#parts[@]} == 0 ]] &&
  parts=(attach snapshots extend revert consistent_groups manage_and_unmanage limits_of_types eight_clients)

case $2 in
  interface) check "the interface" in_container python3 /tests/interface_check.py ;;
  functional) check "Cinder's functional tests" in_container bash /tests/functional.sh ;;
  services)
    in_container bash /tests/services.sh "${parts[@]}" || fail "Cinder's services"
    checks=$((checks + 1))
    ;;
  shell) in_container bash ;; # to look around
  *) die "there is no part $2" ;;
esac
finish
