import ApusText
import FoundationEssentials
import Logging

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Writes each log entry to standard error as one line: a JSON object, or `time level message key=value ...`.
///
/// A line is one write. One that cannot be written, because a disk is full, is lost; nothing else happens.
public struct StructuredLogHandler: LogHandler {
    /// How a line looks.
    public enum Format: String, Sendable, CaseIterable {
        /// `2026-01-31T12:00:00.123Z info request path=/v1/models status=200`.
        case text
        /// `{"time":"2026-01-31T12:00:00.123Z","level":"info","message":"request","path":"/v1/models",...}`.
        case json
    }

    /// See `LogHandler`.
    public var logLevel = Logger.Level.info
    /// See `LogHandler`.
    public var metadata: Logger.Metadata = [:]
    private let format: Format

    /// A handler for lines in this format.
    public init(format: Format) { self.format = format }

    /// See `LogHandler`.
    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    /// See `LogHandler`.
    public func log(event: LogEvent) {
        var all = metadata
        // The framework's own number beside the request's id would only confuse.
        all["hb.request.id"] = nil
        for (key, value) in event.metadata ?? [:] { all[key] = value }
        let time = Date().ISO8601Format(.iso8601(timeZone: .gmt, includingFractionalSeconds: true)) + "Z"
        let members = all.sorted { $0.key < $1.key }
        var line: String
        switch format {
        case .text:
            line = "\(time) \(event.level.rawValue) \(event.message)"
            for (key, value) in members { line += " \(key)=\(Self.quoted("\(value)"))" }
        case .json:
            var object: JSONObject = [
                "time": .string(time), "level": .string(event.level.rawValue), "message": .string("\(event.message)"),
            ]
            for (key, value) in members { object[key] = Self.json(value) }
            line = JSONValue.object(object).serialized()
        }
        line += "\n"
        line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }

    /// A value without spaces as it stands, another in quotes.
    private static func quoted(_ value: String) -> String {
        let isPlain = !value.isEmpty && value.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x22 && $0 != 0x3D }
        return isPlain ? value : JSONValue.string(value).serialized()
    }

    /// A value that was given as a number as a number.
    private static func json(_ value: Logger.MetadataValue) -> JSONValue {
        guard case .stringConvertible(let convertible) = value else { return .string("\(value)") }
        if let integer = convertible as? Int { return .integer(Int64(integer)) }
        if let double = convertible as? Double, double.isFinite { return .double(double) }
        return .string("\(value)")
    }
}
