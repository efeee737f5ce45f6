/// The four normalisation forms of Unicode (UAX 15), with the version of Unicode that `tokenizers` uses.
enum NormalizationForm: String, Sendable {
    case nfc = "NFC"
    case nfd = "NFD"
    case nfkc = "NFKC"
    case nfkd = "NFKD"

    private var isCompatible: Bool { self == .nfkc || self == .nfkd }
    private var composes: Bool { self == .nfc || self == .nfkc }

    /// The normalised text, or nil where nothing in it can change.
    func normalize(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
        let data = NormalizationData.shared
        let flag: UInt8 =
            switch self {
            case .nfd: NormalizationData.changesInNFD
            case .nfkd: NormalizationData.changesInNFKD
            case .nfc: NormalizationData.mayChangeInNFC
            case .nfkc: NormalizationData.mayChangeInNFKC
            }
        guard mayChange(text, flag, data) else { return nil }
        var scalars: [UInt32] = []
        scalars.reserveCapacity(text.count)
        var index = 0
        while index < text.count {
            let (scalar, length) = UTF8Text.decode(text.baseAddress! + index)
            data.decompose(scalar, isCompatible: isCompatible, into: &scalars)
            index += length
        }
        data.sortMarks(&scalars)
        if composes { data.compose(&scalars) }
        var result: [UInt8] = []
        result.reserveCapacity(text.count)
        for scalar in scalars { UTF8Text.append(scalar, to: &result) }
        return result
    }

    private func mayChange(_ text: UnsafeBufferPointer<UInt8>, _ flag: UInt8, _ data: NormalizationData) -> Bool {
        let base = text.baseAddress!
        var index = 0
        while index < text.count {
            if base[index] < 0x80 {
                index += 1
                continue
            }
            let (scalar, length) = UTF8Text.decode(base + index)
            if data.flags[Int(scalar)] & flag != 0 { return true }
            index += length
        }
        return false
    }
}

/// Decompositions, compositions and combining classes, read from the generated tables at first use.
struct NormalizationData: Sendable {
    static let shared = NormalizationData()

    static let changesInNFD: UInt8 = 1
    static let changesInNFKD: UInt8 = 2
    static let mayChangeInNFC: UInt8 = 4
    static let mayChangeInNFKC: UInt8 = 8

    /// Bits by scalar: what may happen to it, taken alone or after others.
    let flags: FixedBuffer<UInt8>
    private let combiningClasses: FixedBuffer<UInt8>
    private let canonical: [UInt32: [UInt32]]
    private let compatible: [UInt32: [UInt32]]
    private let compositions: [UInt64: UInt32]

    private static let hangulBase: UInt32 = 0xAC00
    private static let hangulCount: UInt32 = 11172
    private static let leadBase: UInt32 = 0x1100
    private static let vowelBase: UInt32 = 0x1161
    private static let trailBase: UInt32 = 0x11A7

    private init() {
        let canonical = Self.decompositions(CanonicalData.decompositions)
        let compatible = Self.decompositions(CompatibilityData.decompositions)
        let classes = FixedBuffer<UInt8>(repeating: 0, count: 0x11_0000)
        HexText.forEachRecord(of: CanonicalData.combiningClasses) { numbers in
            for scalar in numbers[0]..<numbers[0] + numbers[1] { classes[scalar] = UInt8(numbers[2]) }
        }
        var excluded: Set<UInt32> = []
        HexText.forEachRecord(of: CanonicalData.compositionExclusions) { numbers in
            for scalar in numbers[0]..<numbers[0] + numbers[1] { excluded.insert(UInt32(scalar)) }
        }
        let flags = FixedBuffer<UInt8>(repeating: 0, count: 0x11_0000)
        for scalar in 0..<0x11_0000 where classes[scalar] != 0 { flags[scalar] = 0xF }
        for scalar in canonical.keys { flags[Int(scalar)] |= Self.changesInNFD | Self.changesInNFKD }
        for scalar in compatible.keys { flags[Int(scalar)] |= Self.changesInNFKD | Self.mayChangeInNFKC }
        for scalar in excluded { flags[Int(scalar)] |= Self.mayChangeInNFC | Self.mayChangeInNFKC }
        for scalar in Self.hangulBase..<Self.hangulBase + Self.hangulCount {
            flags[Int(scalar)] |= Self.changesInNFD | Self.changesInNFKD
        }
        for scalar in Self.vowelBase...0x11C2 { flags[Int(scalar)] |= Self.mayChangeInNFC | Self.mayChangeInNFKC }
        let composites = Dictionary(
            canonical.lazy.filter { !excluded.contains($0.key) }.map { ($0.value, $0.key) }, uniquingKeysWith: min)
        var compositions: [UInt64: UInt32] = [:]
        for (scalar, parts) in canonical where parts.count > 1 && !excluded.contains(scalar) {
            // The table holds full decompositions; composition goes pair by pair, so the last part joins whatever
            // composite the parts before it make.
            guard let first = parts.count == 2 ? parts[0] : composites[parts.dropLast()] else { continue }
            compositions[UInt64(first) << 32 | UInt64(parts.last!)] = scalar
            flags[Int(parts.last!)] |= Self.mayChangeInNFC | Self.mayChangeInNFKC
        }
        self.flags = flags
        combiningClasses = classes
        self.canonical = canonical
        self.compatible = compatible
        self.compositions = compositions
    }

    private static func decompositions(_ text: StaticString) -> [UInt32: [UInt32]] {
        var result: [UInt32: [UInt32]] = [:]
        var scalar: UInt32 = 0
        HexText.forEachRecord(of: text) { numbers in
            scalar += UInt32(numbers[0])
            result[scalar] = numbers.dropFirst().map { UInt32($0) }
        }
        return result
    }

    /// Appends the full decomposition of a scalar.
    func decompose(_ scalar: UInt32, isCompatible: Bool, into result: inout [UInt32]) {
        if scalar < 0x80 || flags[Int(scalar)] & (Self.changesInNFD | Self.changesInNFKD) == 0 {
            result.append(scalar)
        } else if scalar >= Self.hangulBase, scalar < Self.hangulBase + Self.hangulCount {
            let index = scalar - Self.hangulBase
            result.append(Self.leadBase + index / 588)
            result.append(Self.vowelBase + index % 588 / 28)
            if index % 28 != 0 { result.append(Self.trailBase + index % 28) }
        } else if isCompatible, let parts = compatible[scalar] {
            result += parts
        } else if let parts = canonical[scalar] {
            result += parts
        } else {
            result.append(scalar)
        }
    }

    /// Puts each run of marks into the order of their combining classes, keeping the order of equal ones.
    func sortMarks(_ scalars: inout [UInt32]) {
        var index = 0
        while index < scalars.count {
            guard combiningClasses[Int(scalars[index])] != 0 else {
                index += 1
                continue
            }
            var end = index + 1
            while end < scalars.count, combiningClasses[Int(scalars[end])] != 0 { end += 1 }
            if end - index > 1 {
                let sorted = scalars[index..<end].enumerated().sorted { left, right in
                    let classes = (combiningClasses[Int(left.element)], combiningClasses[Int(right.element)])
                    return classes.0 != classes.1 ? classes.0 < classes.1 : left.offset < right.offset
                }
                scalars.replaceSubrange(index..<end, with: sorted.map(\.element))
            }
            index = end
        }
    }

    /// Composes what can be composed, in place.
    func compose(_ scalars: inout [UInt32]) {
        var kept = 0
        var starter = -1
        var lastClass: UInt8 = 0
        for index in scalars.indices {
            let scalar = scalars[index]
            let mark = combiningClasses[Int(scalar)]
            // A mark is blocked by one of its own class or above between it and the starter, a starter by any.
            let isAdjacent = starter == kept - 1
            if starter >= 0, isAdjacent || (lastClass < mark && lastClass != 0),
                let composite = composite(scalars[starter], scalar)
            {
                scalars[starter] = composite
                continue
            }
            if mark == 0 {
                starter = kept
                lastClass = 0
            } else {
                lastClass = mark
            }
            scalars[kept] = scalar
            kept += 1
        }
        scalars.removeSubrange(kept...)
    }

    private func composite(_ first: UInt32, _ second: UInt32) -> UInt32? {
        if first >= Self.leadBase, first < Self.leadBase + 19, second >= Self.vowelBase, second < Self.vowelBase + 21 {
            return Self.hangulBase + (first - Self.leadBase) * 588 + (second - Self.vowelBase) * 28
        }
        if first >= Self.hangulBase, first < Self.hangulBase + Self.hangulCount, (first - Self.hangulBase) % 28 == 0,
            second > Self.trailBase, second < Self.trailBase + 28
        {
            return first + (second - Self.trailBase)
        }
        return compositions[UInt64(first) << 32 | UInt64(second)]
    }
}
