import ApusModels
import ApusTensor

/// Steps on a GPU, or on those of the ranks that a model is cut over. Sequences that all get one token run as a recorded
/// graph, anything else as a chunk of prompts.
final class GPUStepExecutor: StepExecutor {
    private let gpu: GPUDecoder
    /// Tells the other ranks of a cut model what to compute; nil where there are none, and on those ranks.
    private let commands: RankCommands?
    /// Whether what is computed is wanted here: not on ranks that do what they are told.
    private let leads: Bool
    /// Whether the step's logits are in the GPU's memory already, those of all its rows.
    private var keptRows: Int?
    /// Sequences of the step.
    private var sequences = 0

    /// - Parameters:
    ///   - ranks: those that the decoder is cut over.
    ///   - leads: whether it tells the others what to compute; false for one that does what it is told.
    init(_ gpu: GPUDecoder, ranks: TensorParallel? = nil, leads: Bool = true) {
        self.gpu = gpu
        self.leads = leads
        commands = leads ? ranks.map { RankCommands(communicator: $0.communicator) } : nil
    }

    func copyPage(from: Int32, to: Int32) throws {
        try commands?.send(.copyPage(from: from, to: to))
        try gpu.copyPage(from: Int(from), to: Int(to))
    }

    func runLayers(_ tokens: [Int32], _ tables: [StepTable]) throws {
        try commands?.send(.layers(tokens: tokens, tables: tables))
        var first = 0
        let rows = tables.map { table in
            defer { first += table.tokens }
            return GPUDecoder.Row(
                tokens: Array(tokens[first..<first + table.tokens]), cached: table.length, pages: table.pages)
        }
        (keptRows, sequences) = (nil, tables.count)
        if tables.allSatisfy({ $0.tokens == 1 }) {
            try gpu.load(rows)
            try gpu.advance(logits: true)
            keptRows = rows.count
        } else {
            try gpu.runLayers(rows)
        }
    }

    func normalizedStates(_ rows: Range<Int>) throws -> Tensor {
        Tensor(try gpu.normalizedStates(rows), shape: [rows.count, gpu.configuration.hiddenSize])
    }

    func logits(rows: [Int]) throws -> Tensor {
        try commands?.send(.logits(rows: rows.map { Int32($0) }))
        let values = isWholeStep(rows) ? try gpu.logits(keeps: leads) : try gpu.logits(ofRows: rows, keeps: leads)
        // Logits of other rows take the place of the step's.
        if !isWholeStep(rows) { keptRows = nil }
        return Tensor(values, shape: [rows.count, values.count / rows.count])
    }

    func likeliestTokens(rows: [Int]) throws -> [Int32]? {
        let isWhole = isWholeStep(rows)
        guard isWhole || (keptRows == nil && rows.count <= sequences) else { return nil }
        if !isWhole { try commands?.send(.likeliest(rows: rows.map { Int32($0) })) }
        let tokens = try isWhole ? gpu.tokens() : gpu.likeliestTokens(ofRows: rows)
        // Whose logits are NaN, the logits tell.
        return tokens.allSatisfy { $0 >= 0 } ? tokens : nil
    }

    private func isWholeStep(_ rows: [Int]) -> Bool { keptRows == rows.count && rows.elementsEqual(rows.indices) }

    func replaceWeights(by decoder: Decoder) {
        preconditionFailure("an engine on a GPU refuses other weights before its thread hears of them")
    }

    var idleSeconds: Double? { commands?.idleSeconds }

    func idle() { try? commands?.send(.idle) }

    // Where ranks are gone, the job ends by itself.
    func stop() { try? commands?.send(.stop) }
}
