import ApusModels
import ApusTensor

/// A decoder and the heads of its objective, as one.
final class TrainedModule: Module {
    /// What stands before the names of the heads' parameters.
    static let headPrefix = "heads."

    private let model: TrainableDecoder
    private let heads: (any Module)?

    init(_ model: TrainableDecoder, heads: (any Module)?) {
        self.model = model
        self.heads = heads
    }

    func visitParameters(_ visit: (_ name: String, _ parameter: Parameter) -> Void) {
        model.visitParameters(visit)
        heads?.visitParameters { visit(Self.headPrefix + $0, $1) }
    }
}
