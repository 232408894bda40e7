#!/bin/sh
# Make the environment in which hotfd is developed, tested and shown: system packages, virtual environment, C core.
#
#   PYTHON  the interpreter, 3.11 or newer (default: python3)
#   VENV    where the environment goes (default: .venv)
#
# Quick when nothing has changed since the last time. System packages are installed with apt-get by root; for
# anybody else the command that root has to run is printed, and the status is 1.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
stamp=$VENV/.hotfd-setup

say() {
    printf 'setup: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

is_current() {
    [ -e "$stamp" ] && [ -x "$VENV/bin/python" ] || return 1
    set -- hotfd/_core/_native*.so
    [ -e "$1" ] || return 1
    [ -z "$(find pyproject.toml setup.py csrc scripts/setup.sh -newer "$stamp" -print -quit)" ]
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Whether the C compiler finds a header.
has_header() {
    printf '#include <%s>\n' "$1" | "$CC" -E -x c - >/dev/null 2>&1
}

# Print the Debian packages that are missing, one a line. What is there but not from Debian counts too.
missing_packages() {
    # Packages of an interpreter that is not the distribution's own are named after it: python3.12-venv.
    package=$(basename "$PYTHON")
    if ! has "$PYTHON"; then
        printf '%s\n' "$package" "$package-venv" "$package-dev"
    else
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo "$package-venv"
        headers=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
        [ -e "$headers/Python.h" ] || echo "$package-dev"
    fi
    has "$CC" && has_header stdio.h || printf '%s\n' gcc libc6-dev
    has "$CC" && has_header sys/capability.h || echo libcap-dev # python-prctl is built against it
    has redis-cli && has redis-benchmark || echo redis-tools    # the real clients of tests and demo
}

install_packages() {
    wanted=$(missing_packages | tr '\n' ' ')
    [ -n "$wanted" ] || return 0
    has apt-get || fail "missing: $wanted(the names are Debian's; install them with your system's own tool)"
    # shellcheck disable=SC2086 # a list of words
    set -- apt-get install --yes --no-install-recommends $wanted
    [ "$(id -u)" = 0 ] || fail "missing: ${wanted}- install them, and try again:  sudo $*"
    say "installing $wanted"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if ! { apt-get update && "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "could not install: $wanted"
    fi
    rm -f "$log"
}

check_python() {
    "$PYTHON" -c '' 2>/dev/null || fail "$PYTHON does not run; try it by hand, or name another: PYTHON=python3 make ..."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail \
        "$PYTHON is $("$PYTHON" -V 2>&1); hotfd needs Python 3.11 or newer: install python3.11, python3.11-venv and" \
        "python3.11-dev, and name it:  PYTHON=python3.11 make ..."
}

CC=${CC:-$(command -v cc || command -v gcc || echo gcc)}
if is_current; then
    exit 0
fi
if has "$PYTHON"; then
    check_python
fi
install_packages
check_python
[ -z "$(missing_packages)" ] || fail "still missing after the installation: $(missing_packages | tr '\n' ' ')"

if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    say "making $VENV with $("$PYTHON" -V)"
    "$PYTHON" -m venv --clear "$VENV"
fi
say "installing hotfd and its tools into $VENV, and building the C core (a minute the first time)"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test,lint,uvloop,config,etcd]'
"$VENV/bin/python" -c 'import hotfd._core' || fail "the C core was built and does not load"
touch "$stamp"
