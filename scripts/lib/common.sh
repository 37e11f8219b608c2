# Shared by the scripts that build: how what they need gets installed.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

# need COMMAND:PACKAGE ...: installs the packages whose command (or file pattern, when it starts with /) is missing.
need() {
    local missing=() pair probe
    for pair in "$@"; do
        probe=${pair%%:*}
        case $probe in
            /*) compgen -G "$probe" >/dev/null && continue ;;
            *) command -v "$probe" >/dev/null 2>&1 && continue ;;
        esac
        missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] || die "missing: ${missing[*]} (as root: apt-get install ${missing[*]})"
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust 1.95 or newer first (https://rustup.rs)"
