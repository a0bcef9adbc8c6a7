#!/bin/sh
# Compiles the portable attention kernel for another processor, and checks it there: under qemu, if
# it is installed. Usage: tests/cross_compile.sh [COMPILER [EMULATOR]]
set -eu
compiler=${1:-aarch64-linux-gnu-g++}
emulator=${2:-qemu-aarch64}
kernels=services/attention_worker/kernels
program=$(mktemp)
trap 'rm -f "$program"' EXIT
"$compiler" -std=c++17 -O3 -ffp-contract=off -pthread -static -Wno-maybe-uninitialized -I "$kernels" \
    "$kernels/attention.cpp" "$kernels/pool.cpp" "$kernels/path_portable.cpp" \
    tests/kernels/check_attention.cpp -o "$program"
if command -v "$emulator" > /dev/null; then
    "$emulator" "$program" portable
else
    echo "compiled; without $emulator nothing was run"
fi
