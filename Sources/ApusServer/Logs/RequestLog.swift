import ApusTensor
import Hummingbird
import Logging

/// Counts a request that was answered, and writes its line.
struct RequestLog: Sendable {
    let service: APIService
    let context: APIContext
    let request: Request
    let status: Int

    private static let probes: Set<String> = ["/health", "/ready", "/metrics"]

    func write() {
        let record = context.record.snapshot
        let route = context.endpointPath ?? "other"
        // A stream that failed had said 200 already; what it met counts.
        let final = record.failure.map { $0.status.code } ?? status
        service.counters.count(.init(route: route, method: request.method.rawValue, status: final))
        var metadata: Logger.Metadata = [
            "request_id": "\(record.id)", "method": "\(request.method.rawValue)", "path": "\(request.uri.path)",
            "status": .stringConvertible(final),
            "seconds": .stringConvertible(
                ((ContinuousClock.now - context.record.start).inSeconds * 1e6).rounded() / 1e6),
        ]
        if let usage = record.usage {
            metadata["prompt_tokens"] = .stringConvertible(usage.promptTokens)
            metadata["cached_tokens"] = .stringConvertible(usage.cachedTokens)
            metadata["completion_tokens"] = .stringConvertible(usage.completionTokens)
        }
        if let trace = record.traceParent { metadata["trace_id"] = "\(RequestNames.traceID(trace))" }
        if let failure = record.failure { metadata["error"] = "\(failure.message)" }
        // What probes and dashboards ask every second would drown the rest.
        let isProbe = Self.probes.contains(route) && final < 400
        context.logger.log(level: final >= 500 ? .error : isProbe ? .debug : .info, "request", metadata: metadata)
    }
}
