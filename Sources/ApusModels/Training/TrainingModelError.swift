/// Why a configuration cannot be trained.
public enum TrainingModelError: Error, Equatable, CustomStringConvertible {
    /// The training form lacks something the model has.
    case unsupported(String)

    /// What is missing.
    public var description: String {
        switch self {
        case .unsupported(let what):
            "cannot train a model with \(what): the training form has RMSNorm before each half of a layer, SwiGLU without "
                + "biases, and dense layers"
        }
    }
}

extension TrainableDecoder {
    /// Whether the training form has all that a model needs.
    public static func trains(_ configuration: DecoderConfiguration) -> Bool {
        (try? checkTrainable(configuration)) != nil
    }

    /// Throws ``TrainingModelError`` for what the training form lacks.
    static func checkTrainable(_ configuration: DecoderConfiguration) throws {
        let lacks: [(Bool, String)] = [
            (configuration.normKind == .layer, "layer norms"),
            (configuration.parallelResidual, "parallel residuals"),
            (!configuration.isGated, "an ungated feed-forward"),
            (configuration.activation != .silu, "the activation \(configuration.activation.rawValue)"),
            (configuration.feedForwardBias, "feed-forward biases"),
            (configuration.experts != nil, "a mixture of experts"),
            (configuration.fusedQKV != nil, "a fused query-key-value projection"),
            (
                configuration.embeddingScale != 1 || configuration.residualScale != 1 || configuration.logitScale != 1,
                "scaled embeddings, residuals or logits"
            ),
        ]
        if let (_, what) = lacks.first(where: \.0) { throw TrainingModelError.unsupported(what) }
    }
}
