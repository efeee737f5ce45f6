#!/bin/sh
# Install the system packages that are missing, and nothing else.
#
#   system_libraries.sh STAMP [run|test]
#
# oneDNN is optional at run time: when it cannot be installed, that is said once, remembered in
# the file STAMP, and not tried again until STAMP is gone (make libraries). Everything else is
# needed; without it the exit code is 1.
set -eu

stamp=$1
purpose=${2:-run}

has_library() { python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
has_command() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! has_command sudo; then
        return 1
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@" 2>/dev/null
    fi
}

install() {
    has_command apt-get || return 1
    # The package lists of a fresh machine are empty or old: refresh them when the first try fails.
    apt_install "$@" || { as_root apt-get -qq update >&2 && apt_install "$@"; }
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1
}

needed=
has_command git || needed="$needed git"
if [ "$purpose" = test ]; then
    has_command shellcheck || needed="$needed shellcheck"
fi
if [ -n "$needed" ]; then
    echo "Installing$needed ..." >&2
    # shellcheck disable=SC2086 # a list of package names
    install $needed || {
        echo "error: missing system packages:$needed. Install them as root: apt-get install$needed" >&2
        exit 1
    }
fi

if ! has_library libdnnl.so.2; then
    if [ -e "$stamp" ]; then
        exit 0
    fi
    echo "Installing libdnnl2 (oneDNN) ..." >&2
    if ! { install libdnnl2 && has_library libdnnl.so.2; }; then
        mkdir -p "$(dirname "$stamp")"
        : >"$stamp"
        echo "note: oneDNN is not installed and apt-get could not install it; going on without it (slower general products)." >&2
        echo "note: to add it, as root: apt-get install libdnnl2; or try again: make libraries" >&2
    fi
fi
