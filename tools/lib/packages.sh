# Sourced by the scripts in tools/: which Debian packages each job needs, and installing what is missing.
# shellcheck shell=bash

# Those a script uses, not this file.
# shellcheck disable=SC2034
readonly packages_build="build-essential cmake ninja-build pkg-config libfuse3-dev libboost-dev libxxhash-dev
  libsqlite3-dev liburing-dev libcli11-dev nlohmann-json3-dev libfmt-dev libgnutls28-dev libnl-genl-3-dev libnbd-dev
  libgtest-dev libgmock-dev libbenchmark-dev"
# shellcheck disable=SC2034
readonly packages_run="fuse3 e2fsprogs util-linux mount diffutils"
# shellcheck disable=SC2034
readonly packages_test="clang-format python3 xfsprogs btrfs-progs dosfstools qemu-utils
  sqlite3 jq fio libnbd-bin nbdkit gnutls-bin
  qemu-system-x86 nbd-client kmod strace openssh-client openssh-server"
# shellcheck disable=SC2034
readonly packages_bench="fio"
# shellcheck disable=SC2034
readonly packages_fuzz="clang-16 libclang-rt-16-dev"
# Not gcov: that of GCC 12 leaves out the bodies of coroutines.
# shellcheck disable=SC2034
readonly packages_coverage="clang-16 llvm-16 libclang-rt-16-dev"
# The newest clang-tidy of Debian 12: those before it cannot read coroutines.
# shellcheck disable=SC2034
readonly packages_lint="clang-format clang-tidy-16"

missing_packages() { # missing_packages NAME...: those of them that dpkg does not know as installed
  local name
  for name in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true) == installed ]] || echo "$name"
  done
}

# install_packages NAME...: installs what is missing, as root or through sudo. Returns at once when nothing is.
install_packages() {
  command -v dpkg-query >/dev/null || {
    echo "this is not a Debian system: have these installed: $*" >&2
    return 0
  }
  local missing
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || {
      echo "missing: ${missing[*]}" >&2
      echo "install them as root: apt-get install ${missing[*]}" >&2
      return 1
    }
    as_root=(sudo)
  fi
  echo "installing ${#missing[@]} packages: ${missing[*]}"
  # A lock held by another apt is waited for; lists are fetched only when a package is not found in those there are.
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300)
  if ! "${as_root[@]}" "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" "${apt[@]}" update
    "${as_root[@]}" "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
  fi
}
