#!/bin/sh
# Which lines the tests execute: of hotfd/ by coverage.py, in every process that a test starts; of csrc/ by gcov, over
# the C tests, the replayed fuzz corpus, and all that Python does with the extension. Prints two tables.
#
# It works on a copy of the tree in build/coverage/, since the extension is built once more with --coverage, and what
# others use stays as it is. A process that is killed by SIGKILL writes nothing down, so what only such processes have
# executed is missing: the figures are a lower bound.
#
# usage: scripts/coverage.sh PYTHON [PYTEST-ARGUMENT...]
set -eu

python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
out=build/coverage
tree=$(pwd)/$out/tree

"$python" -c 'import coverage' 2>/dev/null ||
    "$python" -m pip install --quiet --disable-pip-version-check 'coverage>=7.10'
command -v gcov >/dev/null || {
    echo "gcov is missing: it comes with gcc" >&2
    exit 1
}

rm -rf "$out"
mkdir -p "$tree"
cp -a csrc docs examples hotfd scripts tests setup.py ./*.toml ./*.md Makefile MANIFEST.in .ci "$tree"
cd "$tree"
rm -f hotfd/_core/_native*
CFLAGS="--coverage -O0" "$python" setup.py --quiet build_ext --inplace

gcc_flags="--coverage -O0"
make --no-print-directory -C tests/csrc check BUILD="$tree/build/ctests" COVERAGE="$gcc_flags"
make --no-print-directory -C tests/fuzz/csrc check BUILD="$tree/build/cfuzz" COVERAGE="$gcc_flags"

# The copy goes before the package that is installed in place.
export PYTHONPATH="$tree" COVERAGE_FILE="$tree/.coverage" COVERAGE_PROCESS_START="$tree/pyproject.toml"
status=0
if [ $# -gt 0 ]; then
    "$python" -m coverage run -m pytest "$@" || status=$?
else
    "$python" -m coverage run -m pytest --numprocesses "$(($(nproc) * 2))" --dist worksteal -m 'not alone and not long' ||
        status=$?
fi
[ "$status" = 0 ] || echo "some tests have failed; the figures are of those that ran" >&2

"$python" -m coverage combine --quiet
"$python" -m coverage report
echo
"$python" scripts/c_coverage.py "$tree/build"
exit "$status"
