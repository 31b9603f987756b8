#!/bin/bash
# A backend beside the shared library, below it, named by the environment, and linked into a program. The twin stands in
# for a device.
# usage: backend.sh SHARED_PROGRAM STATIC_PROGRAM LIBRARY TWIN
set -u
. "$(dirname "$0")/../shell.sh"
shared=$(realpath "$1") static=$(realpath "$2") library=$(realpath "$3") twin=$(realpath "$4")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset KVSIM_BACKEND_DIR
plugin=libkvsim_cuda.so
soname=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
mkdir -p "$work/beside" "$work/below/kvsim" "$work/alone" "$work/named"
for folder in beside below alone; do
    cp "$library" "$work/$folder/$soname"
done
cp "$twin" "$work/beside/$plugin"
cp "$twin" "$work/below/kvsim/$plugin"
cp "$twin" "$work/named/$plugin"
installed=$(strings -a "$library" | grep -m 1 "^/.*/kvsim$")

finds_it() { # FOLDER_OF_THE_LIBRARY
    [ "$(cd / && LD_LIBRARY_PATH=$work/$1 "$shared")" = "duplicates: 1" ]
}

finds_it_by_name() {
    [ "$(cd / && LD_LIBRARY_PATH=$work/alone KVSIM_BACKEND_DIR=$work/named "$shared")" = "duplicates: 1" ]
}

says_why_not() { # TEXT
    local answer status
    answer=$(cd "$work/named" && LD_LIBRARY_PATH=$work/alone "$shared")
    status=$?
    echo "$answer"
    [ $status -eq 2 ] && [[ $answer == "no context: backend not available: "*"$1"* ]]
}

is_linked_in() {
    [ "$(cd / && "$static")" = "duplicates: 1" ] && ! readelf -d "$static" | grep -q 'libkvsim'
}

check "beside the library" finds_it beside
check "in kvsim below the library" finds_it below
check "where KVSIM_BACKEND_DIR says" finds_it_by_name
if [ -n "$installed" ] && [ -e "$installed/$plugin" ]; then
    skip "nowhere: the reason" "$installed/$plugin is there"
else
    check "nowhere, not even in the current folder: the reason" says_why_not "there is no $plugin in $work/alone"
fi
check "linked into a program, with the static library" is_linked_in
finish backend 5
