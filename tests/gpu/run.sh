#!/bin/bash
# Build the CUDA backend with nvcc alone, check it, time it: for a machine with a GPU and little else.
# usage: tests/gpu/run.sh BUILD_FOLDER [check|compute|sanitize|bench|torch]...
# KVSIM_GPU_EXTRA: a folder with check.h, libcheck.a and xxhash.h, where the system has none (for `compute`).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:?a folder to build in}
shift
mkdir -p "$build"
python=${KVSIM_PYTHON:-python3}
blas=$("$python" -c 'import nvidia.cu13; print(list(nvidia.cu13.__path__)[0])' 2>/dev/null || true)
include=(-I"$root/include" -I"$root/lib")
if [ -n "$blas" ]; then
    include+=(-I"$blas/include")
    export LD_LIBRARY_PATH="$blas/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
if [ -n "${KVSIM_GPU_EXTRA-}" ]; then
    include+=(-I"$KVSIM_GPU_EXTRA")
fi
architecture=${KVSIM_CUDA_ARCHITECTURE:-90a}

name_of() {
    basename "$1" | sed 's/\.[^.]*$//'
}
compile_kernels() {
    local source
    for source in "$root"/cuda/*.cu; do
        nvcc -std=c++17 -O3 -lineinfo -diag-suppress=177 -gencode=arch=compute_"$architecture",code=sm_"$architecture" \
            "${include[@]}" -Xcompiler -Wall,-fPIC -c "$source" -o "$build/cuda_$(name_of "$source").o" &
    done
    for source in device_fixture check_device bench_device; do
        cc -std=c11 -O2 -Wall -Wextra "${include[@]}" -c "$root/tests/gpu/$source.c" -o "$build/$source.o" &
    done
    cc -std=c11 -O2 "${include[@]}" -c "$root/lib/pages/format.c" -o "$build/format.o" &
    wait
}
compile_library() {
    local source
    for source in "$root"/lib/{base,compute,findings,kernels,pages,pairs,report}/*.c "$root"/lib/kvsim.c \
        "$root"/lib/backend/{accelerator,loader}.c "$root"/lib/snapshot/unavailable.c; do
        case $source in
        *compress_zstd.c) continue ;;
        esac
        cc -std=c11 -O2 -ffp-contract=off "${include[@]}" '-DKVSIM__BACKEND_FOLDER="/nowhere"' \
            -c "$source" -o "$build/lib_$(name_of "$source").o" &
    done
    nvcc -x c -O2 -D_GNU_SOURCE= '-DKVSIM_TEST_NAME="test_cuda_compute"' -I"$root/include" \
        -c "$root/tests/gpu/engine_memory.c" -o "$build/test_engine_memory.o" &
    for source in unit/test_device_compute unit/kvsim_check; do
        cc -std=c11 -O2 -D_GNU_SOURCE= '-DKVSIM_TEST_DEFAULT_DATA="/nowhere"' \
            "-DKVSIM_TEST_SOURCE=\"$root\"" "${include[@]}" -I"$root/tests/unit" \
            -c "$root/tests/$source.c" -o "$build/test_$(name_of "$source").o" &
    done
    wait
}

compile_kernels
for program in check_device bench_device; do
    nvcc -o "$build/$program" "$build/$program.o" "$build/device_fixture.o" "$build/format.o" "$build"/cuda_*.o -ldl -lm
done
for step in "$@"; do
    echo "== $step"
    case $step in
    check) "$build/check_device" ;;
    compute)
        compile_library
        nvcc -o "$build/test_cuda_compute" "$build"/test_*.o "$build"/lib_*.o "$build"/cuda_*.o \
            ${KVSIM_GPU_EXTRA:+-L"$KVSIM_GPU_EXTRA"} -lcheck -lsubunit -lrt -ldl -lm -lpthread
        "$build/test_cuda_compute"
        ;;
    sanitize)
        for tool in memcheck racecheck synccheck; do
            compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/check_device" few
        done
        ;;
    bench)
        for type in bf16 f8; do
            "$build/bench_device" 32768 "$type"
        done
        "$build/bench_device" 100000 bf16
        ;;
    torch) "$python" "$root/tests/gpu/torch_pairs.py" ;;
    esac
done
