#!/bin/sh
# The Python tests. With arguments, pytest with those; without, all of them: most wait for processes more than they
# compute, so they run beside each other, two on a processor; those that measure, or look at the whole machine, run
# alone afterwards. Those marked long are run by targets of their own.
#
# usage: scripts/test.sh PYTHON [ARGUMENT...]
set -eu

python=$1
shift
# Thousands of processes import the package: it is compiled once, also where Python is told to write nothing down.
"$python" -m compileall -q hotfd examples
if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi
status=0
"$python" -m pytest --numprocesses "$(($(nproc) * 2))" --dist worksteal -m 'not alone and not long' || status=$?
"$python" -m pytest -m 'alone and not long' || status=$?
exit "$status"
