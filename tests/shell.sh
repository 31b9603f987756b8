# Frame of the test scripts, to be sourced. Counts what they check and prints the last line
# `NAME: N passed, N failed, N skipped` that scripts/run-tests adds up.

passed=0
failed=0
skipped=0

# check WHAT COMMAND...: passed if the command succeeds; its output is shown only if it does not.
check() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'failed: %s\n  command: %s\n%s\n' "$what" "$*" "$output"
    fi
}

# skip WHAT REASON
skip() {
    skipped=$((skipped + 1))
    printf 'skipped: %s: %s\n' "$1" "$2"
}

# finish NAME MINIMUM: print the last line; exit with failure if anything failed or fewer than MINIMUM were counted.
finish() {
    local total=$((passed + failed + skipped))
    if [ "$total" -lt "$2" ]; then
        printf '%s: only %d checks, at least %d were expected\n' "$1" "$total" "$2"
    fi
    printf '%s: %d passed, %d failed, %d skipped\n' "$1" "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ] && [ "$total" -ge "$2" ]
    exit
}
