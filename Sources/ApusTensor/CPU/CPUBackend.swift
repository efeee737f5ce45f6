import CApusKernels

/// The operations on main memory, shared among a pool of threads.
///
/// Unchecked Sendable: the pool serialises calls from several threads, and the handle never changes.
public final class CPUBackend: Backend, @unchecked Sendable {
    /// A backend with one thread per usable core.
    public static let shared = CPUBackend()

    /// The pool's handle, for kernels that other targets call.
    package let pool: OpaquePointer

    /// How exact products are.
    public let precision: Precision

    /// A backend with its own pool.
    /// - Parameter threads: threads including the caller's; nil takes the cores this process may use.
    public init(threads: Int? = nil, precision: Precision = .automatic) {
        guard let pool = apus_pool_create(Int32(clamping: threads ?? 0)) else {
            fatalError("cannot start \(threads ?? 0) threads")
        }
        self.pool = pool
        self.precision = precision
    }

    deinit { apus_pool_destroy(pool) }

    /// Always ``Device/cpu``.
    public var device: Device { .cpu }

    /// Threads that share the work, the caller's included.
    public var threads: Int { Int(apus_pool_threads(pool)) }

    /// See ``Backend/concurrently(_:_:)``.
    public func concurrently(_ count: Int, _ body: @Sendable (Int) -> Void) {
        withoutActuallyEscaping(body) { body in
            var context = body
            withUnsafeMutablePointer(to: &context) { context in
                apus_pool_run(
                    pool, Int64(count), 1,
                    { context, begin, end, _ in
                        let body = context!.assumingMemoryBound(to: (@Sendable (Int) -> Void).self).pointee
                        for index in begin..<end { body(Int(index)) }
                    }, context)
            }
        }
    }

    var kernelPrecision: apus_precision {
        precision == .float32 ? APUS_PRECISION_F32 : APUS_PRECISION_DEFAULT
    }

    /// Rows and width of a contiguous float32 activation.
    static func matrix(_ x: Tensor, _ operation: String) -> (rows: Int, width: Int) {
        precondition(x.dtype == .f32 && x.isContiguous && x.shape.rank >= 1, "\(operation): float32 rows expected")
        let width = x.shape[-1]
        return (width == 0 ? 0 : x.count / width, width)
    }

    /// The shape of `x` with another last extent.
    static func shape(_ x: Tensor, width: Int) -> Shape {
        var shape = x.shape
        shape[-1] = width
        return shape
    }
}

extension DType {
    /// The kernels' name of a dtype that weights may have, or nil.
    package var kernelType: apus_dtype? {
        switch self {
        case .f32: APUS_F32
        case .bf16: APUS_BF16
        case .f16: APUS_F16
        case .q8_0: APUS_Q8_0
        case .q4_0: APUS_Q4_0
        case .q4_1: APUS_Q4_1
        case .q4_K: APUS_Q4_K
        case .q6_K: APUS_Q6_K
        default: nil
        }
    }
}
