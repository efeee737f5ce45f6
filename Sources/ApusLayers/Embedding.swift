import ApusTensor

/// A table of token vectors.
public struct Embedding: Sendable {
    /// [vocabulary, width], any dtype; rows are expanded when they are looked up.
    public let table: Tensor
    private let backend: any Backend

    /// An embedding over a table.
    public init(table: Tensor, backend: any Backend) {
        self.table = table
        self.backend = backend
    }

    /// The vectors of the tokens, float32 [tokens.count, width].
    public func callAsFunction(_ tokens: [Int32]) -> Tensor { backend.embedding(tokens, table: table) }
}
