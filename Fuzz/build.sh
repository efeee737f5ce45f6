#!/bin/bash
# Builds the fuzzers, .build-fuzz/fuzz-NAME for each Fuzz/Drivers/NAME.swift: libFuzzer with address sanitizer over the
# package's own libraries, instrumented for coverage.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=.build-fuzz
swift build -c release --target ApusModels --scratch-path "$scratch" --sanitize=address \
    -Xswiftc -sanitize=fuzzer -Xcc -fsanitize=fuzzer-no-link

bin=$(swift build -c release --scratch-path "$scratch" --show-bin-path)
flags=()
for header in Sources/C*/include; do
    module=$(basename "$(dirname "$header")")
    flags+=(-Xcc "-fmodule-map-file=$bin/$module.build/module.modulemap" -Xcc "-I$header")
done
mapfile -t objects < <(find "$bin" -name '*.o' -path '*.build/*' \
    \( -path '*/Apus*' -o -path '*/CApus*' \))
# The name SwiftPM gives the package, so that the drivers see what only the package's own code sees.
package=$(basename "$PWD" | tr '[:upper:]' '[:lower:]')
for driver in Fuzz/Drivers/*.swift; do
    name=$(basename "$driver" .swift)
    swiftc -O -swift-version 6 -parse-as-library -sanitize=fuzzer,address -use-ld=lld \
        -module-name "Fuzz_$name" -package-name "$package" \
        -I "$bin/Modules" "${flags[@]}" "$driver" "${objects[@]}" -o "$scratch/fuzz-$name"
done
