#!/bin/bash
# What the libraries show to the outside: exactly the names of lib/kvsim.map, and few needs.
# usage: symbols.sh SOURCE_DIR BUILD_DIR
set -u
source=$(cd "$1" && pwd) build=$(cd "$2" && pwd)
. "$source/tests/shell.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
shared=$build/lib/libkvsim.so
static=$build/lib/libkvsim.a
if [ ! -e "$shared" ] || [ ! -e "$static" ]; then
    echo "$build/lib has no libkvsim" >&2
    exit 1
fi

sed -n '/global:/,/local:/s/^ *\(kvsim_[a-z0-9_]*\);.*/\1/p' "$source/lib/kvsim.map" | sort >"$work/map"
nm -D --defined-only --format=posix "$shared" | awk '$2 != "A" {sub(/@.*/, "", $1); print $1}' | sort >"$work/shared"
nm --defined-only --extern-only --format=posix "$static" | awk 'NF > 2 {print $1}' | sort >"$work/static"
# A declaration begins with KVSIM_API; its name is the first one followed by a parenthesis.
cat "$source"/include/kvsim/*.h | grep -v '^ *#' | tr '\n' ' ' | grep -oE 'KVSIM_API [^;(]*\(' |
    sed 's/.*[ *]\(kvsim_[a-z0-9_]*\)($/\1/' | sort >"$work/headers"

map_lists_something() {
    [ "$(wc -l <"$work/map")" -ge 20 ]
}

soname_is_the_abi_version() {
    local abi
    abi=$(sed -n 's/^#define KVSIM_ABI_VERSION \([0-9]*\)$/\1/p' "$source/include/kvsim/version.h")
    readelf -d "$shared" | grep -F "(SONAME)" | grep -qF "[libkvsim.so.$abi]"
}

needs_few_libraries() {
    ! readelf -d "$shared" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libjansson|libzstd|ld-linux.*)\.so'
}

stack_is_not_executable() { # FILE
    readelf -lW "$1" | grep -E '^ *GNU_STACK' | grep -q ' RW '
}

# An object without the note makes the linker give the whole program an executable stack.
archive_marks_its_stack() {
    readelf -SW "$static" | grep -q '\.note\.GNU-stack' &&
        ! readelf -SW "$static" | grep '\.note\.GNU-stack' | grep -q ' X '
}

has_no_text_relocations() {
    ! readelf -d "$shared" | grep -q TEXTREL
}

layouts_hold() { # COMPILER
    "$1" -std=c11 -Wall -Wextra -Werror -I"$source/include" -fsyntax-only "$source/tests/abi/layout.c"
}

check "the map lists the names" map_lists_something
check "the shared library exports the names of the map" diff "$work/map" "$work/shared"
check "each name of the map is declared, and no other" diff "$work/map" "$work/headers"
check "the static library shows the same names" diff "$work/map" "$work/static"
check "the SONAME is the ABI version" soname_is_the_abi_version
check "the shared library needs libc, libm, jansson and zstd at most" needs_few_libraries
check "the stack of the shared library is not executable" stack_is_not_executable "$shared"
check "the static library asks for no executable stack" archive_marks_its_stack
check "the shared library has no text relocations" has_no_text_relocations
check "sizes and offsets of the public structs, gcc" layouts_hold gcc
if command -v clang >/dev/null; then
    check "sizes and offsets of the public structs, clang" layouts_hold clang
else
    skip "sizes and offsets of the public structs, clang" "clang is not installed"
fi
finish abi 11
