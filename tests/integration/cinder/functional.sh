#!/usr/bin/env bash
# In the container: a daemon, and functional.py.
set -euo pipefail
export VOLTREE_STORE=/var/lib/voltree
mkdir -p /mnt/voltree
voltree init
voltree serve --mount /mnt/voltree --allow-other --owner cinder:cinder --file-mode 0660
python3 /tests/functional.py >/results/functional.log 2>&1 || { tail -60 /results/functional.log; exit 1; }
tail -4 /results/functional.log
voltree check --data
