#!/usr/bin/env bash
# Installs the Debian packages in a clean Debian 12 root and uses them as their users would: the server as its user with
# the settings that the package brings, answers held against the reference, the Python client, a program linked with the
# C++ library, manual pages, the systemd unit, in a booted system too where systemd-nspawn is there, and removal without a
# trace.
#
#   tests/packages.sh [FOLDER]    FOLDER: of the packages, build/package/packages by default
#
# Of a folder with sage-server-cuda (build/package-cuda/packages) it takes that for the server, and sees too that it stands for
# sage-server and takes its place (where build/package/packages has that), what it says where there is no GPU, and which ones it
# has kernels for.
#
# Wants root, debootstrap and Debian's mirror; takes two minutes. Skips (77) where it cannot run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
packages=$(realpath "${1:-$root/build/package/packages}")
readonly packages
# shellcheck source=tests/debian_root.sh
source "$root/tests/debian_root.sh"

skip() {
  printf 'packages.sh: skipped: %s\n' "$1"
  exit 77
}
((EUID == 0)) || skip 'not root'
command -v debootstrap >/dev/null || skip 'no debootstrap'
# The root's /proc, and whatever runs in it, end with this script.
if [[ -z ${SAGE_IN_NAMESPACE-} ]]; then
  SAGE_IN_NAMESPACE=1 exec unshare --mount --pid --mount-proc --fork --kill-child "$0" "$packages"
fi

step() { printf '\n==> %s\n' "$*"; }
fail() {
  printf 'packages.sh: %s\n' "$*" >&2
  exit 1
}

debian=$(mktemp -d /tmp/sage-packages.XXXXXX)
readonly debian
trap 'umount "$debian/proc" 2>/dev/null || true; rm -rf "$debian"' EXIT
within() { chroot "$debian" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
as_sage() { within setpriv --reuid sage --regid sage --clear-groups "$@"; }
apt() { within apt-get -qq -o=Dpkg::Use-Pty=0 "$@" >"$debian/apt.log" 2>&1 || { tail -n 30 "$debian/apt.log" && fail "apt-get $1"; }; }
install_packages() { # install_packages NAME...
  local files=() name
  for name in "$@"; do files+=("$(cd "$debian" && echo root/"$name"_*.deb)"); done
  apt install -y --no-install-recommends "${files[@]/#//}"
}

server=sage-server
[[ ! -e $(echo "$packages"/sage-server-cuda_*.deb) ]] || server=sage-server-cuda
readonly server

step 'A clean Debian 12'
debian_root "$debian"
mount -t proc proc "$debian/proc"
cp "$packages"/*.deb "$debian/root/"
apt update

enabled() { [[ -L $debian/etc/systemd/system/multi-user.target.wants/sage-server.service ]]; }
other=$(echo "$root"/build/package/packages/sage-server_*.deb)
if [[ $server == sage-server-cuda && -e $other ]]; then
  step 'In the place of sage-server'
  cp "$other" "$debian/root/"
  install_packages sage-server
  echo '# changed by its operator' >>"$debian/etc/sage/server.toml"
  install_packages "$server"
  apt purge -y sage-server
  enabled || fail 'the unit is not enabled any more'
  grep 'changed by its operator' "$debian/etc/sage/server.toml" || fail 'its settings are lost'
  rm "$debian/root/$(basename "$other")"
fi

step 'Server and clients'
install_packages "$server" sage-client python3-sage-client
within id sage
enabled || fail 'the unit is not enabled'
mkdir -m 750 "$debian/run/sage" # as systemd would
within chown sage:sage /run/sage
as_sage sage-server --config /etc/sage/server.toml 2>"$debian/server.log" &
running=$!
for ((attempt = 0; attempt < 100; ++attempt)); do
  within sage-server --health-check unix:/run/sage/sage.sock 2>/dev/null && break
  sleep 0.1
done
within sage-server --health-check unix:/run/sage/sage.sock || { cat "$debian/server.log" && fail 'no health'; }
within sagectl info
within sagectl verify --seqlen 512 --head-dim 64,128 --density 0.25
within python3 -c '
import numpy, sage_client
q, k, v = numpy.random.default_rng().standard_normal((3, 1, 2, 256, 64)).astype(numpy.float16)
out = sage_client.sparse_sageattn(q, k, v)
p = numpy.exp(q.astype(float) @ k.astype(float).swapaxes(-1, -2) / 8)
expected = p @ v.astype(float) / p.sum(-1, keepdims=True)
error = numpy.linalg.norm(out - expected) / numpy.linalg.norm(expected)
print(f"python: relative L2 {error:.4f}")
assert error < 0.03'
pkill -TERM -x sage-server # in this script's own process namespace there is one
wait "$running" || fail 'the server did not end in peace'
grep -rl 'SAGECTL' "$debian/usr/share/man/man1" >/dev/null || fail 'no manual page'

if [[ $server == sage-server-cuda ]]; then
  step 'With CUDA'
  # A package that depends on sage-server is content with it.
  mkdir -p "$debian/root/friend/DEBIAN"
  printf '%s\n' 'Package: friend' 'Version: 1' 'Architecture: all' 'Maintainer: nobody <nobody@localhost>' \
    'Depends: sage-server (>= 0.1)' 'Description: depends on sage-server' >"$debian/root/friend/DEBIAN/control"
  within dpkg-deb -b /root/friend /root/friend.deb >/dev/null
  within dpkg -i /root/friend.deb >/dev/null || fail 'it does not stand for sage-server'
  apt purge -y friend
  status=0
  CUDA_VISIBLE_DEVICES='' within sage-server --backend cuda --listen 127.0.0.1:0 2>"$debian/cuda.log" || status=$?
  cat "$debian/cuda.log"
  [[ $status == 1 ]] || fail "without a GPU it ends with $status"
  grep -q 'event=start_failed.*--backend cpu serves without a GPU' "$debian/cuda.log" || fail 'it does not say what to do'
  "$root/tests/cuda_architectures.sh" "$debian/usr/bin/sage-server" || (($? == 77)) || fail 'not the kernels of preset fat'
fi

step 'The systemd unit'
apt install -y --no-install-recommends systemd # instead of the package that only makes users
within systemd-analyze verify --man=no sage-server.service
within systemd-analyze security --offline=true --threshold=30 /usr/lib/systemd/system/sage-server.service | tail -n 1

step 'A program linked with the C++ library'
apt install -y --no-install-recommends cmake g++ make pkg-config
install_packages libsage-client-dev
mkdir "$debian/root/program"
cp "$root/client/examples/ask_a_document.cc" "$debian/root/program/"
cat >"$debian/root/program/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(program CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(sage-client 0.1 REQUIRED)
add_executable(program ask_a_document.cc)
target_link_libraries(program PRIVATE sage::client)
END
within sh -c 'cd /root/program && cmake . && make' >"$debian/build.log" 2>&1 || {
  tail -n 30 "$debian/build.log"
  fail 'it does not build'
}
cat >"$debian/root/ask" <<'END'
sage-server --listen 127.0.0.1:0 --port-file /root/port 2>/root/log & server=$!
trap 'kill $server 2>/dev/null' EXIT
until [ -s /root/port ]; do kill -0 $server || exit 1; sleep 0.1; done
/root/program/program 127.0.0.1:$(cat /root/port) || exit 1
kill $server && wait $server
END
within sh /root/ask

step 'A system that runs'
if command -v systemd-nspawn >/dev/null; then
  cp "$root/tests/booted_system.sh" "$debian/root/"
  cat >"$debian/etc/systemd/system/booted-test.service" <<END
[Unit]
After=multi-user.target
[Service]
ExecStart=sh -c '/root/booted_system.sh $server >/root/booted.log 2>&1; systemctl exit \$\$?'
[Install]
WantedBy=multi-user.target
END
  within systemctl -q enable booted-test.service
  umount "$debian/proc" # it wants to mount its own
  status=0
  timeout -k 10 300 systemd-nspawn -q -D "$debian" --boot --private-network --register=no --keep-unit --console=pipe \
    >"$debian/nspawn.log" 2>&1 </dev/null || status=$?
  cat "$debian/root/booted.log" || tail -n 30 "$debian/nspawn.log"
  ((status == 0)) || fail "the booted system ended with $status"
  rm "$debian"/etc/systemd/system/{,multi-user.target.wants/}booted-test.service
  mount -t proc proc "$debian/proc"
else
  echo 'skipped: no systemd-nspawn'
fi

step 'Removal'
apt purge -y "$server" sage-client python3-sage-client libsage-client-dev
left=$(find "$debian/etc" "$debian/usr" "$debian/var/lib/systemd" -name '*sage[-_]server*' -o -name '*sagectl*' -o -name '*sage[-_]client*')
[[ -z $left ]] || fail "left behind: $left"
printf '\nAll packages work.\n'
