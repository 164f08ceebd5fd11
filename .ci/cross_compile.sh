#!/bin/sh
# Do the C headers compile, without a warning, for every platform we build wheels for? And do lanes, tiles and steps of
# optimizers keep their contract on aarch64, run by qemu-aarch64? Seconds, once zig has built the C library of that one
# target.
#
#   .ci/cross_compile.sh [python]        the Python of a virtual environment; zig's compiler is installed into it
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
"$python" -m pip install --quiet --disable-pip-version-check ziglang==0.17.1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

flags="-O3 -g0 -fno-math-errno -fno-trapping-math -ffp-contract=off -Wall -Wextra -Werror"
compile() { "$python" -m ziglang cc $flags "$@"; }

for target in \
    x86_64-linux-musl:x86_64_v2 x86_64-linux-musl:x86_64_v3 x86_64-linux-musl:x86_64_v4 \
    x86_64-windows-gnu:x86_64_v3 x86_64-macos:x86_64_v3 aarch64-linux-gnu: aarch64-macos: aarch64-windows-gnu: \
    wasm32-wasi:generic+simd128
do
    platform=${target%%:*} cpu=${target#*:}
    for bits in 32 64; do
        for driver in simd tile optimizers; do
            compile -target "$platform" ${cpu:+-mcpu=$cpu} -DFASTRNN_REAL=$bits \
                -c tests/${driver}_driver.c -o "$out/object"
        done
    done
    echo "$target compiles"
done

found() { command -v "$1" > "$out/log"; }
if ! found qemu-aarch64 && found apt-get && [ "$(id -u)" = 0 ]; then
    { apt-get update && apt-get install -y --no-install-recommends qemu-user; } > "$out/log" 2>&1 ||
        tail -n 3 "$out/log"
fi
if found qemu-aarch64; then
    for bits in 32 64; do
        for driver in simd tile optimizers; do
            compile -target aarch64-linux-musl -static -DFASTRNN_REAL=$bits \
                tests/${driver}_driver.c -o "$out/driver" -lm
            qemu-aarch64 "$out/driver" 32749
        done
    done
else
    echo "aarch64 compiled, NOT run: qemu-aarch64 is not installed"
fi
