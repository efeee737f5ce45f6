#!/bin/sh
# Install the system packages that are missing, and nothing else: system_packages.sh [run|test].
#
# To build and run, git is needed (Swift's package manager fetches with it); to test, shellcheck too.
# Exit code 1 and a message with the command to type when apt-get cannot be used.
set -eu

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

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1
}

missing=
for command in git $([ "${1:-run}" = test ] && echo shellcheck); do
    has_command "$command" || missing="$missing $command"
done
[ -n "$missing" ] || exit 0

echo "Installing$missing ..." >&2
# The package lists of a fresh machine are empty or old: refresh them when the first try fails.
# shellcheck disable=SC2086 # a list of package names
if ! has_command apt-get || ! { apt_install $missing || { as_root apt-get -qq update >&2 && apt_install $missing; }; }; then
    echo "error: missing system packages:$missing. Install them as root: apt-get install$missing" >&2
    exit 1
fi
