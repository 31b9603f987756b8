#!/bin/bash
# What can be seen of the CUDA plug-in without a GPU: its one symbol, what it links, the machine code of each
# architecture, and that the matrix instructions of sm_90a are there.
# usage: code.sh PLUGIN LIBKVSIM [CUOBJDUMP]
set -uo pipefail
. "$(dirname "$0")/../shell.sh"
plugin=$1 library=$2 cuobjdump=${3-}

only_symbol() {
    [ "$(nm -D --defined-only "$plugin" | awk '{print $3}')" = kvsim_backend_query ]
}
no_cuda_library() {
    ! readelf -d "$1" | grep -E 'NEEDED.*(cuda|cublas|stdc)'
}
has_instruction() { # INSTRUCTION KERNEL
    "$cuobjdump" -sass -arch sm_90a "$plugin" | awk -v kernel="$2" -v instruction="$1" '
        /Function :/ { inside = index($0, kernel) > 0 }
        inside && index($0, instruction) > 0 { found = 1 }
        END { exit !found }'
}
has_architecture() {
    "$cuobjdump" --list-elf "$plugin" | grep "sm_$1\."
}

check "the plug-in exports kvsim_backend_query alone" only_symbol
check "the plug-in links neither the CUDA runtime nor cuBLAS" no_cuda_library "$plugin"
check "libkvsim links nothing of CUDA" no_cuda_library "$library"
if [ -x "$cuobjdump" ]; then
    for architecture in 80 86 89 90a; do
        check "machine code for sm_$architecture" has_architecture "$architecture"
    done
    check "bf16 by HGMMA" has_instruction HGMMA.64x192x16.F32.BF16 pair_workILi1E
    check "f16 by HGMMA" has_instruction HGMMA.64x192x16.F32 pair_workILi2E
    check "e4m3 by QGMMA" has_instruction QGMMA.64x96x32.F32.E4M3.E4M3 pair_workILi3E
    check "e5m2 by QGMMA" has_instruction QGMMA.64x96x32.F32.E5M2.E5M2 pair_workILi4E
    check "i8 by IGMMA" has_instruction IGMMA.64x192x32.S8.S8 pair_workILi5E
    check "split f32 by HGMMA" has_instruction HGMMA.64x192x16.F32 pair_workILi6E
    check "sign bits by BGMMA" has_instruction BGMMA.64x192x256.AND.POPC bit_workILi0E
    check "active sets by BGMMA" has_instruction BGMMA.64x192x256.AND.POPC bit_workILi1E
    check "rows fetched by the bulk tensor copy" has_instruction UTMALDG.2D.MULTICAST pair_workILi1E
else
    for number in {1..13}; do
        skip "machine code, $number" "there is no cuobjdump"
    done
fi
finish cuda_code 16
