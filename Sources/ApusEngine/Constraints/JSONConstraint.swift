import ApusSynchronization
import ApusText

/// Holds generation to JSON that fits a schema, token by token: at every step the tokens that can still lead to a fitting
/// value, and no others, are allowed.
///
/// ```swift
/// let vocabulary = try ConstraintVocabulary(model)
/// let constraint = try JSONConstraint(schema: try JSONValue(parsing: text), vocabulary: vocabulary)
/// ```
///
/// `docs/structured-output.md` says which keywords are followed and how JSON is written. Masks are remembered by the
/// automaton's state; one that is remembered costs a look-up, another a walk over the vocabulary's tree. Shared by any
/// number of requests and threads.
public final class JSONConstraint: TokenConstraint {
    private struct Core {
        var automaton: PushdownAutomaton
        /// By tree of the vocabulary: its tokens allowed, by states that stand for all that they cannot tell apart.
        var parts: [[Int32: TokenMask]]
        /// All tokens allowed, by states that stand for all that no token can tell apart.
        var masks: [Int32: TokenMask] = [:]
        var epoch = 0
    }

    private let vocabulary: ConstraintVocabulary
    private let core: Locked<Core>
    private let maskLimit: Int

    private static let maskBytesLimit = 8 << 20

    /// A constraint for the values that fit a schema.
    /// - Parameters:
    ///   - schema: a JSON schema (2020-12 or the older drafts' spelling of the same).
    ///   - vocabulary: the model's tokens.
    ///   - whitespace: what may stand between JSON's parts.
    /// - Throws: ``JSONSchemaError``, naming the place in the schema.
    public init(
        schema: JSONValue, vocabulary: ConstraintVocabulary, whitespace: JSONWhitespace = .flexible
    ) throws(JSONSchemaError) {
        self.vocabulary = vocabulary
        let grammar = try SchemaCompiler.grammar(of: schema, whitespace: whitespace)
        core = Locked(
            Core(
                automaton: PushdownAutomaton(grammar, horizons: vocabulary.tries.map(\.depth)),
                parts: vocabulary.tries.map { _ in [:] }))
        maskLimit = max(Self.maskBytesLimit / max(vocabulary.size / 8, 1), 64)
    }

    /// A constraint for any JSON object, whatever is in it.
    public static func anyObject(
        vocabulary: ConstraintVocabulary, whitespace: JSONWhitespace = .flexible
    ) throws(JSONSchemaError) -> JSONConstraint {
        try JSONConstraint(schema: ["type": "object"], vocabulary: vocabulary, whitespace: whitespace)
    }

    /// A state before the first token.
    public func makeState() -> any TokenConstraintState { JSONConstraintState(constraint: self) }

    /// Whether a whole text fits, read byte by byte as a model would write it.
    public func accepts(_ text: [UInt8]) -> Bool {
        core.withLock { core in
            var state = core.automaton.start
            for byte in text {
                state = core.automaton.step(state, byte)
                if state == PushdownAutomaton.dead { return false }
            }
            return core.automaton.isComplete(state)
        }
    }

    fileprivate struct Position {
        var state: Int32
        var epoch: Int
    }

    fileprivate var start: Position {
        core.withLock { Position(state: $0.automaton.start, epoch: $0.automaton.epoch) }
    }

    /// The position after `text`, which was read before, where its state has been forgotten.
    private static func current(_ position: Position, _ text: [UInt8], _ core: inout Core) -> Int32 {
        guard position.epoch != core.automaton.epoch else { return position.state }
        var state = core.automaton.start
        for byte in text { state = core.automaton.step(state, byte) }
        return state
    }

    fileprivate func mask(at position: Position, after text: [UInt8]) -> TokenMask {
        core.withLock { core in
            core.automaton.forgetIfLarge()
            if core.masks.count >= maskLimit || core.epoch != core.automaton.epoch {
                core.masks = [:]
                core.parts = vocabulary.tries.map { _ in [:] }
                core.epoch = core.automaton.epoch
            }
            let current = Self.current(position, text, &core)
            let state = core.automaton.representative(current, horizon: vocabulary.tries.count - 1)
            if let known = core.masks[state] { return known }
            var mask = TokenMask(vocabularySize: vocabulary.size)
            for index in vocabulary.tries.indices { mask.formUnion(part(index, at: state, &core)) }
            if core.automaton.isComplete(state) { for token in vocabulary.endTokens { mask.insert(token) } }
            core.masks[state] = mask
            return mask
        }
    }

    /// The tokens of one tree that may come in a state.
    private func part(_ index: Int, at state: Int32, _ core: inout Core) -> TokenMask {
        let state = core.automaton.representative(state, horizon: index)
        if let known = core.parts[index][state] { return known }
        var mask = TokenMask(vocabularySize: vocabulary.size)
        vocabulary.tries[index].collect(&core.automaton, from: state, into: &mask)
        core.parts[index][state] = mask
        return mask
    }

    fileprivate func isComplete(_ position: Position, _ text: [UInt8]) -> Bool {
        core.withLock { $0.automaton.isComplete(Self.current(position, text, &$0)) }
    }

    /// The position after a token, or nil where it may not come.
    fileprivate func advance(_ position: Position, _ text: inout [UInt8], _ token: Int32) -> Position? {
        core.withLock { core in
            var state = Self.current(position, text, &core)
            if vocabulary.endTokens.contains(token) {
                guard core.automaton.isComplete(state) else { return nil }
                return Position(state: state, epoch: core.automaton.epoch)
            }
            guard token >= 0, Int(token) < vocabulary.spellings.count, let bytes = vocabulary.spellings[Int(token)],
                !bytes.isEmpty
            else { return nil }
            for byte in bytes {
                state = core.automaton.step(state, byte)
                if state == PushdownAutomaton.dead { return nil }
            }
            text += bytes
            return Position(state: state, epoch: core.automaton.epoch)
        }
    }
}

/// One sample's walk through a ``JSONConstraint``.
private struct JSONConstraintState: TokenConstraintState {
    let constraint: JSONConstraint
    private var position: JSONConstraint.Position
    /// What was read, to find the place again when the constraint has forgotten its states.
    private var text: [UInt8] = []

    init(constraint: JSONConstraint) {
        self.constraint = constraint
        position = constraint.start
    }

    func allowedMask() -> TokenMask { constraint.mask(at: position, after: text) }

    mutating func accept(_ token: Int32) -> Bool {
        guard let next = constraint.advance(position, &text, token) else { return false }
        position = next
        return true
    }

    var isComplete: Bool { constraint.isComplete(position, text) }
}
