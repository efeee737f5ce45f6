extension CUDASelfCheck {
    /// A stream that waits for another one's event sees its work; the GPU's clock runs.
    func streams() throws {
        let first = try CUDAStream(device: device)
        let second = try CUDAStream(device: device, priority: -1)
        let words = 100_000
        let buffer = try CUDABuffer(byteCount: words * 4, stream: first)
        let differences = try CUDABuffer(byteCount: 4, stream: second)
        let start = try CUDAEvent(device: device)
        let end = try CUDAEvent(device: device)
        try start.record(on: first)
        try spin(microseconds: 3000, on: first)
        try fill(buffer, 7, words: words, on: first)
        try end.record(on: first)
        try expect(try !end.isComplete(), "an event is complete before the work ahead of it")
        try second.wait(for: end)
        try second.fill(differences, with: 0)
        buffer.used(on: second)
        try countDifferences(buffer, from: 7, words: words, into: differences, on: second)
        let found = try second.download(differences, count: 1, as: UInt32.self)[0]
        try expect(found == 0, "\(found) words were read before they were written")
        let seconds = try end.seconds(since: start)
        try expect((0.0029..<1).contains(seconds), "3 ms of work took \(seconds) s")
    }

    /// Shapes, attributes and arguments of launches.
    func launches() throws {
        let stream = try CUDAStream(device: device)
        let words = try CUDABuffer(byteCount: 4096, stream: stream)
        try stream.fill(words, with: 0)
        try kernels.kernel("meet").launch(
            grid: CUDAExtent(device.multiprocessorCount), block: 32, attributes: [.cooperative], on: stream,
            .buffer(words))
        let arrived = try stream.download(words, count: 1, as: UInt32.self)[0]
        try expect(arrived == device.multiprocessorCount, "\(arrived) of \(device.multiprocessorCount) blocks met")

        try stream.fill(words, with: 0)
        let largest = device.sharedMemoryPerBlock
        let shared = try kernels.kernel("shared_memory")
        try shared.launch(
            grid: 4, block: 256, sharedMemory: largest, on: stream, .buffer(words), .value(Int32(largest / 4)))
        try expect(
            try stream.download(words, count: 2, as: UInt32.self) == [0, 4],
            "\(largest) bytes of shared memory do not hold")
        try expect(
            try shared.blocksPerMultiprocessor(block: 256, sharedMemory: largest) == 1,
            "occupancy at full shared memory")
        try expectError("too much shared memory", isLaunch) {
            try shared.launch(
                grid: 1, block: 1, sharedMemory: largest + 1, on: stream, .buffer(words), .value(Int32(0)))
        }
        if device.driver.functions.pointee.cuFuncGetParamInfo != nil {
            try expectError("a missing argument", isLaunch) {
                try shared.launch(grid: 1, block: 1, on: stream, .buffer(words))
            }
            try expectError("an argument of another size", isLaunch) {
                try shared.launch(grid: 1, block: 1, on: stream, .buffer(words), .value(Int64(0)))
            }
        }
        try expectError(
            "an unknown kernel", { if case .call("cuModuleGetFunction", _, _, _, .some) = $0 { true } else { false } }
        ) {
            _ = try kernels.kernel("absent")
        }
        try expectError(
            "too many threads",
            { if case .call("cuLaunchKernelEx", _, _, _, "shared_memory") = $0 { true } else { false } }
        ) { try shared.launch(grid: 1, block: 2048, on: stream, .buffer(words), .value(Int32(0))) }
        if isHopper { try hopperLaunches(stream, words) }
    }

    private func isLaunch(_ error: CUDAError) -> Bool {
        if case .launch = error { true } else { false }
    }

    private func hopperLaunches(_ stream: CUDAStream, _ words: CUDABuffer) throws {
        for size in [2, 8, 16] {
            try kernels.kernel("cluster_ranks").launch(
                grid: 32, block: 32, attributes: [.cluster(CUDAExtent(size))], on: stream, .buffer(words))
            let ranks = try stream.download(words, count: 32, as: UInt32.self)
            try expect(ranks == (0..<32).map { UInt32($0 % size * 100 + size) }, "clusters of \(size): \(ranks)")
        }
        let count = 1_000_000
        let buffer = try CUDABuffer(byteCount: count * 4, stream: stream)
        let differences = try CUDABuffer(byteCount: 4, stream: stream)
        try stream.fill(differences, with: 0)
        try fill(buffer, 0, words: count, on: stream)
        for _ in 0..<10 {
            try kernels.kernel("dependent").launch(
                grid: 64, block: 256, attributes: [.overlapsPredecessor], on: stream, .buffer(buffer),
                .value(Int64(count)))
        }
        try countDifferences(buffer, from: 1023, words: count, into: differences, on: stream)
        let found = try stream.download(differences, count: 1, as: UInt32.self)[0]
        try expect(found == 0, "\(found) words wrong after overlapping launches")
    }

    /// A tile that the copy engine fetches, also across the tensor's edges, where it reads zeros.
    func tensorMaps() throws {
        guard isHopper else { return }
        let stream = try CUDAStream(device: device)
        let (columns, rows) = (200, 50)
        let values = (0..<UInt16(columns * rows)).map { $0 + 1 }
        let tensor = try stream.upload(values)
        let out = try CUDABuffer(byteCount: 1024, stream: stream)
        let map = try CUDATensorMap(
            .bf16, address: tensor.address, extents: [columns, rows], strides: [columns * 2], box: [64, 8],
            swizzle: .none)
        for (column, row) in [(0, 0), (64, 8), (136, 41), (152, 45), (-8, -3)] {
            let tile = "the tile at column \(column), row \(row)"
            try kernels.kernel("load_tile").launch(
                grid: 1, block: 128, on: stream, .value(map), .buffer(out), .value(Int32(column)), .value(Int32(row)))
            do { try stream.synchronize() } catch { throw Failure(description: "\(tile): \(error)") }
            let found = try stream.download(out, count: 512, as: UInt16.self)
            let expected = (0..<512).map { i in
                let (c, r) = (column + i % 64, row + i / 64)
                return (0..<columns).contains(c) && (0..<rows).contains(r) ? values[r * columns + c] : 0
            }
            try expect(found == expected, "\(tile) differs")
        }
        try expectError(
            "an odd stride", { if case .call("cuTensorMapEncodeTiled", _, _, _, _) = $0 { true } else { false } }
        ) {
            _ = try CUDATensorMap(.bf16, address: tensor.address, extents: [64, 8], strides: [130], box: [64, 8])
        }
    }

    /// A recorded sequence gives the same each time, and its memory is left alone in between.
    func graphs() throws {
        let stream = try CUDAStream(device: device)
        let words = 300_000
        let sum = try CUDABuffer(byteCount: words * 4, stream: stream)
        let differences = try CUDABuffer(byteCount: 4, stream: stream)
        try stream.fill(sum, with: 0)
        try stream.fill(differences, with: 0)
        var inside: CUDABuffer?
        do {
            let graph = try CUDAGraph(recording: stream) {
                let temporary = try CUDABuffer(byteCount: words * 4, stream: stream)
                try fill(temporary, 3, words: words, on: stream)
                inside = temporary
                let other = try CUDABuffer(byteCount: words * 4, stream: stream)
                try stream.copy(words * 4, from: temporary, to: other)
                try countDifferences(other, from: 3, words: words, into: differences, on: stream)
                try add(sum, 5, words: words, on: stream)
            }
            try expect(graph.nodeCount == 4, "\(graph.nodeCount) nodes were recorded, not 4")
            for launch in 1...10 {
                try graph.launch(on: stream)
                let noise = try CUDABuffer(byteCount: words * 4, stream: stream)
                try fill(noise, UInt32(launch) * 1000, words: words, on: stream)
                try countDifferences(inside!, from: 3, words: words, into: differences, on: stream)
                try countDifferences(noise, from: UInt32(launch) * 1000, words: words, into: differences, on: stream)
            }
        }
        try countDifferences(sum, from: 50, words: words, into: differences, on: stream)
        let found = try stream.download(differences, count: 1, as: UInt32.self)[0]
        try expect(found == 0, "\(found) words wrong after ten launches of a graph")
        // A recording that fails leaves the stream usable.
        do {
            _ = try CUDAGraph(recording: stream) { throw Failure(description: "on purpose") }
        } catch let failure as Failure {
            try expect(failure.description == "on purpose", "another error came out of a recording")
        }
        try fill(sum, 1, words: words, on: stream)
        try stream.synchronize()
    }

    /// A product of odd shape against float64.
    func product() throws {
        let stream = try CUDAStream(device: device)
        let (m, n, k) = (72, 136, 200)
        let (x, weight) = (randomBF16(m * k, seed: 5), randomBF16(n * k, seed: 6))
        let out = try CUDABuffer(byteCount: m * n * 2, stream: stream)
        let product = try CUDAMatrixProduct(bf16: m, n, k, stream: stream)
        try product.run(x: stream.upload(x), weight: stream.upload(weight), out: out)
        func value(_ bits: UInt16) -> Double { Double(Float(bitPattern: UInt32(bits) << 16)) }
        let found = try stream.download(out, count: m * n, as: UInt16.self).map(value)
        var error = 0.0
        var norm = 0.0
        for row in 0..<m {
            for column in 0..<n {
                let exact = (0..<k).reduce(0.0) { $0 + value(x[row * k + $1]) * value(weight[column * k + $1]) }
                error += (found[row * n + column] - exact) * (found[row * n + column] - exact)
                norm += exact * exact
            }
        }
        let relative = (error / norm).squareRoot()
        try expect(relative < 4e-3, "relative error \(relative)")
    }

    /// A cold cache, a warm one, and a damaged entry, each giving a kernel that runs.
    func kernelCache() throws {
        let stream = try CUDAStream(device: device)
        let compiler = try NVRTCCompiler()
        let source = CUDASource(
            name: "value.cu", text: "extern \"C\" __global__ void value(int *p) { *p = VALUE; }",
            defines: ["VALUE": "42"])
        let key = CUDACubinCache.key(source, target: device.target, compiler: compiler.identity)
        let path = "\(folder)/\(key).cubin"
        func run(_ state: String) throws {
            let modules = CUDAModuleCache(device: device, cubins: CUDACubinCache(folder: folder))
            let word = try CUDABuffer(byteCount: 4, stream: stream)
            try modules.kernel("value", in: source).launch(grid: 1, block: 1, on: stream, .buffer(word))
            try expect(try stream.download(word, count: 1, as: Int32.self) == [42], "\(state) cache: another result")
        }
        try run("cold")
        guard let entry = CacheFile.read(path) else { throw Failure(description: "no entry was written to \(path)") }
        try run("warm")
        var damaged = entry
        damaged[entry.count / 2] ^= 1
        for (state, bytes) in [("damaged", damaged), ("truncated", Array(entry.prefix(100))), ("empty", [])] {
            if let problem = CacheFile.write(bytes, to: path) { throw Failure(description: problem) }
            try run(state)
            try expect(CacheFile.read(path) == entry, "\(state) cache: the entry was not rebuilt")
        }
    }

    /// A kernel that writes to no memory: the error of the next call names it. The process loses the GPU.
    func fault() throws {
        let stream = try CUDAStream(device: device)
        try kernels.kernel("fault").launch(grid: 1, block: 32, on: stream, .value(UInt64(0)))
        try expectError(
            "a faulting kernel",
            {
                if case .call("cuStreamSynchronize", _, let name, _, "fault") = $0 {
                    name.hasPrefix("CUDA_ERROR_")
                } else {
                    false
                }
            }
        ) { try stream.synchronize() }
    }
}
