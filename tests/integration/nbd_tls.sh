#!/usr/bin/env bash
# NBD over TLS, with libnbd and QEMU: certificates and pre-shared keys; who has the wrong ones, or none, gets nothing.
# Usage: nbd_tls.sh VOLTREE-BINARY
# shellcheck disable=SC2119 # the daemon takes none of the script's arguments
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_fuse
for tool in nbdinfo qemu-img certtool psktool; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done

refused() { # refused WHAT COMMAND...
  local what=$1
  shift
  checks=$((checks + 1))
  if timeout 30 "$@" >"$work/said" 2>&1; then fail "$what was let in: $(<"$work/said")"; fi
}

# --- A certificate authority, and one that nobody knows.
authority() { # authority FOLDER
  mkdir -p "$1"
  certtool --generate-privkey --ecc --outfile "$1/ca-key.pem" 2>/dev/null
  printf 'cn = authority\nca\ncert_signing_key\nexpiration_days = 2\n' >"$1/ca.info"
  certtool --generate-self-signed --load-privkey "$1/ca-key.pem" --template "$1/ca.info" \
    --outfile "$1/ca-cert.pem" 2>/dev/null
}
certificate() { # certificate AUTHORITY FOLDER ROLE NAME: ROLE is server or client
  mkdir -p "$2"
  cp "$1/ca-cert.pem" "$2/ca-cert.pem"
  certtool --generate-privkey --ecc --outfile "$2/$3-key.pem" 2>/dev/null
  {
    printf 'cn = %s\nencryption_key\nsigning_key\nexpiration_days = 2\n' "$4"
    if [[ $3 == server ]]; then printf 'tls_www_server\ndns_name = localhost\nip_address = 127.0.0.1\n'; else echo tls_www_client; fi
  } >"$2/info"
  certtool --generate-certificate --load-ca-certificate "$1/ca-cert.pem" --load-ca-privkey "$1/ca-key.pem" \
    --load-privkey "$2/$3-key.pem" --template "$2/info" --outfile "$2/$3-cert.pem" 2>/dev/null
}
authority "$work/ca"
authority "$work/strangers"
certificate "$work/ca" "$work/server" server localhost
certificate "$work/ca" "$work/backup" client backup
certificate "$work/ca" "$work/admin" client admin
certificate "$work/strangers" "$work/stranger" client admin
cp "$work/ca/ca-cert.pem" "$work/stranger/ca-cert.pem"
mkdir "$work/nobody"
cp "$work/ca/ca-cert.pem" "$work/nobody/"
printf 'cert:admin * rw\ncert:backup *@* ro\nunix * rw\n' >"$work/access"

"$voltree" init >/dev/null
status=0
"$voltree" serve --nbd-listen 0.0.0.0:0 --foreground 2>"$work/error" || status=$?
is "TCP for all without TLS" 1 "$status"
grep -q -- --insecure "$work/error" || fail "no word of --insecure: $(<"$work/error")"
status=0
"$voltree" serve --nbd-listen 127.0.0.1:0 --nbd-tls "$work/ca" --foreground 2>"$work/error" || status=$?
is "certificates that are not there" 2 "$status"

start_daemon --nbd-listen 127.0.0.1:0 --nbd-tls "$work/server" --nbd-access "$work/access" --nbd-socket "$work/nbd.sock"
"$voltree" create disk 16M >/dev/null
"$voltree" snapshot disk@one >/dev/null
uri=$("$voltree" nbd disk | sed -n 2p)
is "the form of the URI" nbds "${uri%%:*}"
port=${uri##*:}
port=${port%%/*}
with() { echo "nbds://localhost:$port/$2?tls-certificates=$work/$1"; }
qemu() { # qemu FOLDER EXPORT COMMAND...
  local folder=$1 export=$2
  shift 2
  qemu-io --object "tls-creds-x509,id=tls0,dir=$work/$folder,endpoint=client" --image-opts \
    "driver=nbd,server.type=inet,server.host=localhost,server.port=$port,export=$export,tls-creds=tls0" "$@"
}

is "libnbd with a certificate" 16777216 "$(nbdinfo --size "$(with admin disk)")"
nbdinfo "$(with admin disk)" | grep -q 'with TLS' || fail "no TLS: $(nbdinfo "$(with admin disk)")"
check "QEMU with a certificate" qemu admin disk -c 'write -P 0x42 0 4M' -c 'read -P 0x42 0 4M'
check "a large transfer both ways" nbdcopy "$(with admin disk)" "$work/out"
is "what came" "$(sha256sum <"$work/mnt/volumes/disk")" "$(sha256sum <"$work/out")"
is "the rules: reading a snapshot" 16777216 "$(nbdinfo --size "$(with backup disk@one)")"
refused "the rules: a volume for backup" nbdinfo "$(with backup disk)"
is "the list has what is allowed" 'disk@one' "$(nbdinfo --list --json "$(with backup '')" | jq -r '.exports[]."export-name"')"
refused "a stranger's certificate" nbdinfo "$(with stranger disk)"
refused "a stranger's certificate in QEMU" qemu stranger disk -c 'read 0 512'
refused "no certificate" nbdinfo "$(with nobody disk)"
refused "plain text" nbdinfo "nbd://localhost:$port/disk"
refused "plain text in QEMU" qemu-img info -f raw "nbd://localhost:$port/disk"
is "plain text on the Unix socket, by the rules" 16777216 \
  "$(nbdinfo --size "nbd+unix:///disk?socket=$work/nbd.sock")"

# What is put behind STARTTLS in plain text is not read as if TLS had brought it (CVE-2021-3716), and nothing but
# STARTTLS is answered before it.
python3 - "$port" <<'PY' || fail "plain text was taken"
import socket, struct, sys
def option(number, data=b""):
    return struct.pack(">8sII", b"IHAVEOPT", number, len(data)) + data
def read(connection, count):
    got = b""
    while len(got) < count:
        part = connection.recv(count - len(got))
        if not part:
            return None
        got += part
    return got
for number in (3, 6, 7, 8, 9, 10, 11):  # LIST ... EXTENDED_HEADERS
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as connection:
        read(connection, 18)
        connection.sendall(struct.pack(">I", 3) + option(number))
        reply = struct.unpack(">QIII", read(connection, 20))
        assert reply[2] == 0x80000005, (number, reply)  # NBD_REP_ERR_TLS_REQD
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as connection:
    read(connection, 18)
    connection.sendall(struct.pack(">I", 3) + option(1, b"disk"))  # EXPORT_NAME
    assert read(connection, 1) is None
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as connection:
    read(connection, 18)
    connection.sendall(struct.pack(">I", 3) + option(5) + option(8) + option(3))
    reply = struct.unpack(">QIII", read(connection, 20))
    assert reply[2] == 1, reply  # STARTTLS is acknowledged ...
    assert read(connection, 1) is None  # ... and nothing after it
PY
stop_daemon

# --- Pre-shared keys.
psktool -u vm1 -p "$work/keys" >/dev/null 2>&1
chmod 644 "$work/keys"
mkdir -p "$work/right" "$work/wrong"
cp "$work/keys" "$work/right/keys.psk"
psktool -u vm1 -p "$work/wrong/keys.psk" >/dev/null 2>&1
printf 'psk:vm1 disk rw\n' >"$work/access"
start_daemon --nbd-listen 127.0.0.1:0 --nbd-psk "$work/keys" --nbd-access "$work/access"
uri=$("$voltree" nbd disk | head -n1)
port=${uri##*:}
port=${port%%/*}
check "the log warns of keys that others can read" grep -q "keys in $work/keys can be read by others" "$work/daemon.log"
check "libnbd with a key" nbdinfo "nbds://vm1@localhost:$port/disk?tls-psk-file=$work/keys"
refused "the rules: another export" nbdinfo "nbds://vm1@localhost:$port/disk@one?tls-psk-file=$work/keys"
refused "a wrong key" nbdinfo "nbds://vm1@localhost:$port/disk?tls-psk-file=$work/wrong/keys.psk"
refused "an unknown user" nbdinfo "nbds://vm2@localhost:$port/disk?tls-psk-file=$work/keys"
refused "no key" nbdinfo "nbd://localhost:$port/disk"
check "QEMU with a key" qemu-io \
  --object "tls-creds-psk,id=tls0,dir=$work/right,endpoint=client,username=vm1" --image-opts \
  "driver=nbd,server.type=inet,server.host=localhost,server.port=$port,export=disk,tls-creds=tls0" -c 'read -P 0x42 0 4M'
stop_daemon
check "the store" "$voltree" check --data
finish
