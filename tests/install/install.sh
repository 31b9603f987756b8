#!/bin/bash
# Installs to one prefix, moves it to another, and builds a small program against it in each way that is offered.
# usage: install.sh SOURCE_DIR BUILD_DIR
set -u
source=$(cd "$1" && pwd) build=$(cd "$2" && pwd)
. "$source/tests/shell.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/moved
consumer=$source/tests/install/consumer.c

install_and_move() {
    cmake --install "$build" --prefix "$work/first" && mv "$work/first" "$prefix"
}

# The installed text files must not remember where they were built or first installed.
has_no_trace_of() { # PATH
    [ -d "$prefix" ] && ! grep -rIl --fixed-strings "$1" "$prefix"
}

pc() {
    PKG_CONFIG_PATH=$pc_dir pkg-config "$@" kvsim
}

by_pkg_config_shared() {
    cc -Wall -Werror $(pc --cflags) -o "$work/pc-shared" "$consumer" $(pc --libs) &&
        LD_LIBRARY_PATH=$lib_dir "$work/pc-shared"
}

# Only the archive, so that -lkvsim cannot find the shared library.
by_pkg_config_static() {
    mkdir -p "$work/archive" && cp "$lib_dir/libkvsim.a" "$work/archive/" &&
        cc -Wall -Werror $(pc --cflags) -o "$work/pc-static" "$consumer" -L"$work/archive" \
            $(pc --static --libs | sed "s|-L[^ ]*||") &&
        "$work/pc-static" && ! readelf -d "$work/pc-static" | grep libkvsim
}

# The example that is installed beside the library, built as its reader would, finds the one block stored twice.
embed_finds_the_duplicate() {
    cc -Wall -Werror $(pc --cflags) -o "$work/embed" "$prefix/share/doc/kvsim/examples/embed.c" $(pc --libs) &&
        LD_LIBRARY_PATH=$lib_dir "$work/embed" | tee "$work/embed.txt" &&
        grep -qE '^key +raw +5 +2 +1 ' "$work/embed.txt" && grep -qE '^value +raw +5 +2 +1 ' "$work/embed.txt"
}

version_matches() {
    [ -n "$(pc --modversion)" ] && [ "$(pc --modversion)" = "$(sed -n 's/#define KVSIM_VERSION_STRING "\(.*\)"/\1/p' "$prefix/include/kvsim/version.h")" ]
}

configure_and_run() { # NAME CMAKE_ARGUMENT
    cmake -S "$source/tests/install/$1" -B "$work/$1" "$2" && cmake --build "$work/$1" -j2 &&
        "$work/$1/shared" && "$work/$1/static"
}

# The shipped experiments and model are found beside the program, not in the source tree.
experiments_are_found() {
    (cd "$work" && "$prefix/bin/kvsim-experiments" --quick-test --dry-run >"$work/dry.txt") && cat "$work/dry.txt" &&
        "$prefix/bin/kvsim-experiments" --list | grep general_knowledge
}

adds_no_tests_and_no_install() {
    [ -e "$work/add_subdirectory/CMakeCache.txt" ] && [ ! -e "$work/add_subdirectory/kvsim/CTestTestfile.cmake" ] &&
        cmake --install "$work/add_subdirectory" --prefix "$work/nothing" &&
        [ -z "$(find "$work/nothing" -type f 2>/dev/null)" ]
}

check "install, and move the prefix" install_and_move
pc_dir=$(dirname "$(find "$prefix" -name kvsim.pc)")
lib_dir=$(dirname "$pc_dir")
check "no trace of the build folder" has_no_trace_of "$build"
check "no trace of the first prefix" has_no_trace_of "$work/first"
check "pkg-config --modversion" version_matches
check "pkg-config, shared" by_pkg_config_shared
check "pkg-config --static" by_pkg_config_static
check "embed.c" embed_finds_the_duplicate
check "find_package" configure_and_run find_package "-DCMAKE_PREFIX_PATH=$prefix"
check "add_subdirectory" configure_and_run add_subdirectory "-DKVSIM_SOURCE_DIR=$source"
check "add_subdirectory adds no tests and installs nothing" adds_no_tests_and_no_install
for file in include/kvsim/kvsim.h include/kvsim/version.h share/doc/kvsim/LICENSE share/doc/kvsim/README.md; do
    check "$file is installed" test -s "$prefix/$file"
done
if [ -e "$build/examples/kvsim-analyze" ]; then
    check "kvsim-analyze runs from the moved prefix" "$prefix/bin/kvsim-analyze" --version
    check "the manual page is installed" test -s "$prefix/share/man/man1/kvsim-analyze.1"
    check "the prompts are installed" test -s "$prefix/share/kvsim/models/prompts/default.txt"
    check "the model is installed" test -d "$prefix/share/kvsim/models/tiny"
else
    for what in "kvsim-analyze" "the manual page" "the prompts" "the model"; do
        skip "$what" "this build has no programs"
    done
fi
if [ -e "$build/examples/kvsim-experiments" ]; then
    check "kvsim-experiments runs from the moved prefix" experiments_are_found
    check "its manual page is installed" test -s "$prefix/share/man/man1/kvsim-experiments.1"
    check "the experiments are installed" test -s "$prefix/share/kvsim/experiments/general_knowledge.json"
    check "the engine transformers is installed" test -s "$prefix/share/kvsim/experiments/transformers_engine.py"
else
    for what in "kvsim-experiments" "its manual page" "the experiments" "the engine transformers"; do
        skip "$what" "this build has no kvsim-experiments"
    done
fi
finish install 22
