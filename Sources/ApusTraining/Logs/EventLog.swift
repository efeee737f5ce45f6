import ApusText

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A run's scalars as TensorBoard reads them: an event file in a folder. Each opening starts a new file, as
/// TensorBoard expects of a resumed run.
public final class EventLog {
    private let file: LogFile

    /// Creates a new event file in `folder`, which must exist.
    /// - Parameter step: the step of the checkpoint that the run goes on from: what older files say of later steps is
    ///   void.
    /// - Throws: ``RunLogError``.
    public convenience init(folder: String, resumingAfter step: Int? = nil) throws(RunLogError) {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        var host = [CChar](repeating: 0, count: 256)
        gethostname(&host, host.count - 1)
        let name = String(decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // TensorBoard orders files by name, so the time stands first.
        try self.init(
            path: "\(folder)/events.out.tfevents.\(now.tv_sec).\(name).\(getpid()).\(now.tv_nsec)", resumingAfter: step)
    }

    /// Creates the event file at `path`.
    /// - Throws: ``RunLogError``.
    public init(
        path: String, resumingAfter step: Int? = nil, wallTime: Double = EventLog.now()
    ) throws(RunLogError) {
        file = try LogFile(path: path)
        try file.append(EventRecord.version(wallTime: wallTime))
        if let step { try file.append(EventRecord.start(atStep: step + 1, wallTime: wallTime)) }
    }

    /// Appends one step's scalars.
    /// - Parameters:
    ///   - scalars: tags as TensorBoard groups them (`train/loss`) and their values.
    ///   - wallTime: seconds since 1970.
    /// - Throws: ``RunLogError``.
    public func append(
        _ scalars: [(tag: String, value: Double)], step: Int, wallTime: Double = EventLog.now()
    ) throws(RunLogError) {
        try file.append(EventRecord.scalars(scalars, step: step, wallTime: wallTime))
    }

    /// Seconds since 1970.
    public static func now() -> Double {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) * 1e-9
    }
}
