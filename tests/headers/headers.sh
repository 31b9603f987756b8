#!/bin/bash
# Each public header compiles alone as C11 and C++17 with gcc and clang, and names no vendor's types.
# usage: headers.sh SOURCE_DIR
set -u
source=$(cd "$1" && pwd)
. "$source/tests/shell.sh"

compile_alone() { # COMPILER LANGUAGE STANDARD HEADER
    # Twice, for its guard; the typedef because a translation unit must not be empty.
    printf '#include <kvsim/%s>\n#include <kvsim/%s>\ntypedef int compiled;\n' "$4" "$4" |
        "$1" -x "$2" -std="$3" -Wall -Wextra -Wshadow -Werror -pedantic -I"$source/include" -fsyntax-only -
}

includes_only_the_standard_library() { # HEADER
    ! grep -E '^ *# *include' "$1" | grep -vE '<(stddef|stdint|stdio)\.h>|<kvsim/[a-z]+\.h>'
}

names_no_cuda_type() { # HEADER
    ! grep -nE 'cuda_runtime|cuda[A-Z][A-Za-z]*_t|\bCU(stream|device|context|deviceptr)\b|cublas' "$1"
}

for path in "$source"/include/kvsim/*.h; do
    header=${path##*/}
    for compiler in gcc clang; do
        for language in "c c11" "c++ c++17"; do
            set -- $language
            what="$header alone, $compiler, $2"
            if command -v "$compiler" >/dev/null; then
                check "$what" compile_alone "$compiler" "$1" "$2" "$header"
            else
                skip "$what" "$compiler is not installed"
            fi
        done
    done
    check "$header includes only the standard library" includes_only_the_standard_library "$path"
    check "$header names no type of CUDA" names_no_cuda_type "$path"
done
finish headers 18
