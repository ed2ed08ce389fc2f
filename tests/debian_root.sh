# shellcheck shell=bash
# Sourced by tests that need a clean Debian 12: debian_root FOLDER fills FOLDER with the smallest one, by debootstrap
# and as root. A copy is kept in build/ for the next time.

debian_root() {
  local folder=$1 kept
  kept=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/debian-root.tar
  if [[ ! -s $kept ]]; then
    local fresh
    fresh=$(mktemp -d)
    debootstrap --variant=minbase bookworm "$fresh" >"${kept%.tar}.log" 2>&1 || {
      tail -n 20 "${kept%.tar}.log" >&2
      return 1
    }
    rm -f "$fresh"/var/cache/apt/archives/*.deb
    tar -C "$fresh" -cf "$kept.new" . && mv "$kept.new" "$kept"
    rm -rf "$fresh"
  fi
  mkdir -p "$folder"
  tar -C "$folder" -xf "$kept"
  chmod 755 "$folder" # which mktemp made for root alone: nobody else would find anything in it
}
