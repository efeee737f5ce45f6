import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension TrainableDecoder {
    /// A model with fresh weights: matrices from N(0, deviation), norms 1, biases 0. Each weight depends on the seed and its
    /// name alone.
    /// - Parameters:
    ///   - deviation: 0.02 in the paper.
    ///   - ranks: the ranks that the model is cut over; its weights are the same on any number of them.
    public convenience init(
        initializing configuration: DecoderConfiguration, seed: UInt64, deviation: Float = 0.02,
        ranks: TensorParallel? = nil, on operations: DifferentiableOperations
    ) throws {
        let names = TensorNames.huggingFace(configuration)
        try self.init(configuration, ranks: ranks, on: operations) { role, shape in
            Self.freshWeight(role, shape, seed: seed, deviation: deviation, names)
        }
    }

    private static func freshWeight(
        _ role: TensorRole, _ shape: Shape, seed: UInt64, deviation: Float, _ names: TensorNames
    ) -> Tensor {
        let result = Tensor(uninitialized: shape)
        if role.isNormWeight {
            result.withMutableElements(of: Float.self) { $0.update(repeating: 1) }
        } else if shape.rank == 1 {
            result.fillWithZeros()
        } else {
            var normal = NormalNumbers(seed: seed, stream: names.name(of: role))
            result.withMutableElements(of: Float.self) { values in
                for index in values.indices { values[index] = deviation * normal.next() }
            }
        }
        return result
    }

    /// A model with the weights of a checkpoint, expanded to float32.
    /// - Throws: file errors; a weight with NaN or infinity by its name.
    public convenience init(
        _ checkpoint: any Checkpoint, ranks: TensorParallel? = nil, on operations: DifferentiableOperations
    ) throws {
        try self.init(checkpoint, as: checkpoint.configuration, seed: 0, ranks: ranks, on: operations)
    }

    /// A model with the weights of a checkpoint whose configuration may have another head: a score head that the checkpoint
    /// lacks is drawn from N(0, 1 / (hidden size + 1)), so that scores start near a deviation of 1.
    /// - Parameters:
    ///   - configuration: the checkpoint's but for its head.
    ///   - seed: of the head.
    ///   - ranks: the ranks that the model is cut over; nil for all of it.
    /// - Throws: file errors; a weight with NaN or infinity by its name.
    public convenience init(
        _ checkpoint: any Checkpoint, as configuration: DecoderConfiguration, seed: UInt64,
        ranks: TensorParallel? = nil, on operations: DifferentiableOperations
    ) throws {
        let known = Set(checkpoint.configuration.tensorRoles)
        let deviation = 1 / Float(configuration.hiddenSize + 1).squareRoot()
        try self.init(configuration, ranks: ranks, on: operations) { role, shape in
            if role == .score, !known.contains(role) {
                return Self.freshWeight(
                    role, shape, seed: seed, deviation: deviation, .huggingFace(configuration))
            }
            let tensor = try checkpoint.finiteTensor(role).float32()
            // A copy: the file's own bytes are read-only. Of what is cut the parts are copied.
            return ranks == nil ? operations.backend.copyToDevice(tensor) : tensor
        }
    }
}

extension TensorRole {
    /// Whether it multiplies a normalised value, so that 1 changes nothing.
    var isNormWeight: Bool {
        switch self {
        case .finalNorm: true
        case .layer(_, .attentionNorm), .layer(_, .feedForwardNorm), .layer(_, .queryNorm), .layer(_, .keyNorm),
            .layer(_, .queryLatentNorm), .layer(_, .latentNorm):
            true
        default: false
        }
    }
}

/// Numbers from N(0, 1), by Box and Muller, from SplitMix64 over a seed and a name.
struct NormalNumbers {
    private var state: UInt64
    private var spare: Float?

    init(seed: UInt64, stream: String) {
        // FNV-1a of the name.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in stream.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        state = seed &* 0x9e37_79b9_7f4a_7c15 ^ hash
    }

    private mutating func uniform() -> Double {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        z ^= z >> 31
        return (Double(z >> 11) + 0.5) / 9_007_199_254_740_992
    }

    mutating func next() -> Float {
        if let spare {
            self.spare = nil
            return spare
        }
        let radius = (-2 * log(uniform())).squareRoot()
        let angle = 2 * Double.pi * uniform()
        spare = Float(radius * sin(angle))
        return Float(radius * cos(angle))
    }
}
