#!/usr/bin/env bash
# What "cmake --install" puts where, and that it is whole.
# Usage: install.sh VOLTREE-BINARY CMAKE BUILD-FOLDER [PYTHON-FOLDER]
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
cmake=$2 build=$3 python_folder=${4:-}
command -v python3 >/dev/null || skip "this needs python3"

root=$work/root
check "the install" env DESTDIR="$root" "$cmake" --install "$build" --prefix /usr/local
is "the program" "$("$voltree" --version)" "$("$root/usr/local/bin/voltree" --version)"
check "the man page" grep -q '^\.Dt VOLTREE 1' "$root/usr/local/share/man/man1/voltree.1"

shim=$root$python_folder/voltree_cinder.py
[[ -n $python_folder ]] || shim=$(dirname "$0")/../../driver/openstack/voltree_cinder.py
check "the driver for Cinder" test -r "$shim"
check "it compiles" python3 -c 'import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[2], doraise=True)' \
  "$shim" "$work/voltree_cinder.pyc"
sample=$root/usr/local/share/doc/voltree/cinder.conf.sample
check "the sample is a configuration" python3 -c 'import configparser, sys
configuration = configparser.ConfigParser()
assert configuration.read(sys.argv[1])
assert configuration["voltree"]["volume_driver"] == "voltree_cinder.VoltreeDriver"' "$sample"
is "the sample has every option of the driver, and no other" \
  "$(grep -oP "Opt\('\Kvoltree_\w+" "$shim" | sort)" "$(grep -oP '^#?\Kvoltree_\w+(?= =)' "$sample" | sort)"

unit=$root/usr/local/lib/systemd/system/voltree@.service
check "the unit" test -r "$unit"
if command -v systemd-analyze >/dev/null; then
  # By its path, so that the program is found without being installed on this host.
  sed "s|^ExecStart=voltree|ExecStart=$voltree|" "$unit" >"$work/voltree@.service"
  is "what systemd says of the unit" "" \
    "$(systemd-analyze verify "$work/voltree@srv-store.service" 2>&1 | grep -F "$work" || true)"
fi

# Ready is what the daemon says when its control socket answers, and not before.
"$voltree" init >/dev/null
check "what the service manager is told" python3 - "$voltree" "$work/notify.sock" <<'END'
import os, signal, socket, subprocess, sys
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(sys.argv[2])
manager.settimeout(60)
daemon = subprocess.Popen([sys.argv[1], 'serve', '--foreground'], stderr=subprocess.DEVNULL,
                          env=dict(os.environ, NOTIFY_SOCKET=sys.argv[2]))
try:
    assert manager.recv(4096).startswith(b'READY=1\n')
    answer = subprocess.run([sys.argv[1], 'version'], capture_output=True, check=True).stdout
    assert b'daemon' in answer, answer
    daemon.send_signal(signal.SIGTERM)
    assert manager.recv(4096).startswith(b'STOPPING=1\n')
    assert daemon.wait(60) == 0
finally:
    if daemon.poll() is None:
        daemon.kill()
END
finish
