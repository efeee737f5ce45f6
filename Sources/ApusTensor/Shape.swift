/// The extents of a tensor, outermost first; at most six, stored inline so that a shape costs no allocation.
public struct Shape: Sendable, Hashable, ExpressibleByArrayLiteral, CustomStringConvertible {
    /// The most dimensions a shape holds.
    public static let maximumRank = 6

    private var extents: (Int, Int, Int, Int, Int, Int) = (1, 1, 1, 1, 1, 1)

    /// Number of dimensions.
    public private(set) var rank: Int

    /// A shape from its extents. Precondition: at most ``maximumRank`` extents, none negative.
    public init(_ dims: some Collection<Int>) {
        precondition(dims.count <= Shape.maximumRank, "a shape has at most \(Shape.maximumRank) dimensions")
        rank = dims.count
        for (axis, extent) in dims.enumerated() {
            precondition(extent >= 0, "extent \(axis) is negative: \(extent)")
            setExtent(axis, extent)
        }
    }

    /// A shape from its extents.
    public init(arrayLiteral elements: Int...) { self.init(elements) }

    /// The extent of one axis; a negative axis counts from the end.
    public subscript(axis: Int) -> Int {
        get {
            switch normalized(axis) {
            case 0: extents.0
            case 1: extents.1
            case 2: extents.2
            case 3: extents.3
            case 4: extents.4
            default: extents.5
            }
        }
        set { setExtent(normalized(axis), newValue) }
    }

    private func normalized(_ axis: Int) -> Int {
        let index = axis < 0 ? axis + rank : axis
        precondition(index >= 0 && index < rank, "axis \(axis) of a shape of rank \(rank)")
        return index
    }

    private mutating func setExtent(_ axis: Int, _ value: Int) {
        switch axis {
        case 0: extents.0 = value
        case 1: extents.1 = value
        case 2: extents.2 = value
        case 3: extents.3 = value
        case 4: extents.4 = value
        default: extents.5 = value
        }
    }

    /// The extents as an array.
    public var dims: [Int] { (0..<rank).map { self[$0] } }

    /// Number of elements (1 for rank 0).
    public var count: Int {
        extents.0 * extents.1 * extents.2 * extents.3 * extents.4 * extents.5
    }

    /// Strides of the row-major layout, in elements.
    public var rowMajorStrides: Shape {
        var strides = self
        var step = 1
        for axis in stride(from: rank - 1, through: 0, by: -1) {
            strides[axis] = step
            step *= self[axis]
        }
        return strides
    }

    /// Whether two shapes have the same rank and extents.
    public static func == (a: Shape, b: Shape) -> Bool {
        a.rank == b.rank && a.extents == b.extents
    }

    /// Hashes rank and extents.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(rank)
        for axis in 0..<rank { hasher.combine(self[axis]) }
    }

    /// `[2, 3]`.
    public var description: String { "\(dims)" }
}
