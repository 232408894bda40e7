#!/bin/sh
# Check the C core: its format, and its tests under the sanitizers. CLANG_FORMAT and CC may name other tools.
set -eu
cd "$(dirname "$0")/.."

clang_format=${CLANG_FORMAT:-clang-format}
if [ -z "${CLANG_FORMAT:-}" ] && [ -x .venv/bin/clang-format ]; then
    clang_format=.venv/bin/clang-format
fi
"$clang_format" --dry-run -Werror csrc/*.c csrc/*.h tests/csrc/*.c tests/csrc/*.h \
    tests/fuzz/csrc/*.c tests/fuzz/csrc/*.h tests/performance/*.c
make --no-print-directory -C tests/csrc check
make --no-print-directory -C tests/fuzz/csrc check
