#!/bin/bash
# deps.sh - install the Debian packages of the given groups of scripts/packages, if any is missing
#
# Usage: scripts/deps.sh GROUP...          (build run test bench ci)
#        SKIP_DEPS=1 scripts/deps.sh ...   believe that everything is there
#
# Calls apt only when something is missing, so it works offline once everything is installed. On another
# distribution it prints what to install and ends with status 1.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

APT_SECONDS_MAX=600 # for one call of apt-get, waiting for another one's lock included
LOCK_SECONDS_MAX=180

# list GROUP...: lines "package<TAB>reason" of the groups, each package once
list() {
    awk -v groups=" $* " '
        /^\[/       { group = substr($1, 2, length($1) - 2); next }
        /^[ \t]*(#|$)/ { next }
        index(groups, " " group " ") && !seen[$1]++ {
            reason = $0
            sub(/^[^#]*#[ \t]*/, "", reason)
            printf "%s\t%s\n", $1, reason
        }' "$root/scripts/packages"
}

# missing PACKAGE...: those that are not installed
missing() {
    local name status

    for name in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)
        [ "$status" = installed ] || printf '%s\n' "$name"
    done
}

# apt ARGUMENT...: apt-get as root, without questions; another apt that runs meanwhile is waited for
apt() {
    local deadline=$((SECONDS + LOCK_SECONDS_MAX)) log status

    log=$(mktemp)
    while :; do
        status=0
        timeout --foreground "$APT_SECONDS_MAX" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get \
            -o DPkg::Lock::Timeout="$LOCK_SECONDS_MAX" -q -y "$@" </dev/null >"$log" 2>&1 || status=$?
        if [ "$status" -ne 0 ] && [ "$SECONDS" -lt "$deadline" ] && grep -q 'Could not get lock' "$log"; then
            sleep 2
            continue
        fi
        break
    done
    [ "$status" -eq 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

groups=("$@")
[ ${#groups[@]} -gt 0 ] || fail "no group named" "usage: scripts/deps.sh GROUP... (build run test bench ci)"
for group in "${groups[@]}"; do
    grep -qx "\[$group\]" "$root/scripts/packages" ||
        fail "there is no group \"$group\" in scripts/packages" "Groups: build run test bench ci."
done
[ "${SKIP_DEPS:-}" != 1 ] || exit 0

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    {
        say "deps.sh: this is not a Debian system, so nothing can be installed for you. Needed, by Debian's names:"
        list "${groups[@]}" | awk -F '\t' '{ printf "  %-22s %s\n", $1, $2 }'
        say "When all of it is there, run the same command again with SKIP_DEPS=1 in front."
    } >&2
    exit 1
fi

mapfile -t wanted < <(list "${groups[@]}" | cut -f 1)
mapfile -t absent < <(missing "${wanted[@]}")
[ ${#absent[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    elif command -v sudo >/dev/null && [ -t 0 ]; then
        say "Some packages are missing; sudo may ask for your password to install: ${absent[*]}"
        sudo -v || fail "sudo was refused" "As root: apt-get install --no-install-recommends ${absent[*]}"
        as_root=(sudo -n)
    else
        fail "packages are missing, and $(id -un) may not install them" \
            "As root: apt-get install --no-install-recommends ${absent[*]}" "Then run this again."
    fi
fi

say "installing: ${absent[*]}"
apt update || say "deps.sh: the package lists could not be updated; trying with what is there" >&2
apt install --no-install-recommends "${absent[@]}" ||
    fail "the packages could not be installed; apt-get's messages are above" \
        "By hand, as root: apt-get install --no-install-recommends ${absent[*]}"
mapfile -t absent < <(missing "${wanted[@]}")
[ ${#absent[@]} -eq 0 ] || fail "still missing after the installation: ${absent[*]}"
