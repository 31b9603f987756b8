#!/bin/bash
# The documents: links lead somewhere, examples compile, the manual page is well formed.
# usage: docs.sh SOURCE_DIR
set -u
source=$(cd "$1" && pwd)
. "$source/tests/shell.sh"

# Targets of [text](target) that are files of the tree, without their anchors.
links_lead_somewhere() { # FILE
    local folder target broken=0
    folder=$(dirname "$1")
    while read -r target; do
        if [ ! -e "$folder/$target" ]; then
            echo "no such file: $target"
            broken=1
        fi
    done < <(grep -oE '\]\([^)#]+' "$1" | cut -c3- | grep -vE '^[a-z]+://')
    return $broken
}

example_compiles() {
    local example
    example=$(sed -n '/^```c$/,/^```$/p' "$source/README.md" | grep -v '^```')
    [ -n "$example" ] && gcc -x c -std=c11 -Wall -Wextra -Werror -I"$source/include" -fsyntax-only - <<<"$example"
}

page_is_well_formed() { # FILE
    local messages
    messages=$(groff -man -ww -z -t "$1" 2>&1)
    echo "$messages"
    [ -z "$messages" ]
}

for file in "$source"/*.md "$source"/docs/*.md; do
    check "links of ${file#"$source"/}" links_lead_somewhere "$file"
done
check "the example of README.md compiles" example_compiles
for file in "$source"/docs/man/*.1; do
    if command -v groff >/dev/null; then
        check "${file##*/} is well formed" page_is_well_formed "$file"
    else
        skip "${file##*/} is well formed" "groff is not installed"
    fi
done
finish docs 9
