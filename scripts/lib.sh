# shellcheck shell=bash
# lib.sh - what scripts/run, scripts/test and .ci/run share; sourced, never run
#
# Sets: root (the checkout), build_dir, program (what is built there), python. The system's own tools come
# first in PATH: a Python from elsewhere would not find the packages the system installed for its own.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
# shellcheck disable=SC2034 # used by those who source this
build_dir=${BUILD_DIR:-$root/build} python=/usr/bin/python3
# shellcheck disable=SC2034
program=$build_dir/src/slirp4netns
export PATH PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8

say() {
    printf '%s\n' "$*"
}

# fail WHAT [NEXT]: what failed, and what to do about it; ends the script.
fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    if [ $# -gt 1 ]; then
        printf '  %s\n' "${@:2}" >&2
    fi
    exit 1
}

# seconds_since START: START is a value of $EPOCHREALTIME; prints seconds with one decimal.
seconds_since() {
    local now=${EPOCHREALTIME/[.,]/} then=${1/[.,]/}

    printf '%d.%d' $(((now - then) / 1000000)) $(((now - then) / 100000 % 10))
}

# build DIRECTORY [MESON OPTION...]: sets up once, then builds; quiet unless it fails.
build() {
    local dir=$1 log
    shift
    if [ -e "$dir" ] && [ ! -w "$dir" ]; then
        fail "$dir cannot be written by $(id -un)" \
            "It was probably built as another user: remove it, or choose another place with BUILD_DIR=DIRECTORY."
    fi
    mkdir -p "$dir" || fail "cannot make $dir" "Choose another place with BUILD_DIR=DIRECTORY."
    log=$dir/build.log
    if [ ! -f "$dir/build.ninja" ]; then
        if ! meson setup "$dir" "$root" "$@" >"$log" 2>&1; then
            cat "$log" >&2
            fail "meson setup failed; its messages are above and in $log" \
                "A library that is missing is named there; scripts/deps.sh build installs all of them on Debian."
        fi
    fi
    if ! ninja -C "$dir" >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        fail "the build failed; its last messages are above, all of them in $log"
    fi
}
