import ApusModels
import ApusTensor

/// Steps on a GPU. Sequences that all get one token run as a recorded graph, anything else as a chunk of prompts.
final class GPUStepExecutor: StepExecutor {
    private let gpu: GPUDecoder
    /// Whether the step's logits are in the GPU's memory already, those of all its rows.
    private var keptRows: Int?
    /// Sequences of the step.
    private var sequences = 0

    init(_ gpu: GPUDecoder) { self.gpu = gpu }

    func copyPage(from: Int32, to: Int32) throws { try gpu.copyPage(from: Int(from), to: Int(to)) }

    func runLayers(_ tokens: [Int32], _ tables: [StepTable]) throws {
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
        let values = isWholeStep(rows) ? try gpu.logits() : try gpu.logits(ofRows: rows)
        // Logits of other rows take the place of the step's.
        if !isWholeStep(rows) { keptRows = nil }
        return Tensor(values, shape: [rows.count, values.count / rows.count])
    }

    func likeliestTokens(rows: [Int]) throws -> [Int32]? {
        let isWhole = isWholeStep(rows)
        guard isWhole || (keptRows == nil && rows.count <= sequences) else { return nil }
        let tokens = try isWhole ? gpu.tokens() : gpu.likeliestTokens(ofRows: rows)
        // Whose logits are NaN, the logits tell.
        return tokens.allSatisfy { $0 >= 0 } ? tokens : nil
    }

    private func isWholeStep(_ rows: [Int]) -> Bool { keptRows == rows.count && rows.elementsEqual(rows.indices) }

    func replaceWeights(by decoder: Decoder) {
        preconditionFailure("an engine on a GPU refuses other weights before its thread hears of them")
    }

    var idleSeconds: Double? { nil }
    func idle() {}
    func stop() {}
}
