/// Memory for a fixed number of trivial elements, freed with its last owner. The one owner of raw memory in
/// `ApusText`'s tables: a table fills it while it is built and only reads it afterwards.
///
/// Indices are not checked in release builds; each table states why its indices are in range.
final class FixedBuffer<Element: BitwiseCopyable>: @unchecked Sendable {
    // Unchecked: a buffer is written only by the initialiser of the table that owns it, before it is shared.
    let base: UnsafeMutablePointer<Element>
    let count: Int

    init(repeating value: Element, count: Int) {
        base = .allocate(capacity: Swift.max(count, 1))
        base.initialize(repeating: value, count: count)
        self.count = count
    }

    convenience init(_ elements: [Element]) where Element: AdditiveArithmetic {
        self.init(repeating: .zero, count: elements.count)
        elements.withUnsafeBufferPointer { source in
            if let start = source.baseAddress { base.update(from: start, count: count) }
        }
    }

    deinit { base.deallocate() }

    @inline(__always)
    subscript(index: Int) -> Element {
        get {
            assert(index >= 0 && index < count)
            return base[index]
        }
        set {
            assert(index >= 0 && index < count)
            base[index] = newValue
        }
    }
}
