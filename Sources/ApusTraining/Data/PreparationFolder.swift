import ApusModels

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The folder of a preparation, locked for it as long as this value lives.
final class PreparationFolder {
    let path: String
    private let descriptor: Int32

    /// Creates the folder if need be, takes its lock, and removes what a killed preparation left half-written.
    init(_ path: String) throws {
        self.path = path
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            let reason = errno == 0 ? "\(error)" : String(cString: strerror(errno))
            throw TokenDataError.system(file: path, operation: "create the folder", reason: reason)
        }
        descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw TokenDataError.system(
                file: path, operation: "open the folder", reason: String(cString: strerror(errno)))
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let reason =
                errno == EWOULDBLOCK ? "another preparation is at work in it" : String(cString: strerror(errno))
            throw TokenDataError.system(file: path, operation: "lock the folder", reason: reason)
        }
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        for name in names where !Self.isOurs(name) { throw TokenDataError.occupied(folder: path) }
        for name in names where name.contains(".part-") { unlink(path + "/" + name) }
    }

    deinit { close(descriptor) }

    private static func isOurs(_ name: String) -> Bool {
        let whole = name.split(separator: ".part-", omittingEmptySubsequences: false).first.map(String.init) ?? name
        return whole == TokenManifest.fileName || whole == TokenManifest.tokenizerFileName
            || whole == "tokenizer_config.json" || whole.hasSuffix(".tokens")
    }

    /// What the folder holds, if a preparation was begun.
    func manifest() throws -> TokenManifest? { try Self.manifest(in: path) }

    /// What a folder holds, if a preparation was begun; needs no lock, since manifests appear whole.
    static func manifest(in path: String) throws -> TokenManifest? {
        guard FileManager.default.fileExists(atPath: path + "/" + TokenManifest.fileName) else { return nil }
        return try TokenManifest(folder: path)
    }

    func write(_ text: String, to name: String) throws {
        let file = try AtomicFile(path: path + "/" + name)
        try file.write(Array(text.utf8))
        try file.publish()
    }

    /// Copies a tokenizer.json and its configuration into the folder; a vocabulary in a GGUF file stays where it is.
    /// - Returns: the name that the manifest gives it.
    func copyTokenizer(_ source: String) throws -> String {
        if source.hasSuffix(".gguf") { return source }
        var isFolder = false
        _ = FileManager.default.fileExists(atPath: source, isDirectory: &isFolder)
        let file = isFolder ? source + "/tokenizer.json" : source
        var folder = file.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        if folder.isEmpty { folder = file.hasPrefix("/") ? "/" : "." }
        for (from, name) in [
            (file, TokenManifest.tokenizerFileName), (folder + "/tokenizer_config.json", "tokenizer_config.json"),
        ] where FileManager.default.fileExists(atPath: from) {
            let bytes = try MappedFile(path: from)
            let copy = try AtomicFile(path: path + "/" + name)
            try bytes.withBytes(0..<bytes.byteCount) { try copy.write($0) }
            try copy.publish()
        }
        return TokenManifest.tokenizerFileName
    }
}

extension TokenManifest.Source {
    init(path: String, split: TokenSplit?) throws(TokenDataError) {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw .system(file: path, operation: "find the file", reason: String(cString: strerror(errno)))
        }
        self.init(
            path: path, byteCount: Int(status.st_size),
            modified: Int(status.st_mtim.tv_sec) * 1_000_000_000 + Int(status.st_mtim.tv_nsec), split: split)
    }
}
