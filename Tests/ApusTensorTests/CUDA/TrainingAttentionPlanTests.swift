import ApusTensor
import Testing

@Suite struct TrainingAttentionPlanTests {
    @Test(arguments: [nil, 1, 64]) func everyRowIsInOneTile(window: Int?) {
        let lengths = [0, 1, 127, 128, 0, 129, 700]
        let starts = lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
        let heads = 3
        for rows in [TrainingAttentionItems.Rows.queries, .keys] {
            let plan = TrainingAttentionItems(
                SequenceAttention(starts: starts, scale: 1, window: window), heads: heads, of: rows, bytesPerRow: 256)
            var seen = [Int](repeating: 0, count: starts.last! * heads)
            for item in plan.items {
                #expect(item.padded % 128 == 0 && Int(item.padded) + Int(item.row) < plan.paddedRows)
                #expect(starts[Int(item.sequence)] == item.begin)
                let last = min(item.length, item.row + 128)
                for row in item.row..<last { seen[Int(item.begin + row) * heads + Int(item.head)] += 1 }
            }
            #expect(seen.allSatisfy { $0 == 1 })
            #expect(plan.paddedRows == lengths.reduce(0) { $0 + ($1 + 127) / 128 * 128 })
        }
    }

    @Test func theLongestComeFirstAndNeighboursShareTheCache() {
        let one = SequenceAttention(starts: [0, 4096], scale: 1)
        let queries = TrainingAttentionItems(one, heads: 1, of: .queries, bytesPerRow: 512).items.map(\.row)
        #expect(queries == queries.sorted(by: >))
        let keys = TrainingAttentionItems(one, heads: 1, of: .keys, bytesPerRow: 512).items.map(\.row)
        #expect(keys == keys.sorted())
        // 2 MiB of keys and values a head: twelve heads of a sequence fit together.
        let two = SequenceAttention(starts: [0, 4096, 8192], scale: 1)
        let first = TrainingAttentionItems(two, heads: 8, of: .queries, bytesPerRow: 512).items.prefix(12 * 32)
        #expect(Set(first.map { [$0.begin, $0.head] }).count == 12)
        #expect(MemoryLayout<TrainingAttentionItems.Item>.stride == 32)
    }

    @Test(arguments: [
        [64, 0, 64], [96, 0, 96], [128, 0, 128], [48, 48, 96], [64, 64, 128], [128, 64, 128], [192, 0, 128],
        [128, 32, 128],
    ])
    func sharedMemorySuffices(widths: [Int]) throws {
        let settings = try TrainingAttentionSettings(
            key: widths[0], once: widths[1], value: widths[2], output: .bf16, gradients: .bf16, addsGradients: false)
        for kernel in try [settings.forward, #require(settings.backwardQueries), #require(settings.backwardKeys)] {
            #expect(kernel.sharedMemory + 1024 <= 227 << 10)
            #expect(kernel.defines["STAGES"]! >= 2)
        }
    }

    @Test func widthsWithoutTilesArePadded() throws {
        let cases = [
            ([64, 0, 64], [64, 0, 64]), ([20, 0, 20], [32, 0, 32]), ([24, 24, 48], [32, 32, 48]),
            ([48, 24, 48], [48, 32, 48]), ([128, 64, 128], [128, 64, 128]), ([200, 0, 200], [256, 0, 256]),
        ]
        for (given, expected) in cases {
            let found = TrainingAttentionSettings.padded(key: given[0], once: given[1], value: given[2])
            guard expected.reduce(0, +) <= 320 else {
                #expect(found == nil)
                continue
            }
            let padded = try #require(found)
            #expect([padded.key, padded.once, padded.value] == expected)
            let settings = try TrainingAttentionSettings(
                key: padded.key, once: padded.once, value: padded.value, output: .bf16, gradients: .bf16,
                addsGradients: false)
            #expect(settings.backwardKeys != nil)
        }
    }

    @Test func widthsWithoutTilesAreRefused() throws {
        let wide = try TrainingAttentionSettings(
            key: 256, once: 0, value: 256, output: .f32, gradients: .f32, addsGradients: false)
        #expect(wide.backwardKeys == nil && wide.backwardQueries == nil)
        for widths in [[40, 0, 64], [64, 8, 64], [64, 0, 72], [256, 16, 64], [64, 0, 320], [0, 64, 64]] {
            #expect {
                try TrainingAttentionSettings(
                    key: widths[0], once: widths[1], value: widths[2], output: .bf16, gradients: .bf16,
                    addsGradients: false)
            } throws: { error in
                "\(error)".contains("\(widths[0]) + \(widths[1]), value \(widths[2])")
            }
        }
    }
}
