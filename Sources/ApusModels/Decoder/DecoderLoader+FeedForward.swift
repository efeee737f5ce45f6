import ApusLayers
import ApusTensor

/// Dense feed-forwards and mixtures of experts.
extension DecoderLoader {
    func feedForward(_ index: Int) throws -> FeedForward {
        let hasBias = configuration.feedForwardBias
        let down = try residual(index, .down, .downBias, hasBias: hasBias)
        guard configuration.isGated else {
            let up = try linear(index, .up, .upBias, hasBias: hasBias)
            return .plain(up: up, down: down, activation: configuration.activation.operation, backend: backend)
        }
        if configuration.activation == .silu && !hasBias {
            return .swiglu(
                gate: try prepare(try tensor(index, .gate)), up: try prepare(try tensor(index, .up)),
                down: down, backend: backend)
        }
        return .gated(
            gate: try linear(index, .gate, .gateBias, hasBias: hasBias),
            up: try linear(index, .up, .upBias, hasBias: hasBias), down: down,
            activation: configuration.activation.operation, backend: backend)
    }

    func mixture(_ index: Int) throws -> MixtureOfExperts {
        guard let experts = configuration.experts else { preconditionFailure("layer \(index) has no experts") }
        func expert(_ gate: LayerTensor, _ up: LayerTensor, _ down: LayerTensor) throws -> MixtureOfExperts.Expert {
            MixtureOfExperts.Expert(
                gate: try prepare(try tensor(index, gate)), up: try prepare(try tensor(index, up)),
                down: try linear(index, down))
        }
        return MixtureOfExperts(
            router: ExpertRouter(
                logits: try Linear(weight: try tensor(index, .router).float32(), backend: backend),
                correction: experts.hasCorrection ? try tensor(index, .routerCorrection).float32().floats : nil,
                configuration: experts),
            experts: try (0..<experts.count).map { try expert(.expertGate($0), .expertUp($0), .expertDown($0)) },
            shared: experts.sharedWidth > 0 ? try expert(.sharedGate, .sharedUp, .sharedDown) : nil, backend: backend)
    }
}
