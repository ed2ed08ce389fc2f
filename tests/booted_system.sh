#!/usr/bin/env bash
# What tests/packages.sh has a booted Debian 12 do that has the packages installed and their files in /root: the server starts
# with the system, is locked in, comes back after a crash, stays away after a wrong setting, drains under load, and is
# replaced by an upgrade and stopped by a removal.
#
#   booted_system.sh PACKAGE    PACKAGE: the server's
set -euo pipefail

readonly package=$1
readonly unit=sage-server.service
readonly settings=/etc/sage/server.toml
readonly drain_seconds=60 # in these settings

step() { printf '\n--> %s\n' "$*"; }
fail() {
  printf 'booted_system.sh: %s\n' "$*"
  journalctl --no-pager -n 30 -u "$unit"
  exit 1
}
await() { # await COMMAND...: for as long as ten seconds
  local attempt
  for ((attempt = 0; attempt < 100; ++attempt)); do
    ! "$@" 2>/dev/null || return 0
    sleep 0.1
  done
  fail "in vain: $*"
}
property() { systemctl show -p "$1" --value "$unit"; }
is() { [[ $(property "$1") == "$2" ]]; }
healthy() { sage-server --health-check unix:/run/sage/sage.sock; }
answered() { sagectl info --json | tr ',' '\n' | grep -q '"requests_ok": *"*[1-9]'; }

step 'It starts with the system'
await healthy
is ActiveState active || fail 'not active'
sagectl verify --seqlen 512 --head-dim 64,128 --density 0.25

step 'It is locked in'
pid=$(property MainPID)
readonly status=/proc/$pid/status
grep -qP '^Uid:\t'"$(id -u sage)\t" "$status" || fail 'not user sage'
grep -qP '^CapBnd:\t0+$' "$status" || fail 'it could get capabilities'
grep -qP '^NoNewPrivs:\t1$' "$status" || fail 'it could get privileges'
grep -qP '^Seccomp:\t2$' "$status" || fail 'it may call the whole kernel'
[[ $(stat -c '%U:%G %a' /run/sage) == 'sage:sage 750' ]] || fail 'others may enter /run/sage'
# Not even root could write there, seen as the server sees it.
for place in / /usr /etc /var /home /root; do
  ! nsenter --target "$pid" --mount touch "$place/written" 2>/dev/null || fail "$place can be written"
done
nsenter --target "$pid" --mount sh -c 'touch /run/sage/written && rm /run/sage/written' || fail '/run/sage cannot be written'

step 'A crash: it comes back'
kill -KILL "$pid"
await is NRestarts 1
await healthy
[[ $(property MainPID) != "$pid" ]] || fail 'the same process'
sagectl verify --seqlen 512

step 'A wrong setting: it says so, and stays away'
cp "$settings" /root/settings
echo 'no-such-setting = 1' >>"$settings"
systemctl restart "$unit" || true # whether it waits for the end of the process or not
await is ActiveState failed
is ExecMainStatus 2 || fail "exit status $(property ExecMainStatus)"
is NRestarts 0 || fail 'it was started again'
journalctl --no-pager -q -n 5 -u "$unit" | grep -m 1 'no-such-setting' || fail 'it does not say why'
cp /root/settings "$settings"
systemctl start "$unit"
await healthy

step 'Under load it drains, and is not started again'
sagectl load --seqlen 512 --duration 60s --concurrency 2 >/root/load.log 2>&1 &
load=$!
await answered
begin=$SECONDS
systemctl stop "$unit"
printf 'stopped after %d s\n' "$((SECONDS - begin))"
((SECONDS - begin <= drain_seconds)) || fail 'it took too long'
for outcome in 'Result success' 'ExecMainStatus 0' 'ActiveState inactive'; do
  # shellcheck disable=SC2086
  is $outcome || fail "it did not end in peace: no $outcome"
done
kill "$load" 2>/dev/null || true
wait "$load" || true # it saw the server go
systemctl start "$unit"
await healthy

step 'An upgrade'
pid=$(property MainPID)
dpkg -i /root/"$package"_*.deb >/root/dpkg.log 2>&1 || fail "$(tail -n 5 /root/dpkg.log)"
[[ $(property MainPID) != "$pid" ]] || fail 'the old one still runs'
await healthy
sagectl verify --seqlen 512

step 'Removal'
dpkg --remove "$package" >/root/dpkg.log 2>&1 || fail "$(tail -n 5 /root/dpkg.log)"
[[ ! -e /run/sage ]] || fail 'it still runs, or left /run/sage'
