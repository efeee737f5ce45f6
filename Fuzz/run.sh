#!/bin/bash
# Runs each fuzzer for a bounded time: Fuzz/run.sh [SECONDS] [NAME...].
# An input that crashes, hangs or leaks is kept as Fuzz/corpus/NAME/crash-..., timeout-..., leak-... and fails the run;
# inputs that only reach new code go to fuzz-out/NAME, which is not committed.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(basename -s .swift Fuzz/Drivers/*.swift)

# The Swift runtime's own crash handler would hide the sanitizer's.
export SWIFT_BACKTRACE=enable=no
failed=0
for name in "${names[@]}"; do
    mkdir -p "fuzz-out/$name" "Fuzz/corpus/$name"
    log=fuzz-out/$name.log
    echo "== $name: $seconds s, log in $log"
    if .build-fuzz/fuzz-"$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
        -dict="Fuzz/dictionaries/$name.txt" -artifact_prefix="Fuzz/corpus/$name/" -print_final_stats=1 \
        "fuzz-out/$name" "Fuzz/corpus/$name" >"$log" 2>&1; then
        grep '^stat::\(number_of_executed_units\|new_units_added\)' "$log"
    else
        failed=1
        grep -A 40 -m 1 'ERROR\|Fatal error\|SUMMARY' "$log" || tail -n 40 "$log"
    fi
done
exit $failed
