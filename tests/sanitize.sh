#!/bin/sh
# Runs the tests of the kernels under the address and undefined-behaviour sanitizers.
# Usage: tests/sanitize.sh [PYTHON]
set -eu
python=$(realpath --no-symlinks "${1:-.venv/bin/python}")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -r common services tests setup.py pyproject.toml README.md "$tree"
cd "$tree"
rm -f services/*/kernels/*.so
sed -i 's/"-O3"/"-O1"/' setup.py  # a quarter of the time to compile
flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
CFLAGS="$flags" CXXFLAGS="$flags" LDFLAGS="$flags" "$python" setup.py --quiet build_ext --inplace
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc OMP_NUM_THREADS=1 \
    "$python" -m pytest -q --capture=no -p no:cacheprovider -o timeout=600 \
    tests/unit/layer_worker/test_row_math.py tests/unit/attention_worker/test_native_engine.py \
    tests/unit/attention_worker/test_engine.py tests/unit/attention_worker/test_attention.py
