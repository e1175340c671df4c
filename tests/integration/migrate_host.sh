#!/usr/bin/env bash
# A volume's move to a store of another host, through ssh. The other host is this one behind an sshd of its own, with
# keys that are made here.
# Usage: migrate_host.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
for tool in jq python3 ssh ssh-keygen; do
  command -v "$tool" >/dev/null || skip "this needs $tool"
done
sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || skip "this needs sshd (Debian: openssh-server)"

here=$work/here there=$work/there
# shellcheck source=tests/integration/migrate_lib.sh
source "$(dirname "$0")/migrate_lib.sh"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port)
for key in host user stranger; do
  ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/$key"
done
# One may forward to sockets, and nothing else.
echo "restrict,port-forwarding $(cat "$work/user.pub")" >"$work/authorized"
echo "[127.0.0.1]:$port $(cat "$work/host.pub")" >"$work/known"
cat >"$work/sshd.conf" <<CONF
Port $port
ListenAddress 127.0.0.1
HostKey $work/host
AuthorizedKeysFile $work/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
AllowStreamLocalForwarding yes
CONF
[[ $(id -u) != 0 ]] || mkdir -p /run/sshd # where sshd locks itself in; the package's service makes it otherwise
"$sshd" -D -e -f "$work/sshd.conf" 2>"$work/sshd.log" &
background+=("$!")
wait_until "sshd" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" 2>/dev/null

ssh_config() { # ssh_config KEY: as an administrator writes it
  cat <<CONF
Host stor2
  HostName 127.0.0.1
  Port $port
  User $(id -un)
  IdentityFile $work/$1
  IdentitiesOnly yes
  UserKnownHostsFile $work/known
  StrictHostKeyChecking yes
CONF
}
ssh_config user >"$work/ssh.conf"

"$voltree" --store "$here" init >/dev/null
"$voltree" --store "$there" init >/dev/null
is "a configuration that is not there" 3 "$("$voltree" --store "$here" serve --foreground --migrate-ssh "$work/none" 2>/dev/null; echo $?)"
serve "$here" --migrate-ssh "$work/ssh.conf"
serve "$there"
other=$(location_of "$there" stor2)
make_raw "$work/raw"

fresh disk
is "an attached volume" "$stays" "$(migrate disk "$other" ',"attachments":[{"attached_host":"stor1"}]')"
is "it moves" "$moved" "$(migrate disk "$other")"
is "its limit" 100000 "$("$voltree" --store "$there" --json qos disk | jq .limits.total_iops_sec)"
is "told again" "$moved" "$(migrate disk "$other")"
arrived "moved" disk

fresh disk
check "a part of it, of a try that was killed" "$voltree" --store "$there" create disk.import-0123abcd 1G
is "a try after a killed one" "$moved" "$(migrate disk "$other")"
arrived "after a killed try" disk

# refused WHAT LOCATION TEXT: an exception whose message has the text; the volume stays.
refused() {
  local answer
  answer=$(migrate disk "$2")
  is "$1 ($answer)" VolumeBackendAPIException "$(jq -r .exception <<<"$answer")"
  [[ $(jq -r .message <<<"$answer") == *$3* ]] || fail "$1: $answer does not say: $3"
  is "$1: here" disk "$(names "$here")"
}
fresh disk
refused "no such host" "${other/:stor2:/:stor3.invalid:}" stor3.invalid
refused "nobody listens there" "${other%:*}:$work/nowhere" "ssh to stor2 says"
refused "another store listens" "${other%:*}:$here/run/control.sock" "another store's"
refused "an option for a host" "${other/:stor2:/:-oProxyCommand=false:}" "no host"
refused "a path that is two" "${other%:*}:/a b" "no path"
ssh_config stranger >"$work/ssh.conf"
refused "a key that is not known there" "$other" "Permission denied"
ssh_config user >"$work/ssh.conf"

# The other host is gone in the middle: the volume stays, and what had arrived goes with the next try.
check "a limit, so that it takes a while" "$voltree" --store "$here" qos disk read_bytes_sec=1M
answer=$work/answer
migrate disk "$other" >"$answer" &
moving=$!
in_the_middle() { [[ $(names "$there") == disk.import-* ]]; }
wait_until "the move" in_the_middle
pkill -KILL -f "^ssh -F $work/ssh.conf" || fail "there is no ssh to end"
wait "$moving"
is "cut ($(cat "$answer"))" VolumeBackendAPIException "$(jq -r .exception "$answer")"
is "cut: here" disk "$(names "$here")"
check "without the limit" "$voltree" --store "$here" qos disk --clear
check "its limit" "$voltree" --store "$here" qos disk total_iops_sec=100000
is "moved after all" "$moved" "$(migrate disk "$other")"
arrived "after a cut" disk
settings_go "over ssh" "$other"
is "no ssh stays behind" "" "$(pgrep -f "^ssh -F $work/ssh.conf" || true)"

check "a store" "$voltree" --store "$here" check --data
check "the other store" "$voltree" --store "$there" check --data
finish
