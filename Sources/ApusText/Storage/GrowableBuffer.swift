/// A growing run of trivial elements without the copy-on-write and bounds checks of an array: the working memory of
/// one encoding thread.
///
/// Exclusivity is not checked at run time: one thread owns a buffer and no method calls out while it changes it.
final class GrowableBuffer<Element: BitwiseCopyable> {
    @exclusivity(unchecked) private(set) var base: UnsafeMutablePointer<Element>
    @exclusivity(unchecked) private(set) var capacity: Int
    /// How many elements are in use.
    @exclusivity(unchecked) private(set) var count = 0

    init(capacity: Int) {
        base = .allocate(capacity: capacity)
        self.capacity = capacity
    }

    deinit { base.deallocate() }

    /// Makes room for `total` elements; those in use keep their values.
    @inline(__always)
    func reserve(_ total: Int) {
        if total > capacity { grow(total) }
    }

    private func grow(_ total: Int) {
        let larger = Swift.max(total, capacity * 2)
        let memory = UnsafeMutablePointer<Element>.allocate(capacity: larger)
        memory.update(from: base, count: count)
        base.deallocate()
        base = memory
        capacity = larger
    }

    @inline(__always)
    func append(_ element: Element) {
        reserve(count + 1)
        base[count] = element
        count += 1
    }

    @inline(__always)
    func append(_ start: UnsafePointer<Element>, _ length: Int) {
        reserve(count + length)
        let target = base + count
        // A call would cost more than the few elements that most runs have.
        if length <= 8 {
            for index in 0..<length { target[index] = start[index] }
        } else {
            target.update(from: start, count: length)
        }
        count += length
    }

    /// Forgets all elements and keeps the memory.
    @inline(__always)
    func removeAll() { count = 0 }

    /// Makes `count` elements, written before through `base`, the ones in use.
    @inline(__always)
    func setCount(_ count: Int) {
        assert(count <= capacity)
        self.count = count
    }

    @inline(__always)
    func removeLast() -> Element {
        count -= 1
        return base[count]
    }

    /// A copy of the elements.
    var array: [Element] { Array(UnsafeBufferPointer(start: base, count: count)) }
}
