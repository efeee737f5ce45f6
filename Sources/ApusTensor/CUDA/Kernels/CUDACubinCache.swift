import ApusSynchronization
#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Compiled kernels, kept in memory and in a folder that all processes share.
///
/// An entry's name is the SHA-256 of the compiler's identity, the target, the options and the sources, so that whatever
/// changes the code changes the name. An entry carries its length and a checksum, and is written beside, synced and
/// renamed: a reader sees a whole entry or none, however many processes write it at once, and a damaged one is compiled
/// anew. A kernel is compiled once in a process, also when many threads ask for it together.
///
/// Without a folder, or with one that cannot be written, kernels are compiled in each process, and one warning says so.
public final class CUDACubinCache: Sendable {
    /// The cache in the usual folder.
    public static let shared = CUDACubinCache(folder: defaultFolder())

    /// Where entries are kept; nil for none.
    public let folder: String?
    private let warn: @Sendable (String) -> Void
    private let warned = Locked(false)

    private final class Slot: Sendable {
        let cubin = Locked<[UInt8]?>(nil)
    }
    private let slots = Locked<[String: Slot]>([:])

    /// A cache in `folder`, which is made when the first entry is written. `warn` is called at most once.
    public init(folder: String?, warn: @escaping @Sendable (String) -> Void = CUDACubinCache.warnOnStandardError) {
        self.folder = folder
        self.warn = warn
    }

    /// `$APUS_CACHE/kernels`, else `$XDG_CACHE_HOME/apus/kernels`, else `~/.cache/apus/kernels`, else nil.
    public static func defaultFolder() -> String? {
        func value(_ name: String) -> String? {
            guard let text = getenv(name), text.pointee != 0 else { return nil }
            return String(cString: text)
        }
        if let chosen = value("APUS_CACHE") { return chosen + "/kernels" }
        if let base = value("XDG_CACHE_HOME") { return base + "/apus/kernels" }
        return value("HOME").map { $0 + "/.cache/apus/kernels" }
    }

    /// Writes the warning to standard error.
    public static let warnOnStandardError: @Sendable (String) -> Void = { message in
        let line = Array("apus: warning: \(message)\n".utf8)
        _ = write(STDERR_FILENO, line, line.count)
    }

    /// The name under which a kernel is kept: 64 hexadecimal digits.
    public static func key(_ source: CUDASource, target: String, compiler: String) -> String {
        var hash = SHA256()
        hash.update(field: compiler.utf8)
        hash.update(field: target.utf8)
        for list in [source.options(target: target), source.headers.flatMap { [$0.name, $0.text] }] {
            hash.update(field: String(list.count).utf8)
            for text in list { hash.update(field: text.utf8) }
        }
        hash.update(field: source.name.utf8)
        hash.update(field: source.text.utf8)
        return hexadecimal(hash.digest())
    }

    /// The file of an entry.
    public func path(of key: String) -> String? {
        folder.map { "\($0)/\(key).cubin" }
    }

    /// The kernel's machine code: from memory, from the folder, or from the compiler. Throws what the compiler throws.
    public func cubin(for source: CUDASource, target: String, compiler: some CUDACompiler) throws -> [UInt8] {
        let key = CUDACubinCache.key(source, target: target, compiler: compiler.identity)
        let slot = slots.withLock { slots in
            if let slot = slots[key] { return slot }
            let slot = Slot()
            slots[key] = slot
            return slot
        }
        return try slot.cubin.withLock { known in
            if let known { return known }
            let path = path(of: key)
            if let path, let file = CacheFile.read(path), let cubin = CUDACubinCache.payload(of: file, key: key) {
                known = cubin
                return cubin
            }
            let cubin = try compiler.compile(source, target: target)
            if let path {
                store(CUDACubinCache.entry(cubin, key: key), at: path)
            } else {
                complain("no cache folder is set")
            }
            known = cubin
            return cubin
        }
    }

    private func store(_ entry: [UInt8], at path: String) {
        if let problem = CacheFile.write(entry, to: path) { complain(problem) }
    }

    private func complain(_ problem: String) {
        let first = warned.withLock { warned in
            defer { warned = true }
            return !warned
        }
        if first { warn("compiled kernels are not kept: \(problem); set APUS_CACHE to a folder that can be written") }
    }

    // MARK: Entries

    // "APUSCUB1", the payload's length (8 bytes, little-endian), SHA-256 of key and payload, the payload.
    private static let magic = Array("APUSCUB1".utf8)
    private static let headerCount = 8 + 8 + 32

    private static func entry(_ payload: [UInt8], key: String) -> [UInt8] {
        magic + withUnsafeBytes(of: UInt64(payload.count).littleEndian) { Array($0) } + checksum(payload, key: key)
            + payload
    }

    private static func payload(of entry: [UInt8], key: String) -> [UInt8]? {
        guard entry.count > headerCount, Array(entry[0..<8]) == magic else { return nil }
        let length = entry[8..<16].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length == UInt64(entry.count - headerCount) else { return nil }
        let payload = Array(entry[headerCount...])
        return Array(entry[16..<headerCount]) == checksum(payload, key: key) ? payload : nil
    }

    private static func checksum(_ payload: [UInt8], key: String) -> [UInt8] {
        var hash = SHA256()
        hash.update(field: key.utf8)
        hash.update(payload)
        return hash.digest()
    }

    private static func hexadecimal(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }
}
