import ApusTensor

/// A random step to check.
struct DecodeCase: CustomStringConvertible {
    let format: GPUCacheFormat
    let queryTokens: Int
    let lengths: [Int]
    let gain: Float
    let seed: UInt64

    init(_ family: AttentionCheck.Family, _ random: inout SplitMix64) throws {
        let isFP8 = family == .fp8
        let geometry = try Self.geometry(
            isFP8 ? [.latent, .latent, .tied].randomElement(using: &random)! : family, &random)
        let pages = isFP8 ? [8, 16, 64, 64, 128] : [1, 3, 16, 64, 64, 128]
        format = try GPUCacheFormat(
            geometry: geometry, pageSize: pages.randomElement(using: &random)!, element: isFP8 ? .f8e4m3 : .bf16)
        queryTokens = [1, 1, 2, 2, 3, 4, 5, 8, 16].randomElement(using: &random)!
        let top = [70, 600, 4000].randomElement(using: &random)!
        lengths = (0..<[1, 2, 3, 7, 20].randomElement(using: &random)!).map { _ in
            switch Int.random(in: 0..<4, using: &random) {
            case 0: 0
            case 1: 1
            case 2: Int.random(in: 0...130, using: &random)
            default: Int.random(in: 1...top, using: &random)
            }
        }
        // Large queries: weights on few tokens, and scores far beyond what exp can take.
        gain = [1, 1, 0.1, 30].randomElement(using: &random)!
        seed = random.next()
    }

    static func geometry(
        _ family: AttentionCheck.Family, _ random: inout SplitMix64
    ) throws -> CacheGeometry {
        switch family {
        case .latent, .fp8, .append:
            let widths = [
                (256, 64), (256, 64), (256, 64), (512, 64), (512, 64), (384, 32), (128, 32), (192, 32), (192, 48),
                (256, 32),
            ].randomElement(using: &random)!
            let latents = [1, 1, 2, 2, 3, 4, 8].randomElement(using: &random)!
            let heads = [8, 12, 16, 32, 64, 128].randomElement(using: &random)!
            return try .gla(
                queryHeads: latents * heads, latentHeads: latents, latentWidth: widths.0, ropeWidth: widths.1)
        case .tied:
            let groups = [1, 2, 3, 4, 8].randomElement(using: &random)!
            let heads = [4, 8, 12, 16, 32].randomElement(using: &random)!
            return try .gta(
                queryHeads: groups * heads, kvHeads: groups, headWidth: [64, 96, 128].randomElement(using: &random)!)
        case .grouped:
            let groups = [1, 2, 3, 4, 8].randomElement(using: &random)!
            let heads = [1, 2, 4, 8, 12, 32].randomElement(using: &random)!
            return try .gqa(
                queryHeads: groups * heads, kvHeads: groups,
                headWidth: [64, 96, 128, 256].randomElement(using: &random)!)
        }
    }

    var description: String {
        "\(format.geometry), page size \(format.pageSize), \(format.element.rawValue), \(queryTokens) query tokens, "
            + "lengths \(lengths), gain \(gain), seed \(seed)"
    }
}
