# For scripts that change the machine: all changes go through here, so that --dry-run shows them instead.
# shellcheck shell=bash

# Where /sys, /dev and /proc are looked for: another place in tests.
root=${NTY_ROOT:-}
dry_run=no

# put VALUE FILE: writes a value to a file of the kernel's.
put() {
    if [ "$dry_run" = yes ]; then
        printf 'would write "%s" to %s\n' "$1" "${2#"$root"}"
    else
        printf '%s' "$1" >"$2" || die "$2: cannot write \"$1\""
    fi
}

# act COMMAND...: runs a command.
act() {
    if [ "$dry_run" = yes ]; then
        printf 'would run %s\n' "$*"
    else
        "$@"
    fi
}

need_root() {
    [ "$dry_run" = yes ] || [ "$(id -u)" = 0 ] || die "this takes root; --dry-run shows what would be done"
}
