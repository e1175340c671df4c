#!/usr/bin/env bash
# A store on a file system that is mounted read-only: what was closed in order is read, by several at once, nothing of it
# changes, and what would change it is refused with a reason.
# Usage: read_only.sh VOLTREE-BINARY
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh" "$1"
need_root
need_fuse

refused() { # refused WHAT TEXT COMMAND...: it fails, and says TEXT
  local what=$1 text=$2 output status=0
  shift 2
  output=$("$@" 2>&1) || status=$?
  is "$what: exit status" 1 "$status"
  checks=$((checks + 1))
  [[ $output == *"$text"* ]] || fail "$what says: $output"
}

files_of() { find "$1" -printf '%P %s %T@\n' | sort; }

head -c 3M /dev/urandom >"$work/first"
head -c 3M /dev/urandom >"$work/second"
"$voltree" init >/dev/null
"$voltree" import "$work/first" a --quiet >/dev/null
"$voltree" snapshot a@s
start_daemon
check "written to" cp "$work/second" "$work/mnt/volumes/a"

# The same files, at a place where they cannot be written.
writable=$VOLTREE_STORE
mkdir "$work/media"
mount --bind "$work" "$work/media"
mount -o remount,bind,ro "$work/media"
export VOLTREE_STORE=$work/media/store
mv "$writable/run/control.sock" "$writable/run/control.sock.away" # a daemon that cannot be reached, and has the store
status=0
output=$("$voltree" list 2>&1) || status=$?
is "while its daemon runs: exit status" 4 "$status"
checks=$((checks + 1))
[[ $output == *"in use by process $daemon"* ]] || fail "while its daemon runs: $output"
mv "$writable/run/control.sock.away" "$writable/run/control.sock"
kill_daemon
refused "not closed in order" "not closed in order" "$voltree" list
VOLTREE_STORE=$writable "$voltree" list >/dev/null # recovers it, and closes it in order

before=$(files_of "$writable")
is "volumes" "a a@s" "$("$voltree" list --json | jq -r '.nodes[].name' | xargs)"
check "export" "$voltree" export a "$work/out" --quiet
check "what was written last" cmp "$work/second" "$work/out"
check "export of the snapshot" "$voltree" export a@s "$work/out2" --quiet
check "what was there first" cmp "$work/first" "$work/out2"
"$voltree" export a - >"$work/out3" &
other=$!
check "check, beside another command" "$voltree" check --data
wait "$other" || fail "an export beside another command"
cmp "$work/second" "$work/out3" || fail "an export beside another command is wrong"
check "stats" "$voltree" stats
check "diff" "$voltree" diff a@s a
refused "create" "mounted read-only" "$voltree" create b 1M
refused "snapshot" "mounted read-only" "$voltree" snapshot a@t
refused "delete" "mounted read-only" "$voltree" delete a --snapshots
refused "revert" "mounted read-only" "$voltree" revert a@s
refused "import" "mounted read-only" "$voltree" import "$work/first" c
refused "init" "ead-only file system" "$voltree" init "$work/media/other"
mkdir -p "$work/mnt2"
refused "serve" "mounted read-only" "$voltree" serve --mount "$work/mnt2"
is "the store's files" "$before" "$(files_of "$writable")"

export VOLTREE_STORE=$writable
start_daemon
check "where it can be written it goes on" "$voltree" snapshot a@u
check "and is sound" "$voltree" check --data
stop_daemon
finish
