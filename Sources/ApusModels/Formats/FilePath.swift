#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The few questions about paths that opening a model asks.
package enum FilePath {
    static func isFolder(_ path: String) -> Bool { kind(path) == S_IFDIR }

    static func isFile(_ path: String) -> Bool { kind(path) == S_IFREG }

    /// The folder a file lies in; `.` for a bare name.
    package static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    static func join(_ folder: String, _ name: String) -> String {
        folder.hasSuffix("/") ? folder + name : folder + "/" + name
    }

    /// Removes a file; whether it could be is of no consequence to the caller.
    static func remove(_ path: String) { unlink(path) }

    private static func kind(_ path: String) -> mode_t? {
        var status = stat()
        return stat(path, &status) == 0 ? status.st_mode & S_IFMT : nil
    }
}
