extension CUDASelfCheck {
    /// From the host to the GPU, within it, and back, at odd offsets.
    func copies() throws {
        let stream = try CUDAStream(device: device)
        let count = 5_000_003
        let host = try CUDAHostBuffer(byteCount: count + 7, device: device)
        let back = try CUDAHostBuffer(byteCount: count + 7, device: device)
        for (i, value) in randomBF16(count + 7, seed: 3).enumerated() {
            host.bytes[i] = UInt8(truncatingIfNeeded: value)
        }
        let first = try CUDABuffer(byteCount: count + 11, stream: stream)
        let second = try CUDABuffer(byteCount: count + 13, stream: stream)
        try stream.fill(second, with: 0xee)
        try stream.copy(count, from: host, at: 7, to: first, at: 11)
        try stream.copy(count, from: first, at: 11, to: second, at: 13)
        try stream.copy(count, from: second, at: 13, to: back, at: 3)
        let edge = try stream.download(second, count: 13, as: UInt8.self)
        let same = (0..<count).allSatisfy { back.bytes[3 + $0] == host.bytes[7 + $0] }
        try expect(same, "bytes differ after a round trip")
        try expect(edge.allSatisfy { $0 == 0xee }, "a copy wrote before its target")
        try expect(try stream.isIdle(), "a stream is busy after waiting for it")
        try expectError("copy past the end", { if case .range = $0 { true } else { false } }) {
            try stream.copy(count, from: first, at: 12, to: second)
        }
    }

    /// Random requests on four streams; each buffer is filled, then read late by a busy stream, and given back at once. A
    /// buffer whose memory was handed to somebody else too early is found changed.
    func allocator() throws {
        let before = device.allocator.statistics.inUse
        do {
            let streams = try (0..<4).map { _ in try CUDAStream(device: device) }
            let home = try CUDAStream(device: device)
            let differences = try CUDABuffer(byteCount: 4, stream: home)
            try home.fill(differences, with: 0)
            try home.synchronize()
            var random = SplitMix64(state: 4)
            func next(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &random) }
            var live: [(buffer: CUDABuffer, value: UInt32, words: Int)] = []
            for step in 0..<1500 {
                if live.count < 24 && next(3) > 0 || live.isEmpty {
                    let words = [100, 3_000, 40_000, 1_000_000, 5_000_000][next(5)] + next(50)
                    let stream = streams[next(4)]
                    let buffer = try CUDABuffer(byteCount: words * 4, stream: stream)
                    try fill(buffer, UInt32(step), words: words, on: stream)
                    live.append((buffer, UInt32(step), words))
                    continue
                }
                let (buffer, value, words) = live.remove(at: next(live.count))
                let reader = streams[next(4)]
                let filled = try CUDAEvent(device: device, timing: false)
                try filled.record(on: buffer.stream)
                try reader.wait(for: filled)
                if next(4) == 0 { try spin(microseconds: 200, on: reader) }
                try countDifferences(buffer, from: value, words: words, into: differences, on: reader)
                buffer.used(on: reader)
                differences.used(on: reader)
            }
            live = []
            try device.synchronize()
            let found = try home.download(differences, count: 1, as: UInt32.self)[0]
            try expect(found == 0, "\(found) words were changed by another buffer's work")
        }
        let statistics = device.allocator.statistics
        try expect(statistics.inUse == before, "\(statistics.inUse - before) bytes are still in use")
        device.allocator.releaseCached()
        try expect(
            device.allocator.statistics.cached == 0, "\(device.allocator.statistics.cached) bytes are still cached")
    }

    /// Takes all memory, is refused with the sizes, and goes on.
    func outOfMemory() throws {
        let stream = try CUDAStream(device: device)
        let total = device.totalMemory
        let before = device.allocator.statistics.inUse
        func isRefusal(of requested: Int) -> (CUDAError) -> Bool {
            { error in
                guard case .outOfMemory(requested, let free, _, _, let inUse) = error else { return false }
                return free < requested && inUse == device.allocator.statistics.inUse
            }
        }
        try expectError("more than there is", isRefusal(of: total + 1)) {
            _ = try CUDABuffer(byteCount: total + 1, stream: stream)
        }
        let piece = total / 16
        do {
            var pieces: [CUDABuffer] = []
            try expectError("all pieces", isRefusal(of: piece)) {
                while pieces.count <= 16 { pieces.append(try CUDABuffer(byteCount: piece, stream: stream)) }
            }
            try expect(pieces.count >= 8, "only \(pieces.count) sixteenths of the memory could be had")
            try fill(pieces[0], 1, words: piece / 4, on: stream)
        }
        try expect(device.allocator.statistics.inUse == before, "memory is in use after a refusal")
        // All of it is cached in pieces that are too small: they have to go back first.
        let large = try CUDABuffer(byteCount: total / 2, stream: stream)
        try stream.fill(large, with: 1)
        try stream.synchronize()
        try expect(device.allocator.statistics.cached < piece, "the cache was not given back")
    }
}
