import ApusSynchronization
import ApusTensor
import Foundation
import Synchronization
import Testing

/// "Machine code" made from the source, and a count of how often that was asked for.
private final class CountingCompiler: CUDACompiler {
    let identity: String
    private let count = Atomic<Int>(0)

    init(identity: String = "counting 1.0") {
        self.identity = identity
    }

    var compilations: Int { count.load(ordering: .relaxed) }

    func compile(_ source: CUDASource, target: String) throws -> [UInt8] {
        count.add(1, ordering: .relaxed)
        if source.text == "error" { throw CUDAError.compilation(kernel: source.name, target: target, log: "no") }
        // Large enough that a reader could see a part of it.
        return Array(String(repeating: source.text + target, count: 20_000).utf8)
    }
}

@Suite struct CUDACubinCacheTests {
    private let source = CUDASource(
        name: "a.cu", text: "kernel", headers: [.init(name: "h.cuh", text: "header")], defines: ["N": "1"])
    private var expected: [UInt8] { Array(String(repeating: "kernelsm_90a", count: 20_000).utf8) }

    @Test func digests() {
        func hex(_ text: String) -> String {
            SHA256.digest(of: Array(text.utf8)).map { String(format: "%02x", $0) }.joined()
        }
        // FIPS 180-4 examples, and lengths around a block.
        #expect(hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(
            hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")
                == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
        #expect(
            hex(String(repeating: "a", count: 1_000_000))
                == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    @Test func keysDependOnEverything() {
        func key(_ source: CUDASource, _ target: String = "sm_90a", _ compiler: String = "nvrtc 13.0") -> String {
            CUDACubinCache.key(source, target: target, compiler: compiler)
        }
        let sources = [
            source,
            CUDASource(name: "b.cu", text: "kernel", headers: source.headers, defines: source.defines),
            CUDASource(name: "a.cu", text: "kernel2", headers: source.headers, defines: source.defines),
            CUDASource(name: "a.cu", text: "kernel", headers: [], defines: source.defines),
            CUDASource(
                name: "a.cu", text: "kernel", headers: [.init(name: "h", text: ".cuhheader")], defines: source.defines),
            CUDASource(name: "a.cu", text: "kernel", headers: source.headers, defines: ["N": "2"]),
            CUDASource(name: "a.cu", text: "kernel", headers: source.headers, defines: ["N": "1", "M": "1"]),
        ]
        let keys = sources.map { key($0) } + [key(source, "sm_100a"), key(source, "sm_90a", "nvrtc 13.1")]
        #expect(Set(keys).count == keys.count)
        #expect(keys.allSatisfy { $0.count == 64 })
        #expect(key(source) == key(source))
    }

    @Test func keptInMemoryAndInTheFolder() throws {
        try withFolder { folder in
            let compiler = CountingCompiler()
            let first = CUDACubinCache(folder: folder + "/new/kernels")
            try #expect(first.cubin(for: source, target: "sm_90a", compiler: compiler) == expected)
            try #expect(first.cubin(for: source, target: "sm_90a", compiler: compiler) == expected)
            let second = CUDACubinCache(folder: folder + "/new/kernels")
            try #expect(second.cubin(for: source, target: "sm_90a", compiler: compiler) == expected)
            #expect(compiler.compilations == 1)
            try #expect(FileManager.default.contentsOfDirectory(atPath: folder + "/new/kernels").count == 1)
            let newer = CountingCompiler(identity: "counting 1.1")
            try #expect(second.cubin(for: source, target: "sm_90a", compiler: newer) == expected)
            #expect(newer.compilations == 1)
        }
    }

    @Test func damagedEntriesAreCompiledAnew() throws {
        try withFolder { folder in
            let compiler = CountingCompiler()
            let key = CUDACubinCache.key(source, target: "sm_90a", compiler: compiler.identity)
            let path = try #require(CUDACubinCache(folder: folder).path(of: key))
            _ = try CUDACubinCache(folder: folder).cubin(for: source, target: "sm_90a", compiler: compiler)
            let whole = try Data(contentsOf: URL(fileURLWithPath: path))
            var damaged: [Data] = [0, 1, 7, 8, 20, 47, 48, 49, whole.count - 1].map { Data(whole.prefix($0)) }
            damaged.append(whole + Data([0]))
            for position in [0, 8, 15, 16, 47, 48, whole.count / 2, whole.count - 1] {
                var copy = whole
                copy[position] ^= 0x40
                damaged.append(copy)
            }
            for (i, bytes) in damaged.enumerated() {
                try bytes.write(to: URL(fileURLWithPath: path))
                let found = try CUDACubinCache(folder: folder).cubin(for: source, target: "sm_90a", compiler: compiler)
                #expect(found == expected)
                #expect(compiler.compilations == 2 + i)
                try #expect(Data(contentsOf: URL(fileURLWithPath: path)) == whole, "the entry is whole again")
            }
            // An entry under another's name is damaged too.
            let other = CUDASource(name: "a.cu", text: "other")
            let otherKey = CUDACubinCache.key(other, target: "sm_90a", compiler: compiler.identity)
            let otherPath = try #require(CUDACubinCache(folder: folder).path(of: otherKey))
            try whole.write(to: URL(fileURLWithPath: otherPath))
            let found = try CUDACubinCache(folder: folder).cubin(for: other, target: "sm_90a", compiler: compiler)
            #expect(found != expected)
        }
    }

    @Test func aFolderThatCannotBeWritten() throws {
        try withFolder { folder in
            // A file where the folder should be: not writable for anyone, root too.
            let file = folder + "/file"
            try "".write(toFile: file, atomically: true, encoding: .utf8)
            let warnings = Locked<[String]>([])
            let compiler = CountingCompiler()
            let cache = CUDACubinCache(folder: file + "/kernels") { text in warnings.withLock { $0.append(text) } }
            try #expect(cache.cubin(for: source, target: "sm_90a", compiler: compiler) == expected)
            _ = try cache.cubin(for: source, target: "sm_100a", compiler: compiler)
            _ = try cache.cubin(for: source, target: "sm_90a", compiler: compiler)
            #expect(compiler.compilations == 2)
            #expect(warnings.withLock { $0.count } == 1)
            #expect(warnings.withLock { $0.first?.contains("APUS_CACHE") } == true)

            let none = CUDACubinCache(folder: nil) { text in warnings.withLock { $0.append(text) } }
            try #expect(none.cubin(for: source, target: "sm_90a", compiler: compiler) == expected)
            #expect(warnings.withLock { $0.count } == 2)
        }
    }

    @Test func errorsAreNotKept() throws {
        try withFolder { folder in
            let compiler = CountingCompiler()
            let cache = CUDACubinCache(folder: folder)
            let wrong = CUDASource(name: "w.cu", text: "error")
            for _ in 0..<2 {
                #expect(throws: CUDAError.compilation(kernel: "w.cu", target: "sm_90a", log: "no")) {
                    try cache.cubin(for: wrong, target: "sm_90a", compiler: compiler)
                }
            }
            #expect(compiler.compilations == 2)
            try #expect(FileManager.default.contentsOfDirectory(atPath: folder).isEmpty)
        }
    }

    @Test func manyThreadsCompileOnce() throws {
        try withFolder { folder in
            let compiler = CountingCompiler()
            let cache = CUDACubinCache(folder: folder)
            let wrong = Atomic<Int>(0)
            DispatchQueue.concurrentPerform(iterations: 32) { i in
                let source = CUDASource(name: "a.cu", text: "kernel\(i % 4)")
                let found = try? cache.cubin(for: source, target: "t", compiler: compiler)
                if found?.starts(with: "kernel\(i % 4)t".utf8) != true { wrong.add(1, ordering: .relaxed) }
            }
            #expect(wrong.load(ordering: .relaxed) == 0)
            #expect(compiler.compilations == 4)
        }
    }

    @Test func manyCachesWriteOneFolder() throws {
        try withFolder { folder in
            let wrong = Atomic<Int>(0)
            let (source, expected) = (source, expected)
            DispatchQueue.concurrentPerform(iterations: 64) { i in
                // Some find the entry, some write it, some write it again after another one broke it.
                if i % 8 == 7 {
                    let path =
                        folder + "/" + CUDACubinCache.key(source, target: "sm_90a", compiler: "counting 1.0") + ".cubin"
                    truncate(path, 1000)
                }
                let cache = CUDACubinCache(folder: folder)
                let found = try? cache.cubin(for: source, target: "sm_90a", compiler: CountingCompiler())
                if found != expected { wrong.add(1, ordering: .relaxed) }
            }
            #expect(wrong.load(ordering: .relaxed) == 0)
            let left = try FileManager.default.contentsOfDirectory(atPath: folder)
            #expect(left.filter { $0.hasSuffix(".part") }.isEmpty)
        }
    }

    #if compiler(>=6.2)
    @Test func manyProcessesWriteOneFolder() async throws {
        let folder = NSTemporaryDirectory() + "apus-processes-\(UUID().uuidString)"
        setenv("APUS_TEST_SHARED_KERNELS", folder, 1)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    await #expect(processExitsWith: .success) {
                        let folder = try #require(ProcessInfo.processInfo.environment["APUS_TEST_SHARED_KERNELS"])
                        let compiler = CountingCompiler()
                        for round in 0..<40 {
                            let source = CUDASource(name: "p.cu", text: "round \(round)")
                            let cache = CUDACubinCache(folder: folder)
                            let found = try cache.cubin(for: source, target: "t", compiler: compiler)
                            try #require(found == Array(String(repeating: "round \(round)t", count: 20_000).utf8))
                        }
                    }
                }
            }
        }
        let files = try FileManager.default.contentsOfDirectory(atPath: folder)
        #expect(files.count == 40)
        #expect(files.allSatisfy { $0.hasSuffix(".cubin") })
        // Whole entries: a compiler that is asked nothing.
        let idle = CountingCompiler()
        for round in 0..<40 {
            _ = try CUDACubinCache(folder: folder).cubin(
                for: CUDASource(name: "p.cu", text: "round \(round)"), target: "t", compiler: idle)
        }
        #expect(idle.compilations == 0)
    }
    #endif
}
