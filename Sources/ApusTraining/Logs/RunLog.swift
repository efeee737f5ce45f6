import ApusText

/// A run's log: a JSON object a line (JSON Lines), each with the step it belongs to.
///
/// ```swift
/// let log = try RunLog(path: "run/log.jsonl", resumingAfter: 500)
/// try log.append(["step": 510, "loss": 4.25])
/// ```
///
/// An entry reaches the system in one write, so a kill tears at most the last one; opening the log again drops it.
public final class RunLog {
    private let file: LogFile

    /// Opens a log.
    /// - Parameters:
    ///   - path: the file, created if it is not there.
    ///   - step: the step of the checkpoint that the run goes on from: entries of later steps are cut off, since they
    ///     will come again. Nil starts the log anew.
    /// - Throws: ``RunLogError``.
    public init(path: String, resumingAfter step: Int? = nil) throws(RunLogError) {
        file = try LogFile(path: path)
        var kept = 0
        if let step {
            for (range, entry) in Self.lines(try file.contents()) {
                guard let entry else { break }
                if let found = entry["step"]?.intValue, found > step { break }
                kept = range.upperBound
            }
        }
        try file.truncate(to: kept)
    }

    /// Appends an entry.
    /// - Throws: ``RunLogError``.
    public func append(_ entry: JSONObject) throws(RunLogError) {
        // NaN and infinities are no JSON, and a run that ends with one must say so.
        var written = JSONObject()
        for member in entry {
            if case .double(let number) = member.value, !number.isFinite {
                written[member.key] = .string("\(number)")
            } else {
                written[member.key] = member.value
            }
        }
        try file.append(Array((JSONValue.object(written).serialized() + "\n").utf8))
    }

    /// The entries of a log, without a torn last one.
    /// - Throws: ``RunLogError/system(file:operation:code:)``, or `entry` for a line that is no object.
    public static func read(_ path: String) throws(RunLogError) -> [JSONObject] {
        let lines = lines(try LogFile(reading: path).contents())
        var result: [JSONObject] = []
        for (index, line) in lines.enumerated() {
            guard let entry = line.entry else {
                if index == lines.count - 1 { break }
                throw .entry(file: path, line: index + 1)
            }
            result.append(entry)
        }
        return result
    }

    /// The lines, each with its place (its newline included) and its object; nil where it is none or has no end.
    private static func lines(_ bytes: [UInt8]) -> [(range: Range<Int>, entry: JSONObject?)] {
        var result: [(range: Range<Int>, entry: JSONObject?)] = []
        var start = 0
        while start < bytes.count {
            guard let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) else {
                result.append((start..<bytes.count, nil))
                break
            }
            result.append((start..<end + 1, (try? JSONValue(parsing: Array(bytes[start..<end])))?.objectValue))
            start = end + 1
        }
        return result
    }
}
