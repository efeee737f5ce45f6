import ApusSynchronization
import ApusText

/// Constraints by their schemas, the most recently used ones: requests that repeat a schema share its automaton and masks.
public final class JSONConstraintCache: Sendable {
    private struct Entry {
        var constraint: JSONConstraint
        var lastUse: Int
    }

    private struct Entries {
        var known: [String: Entry] = [:]
        var uses = 0
    }

    private let vocabulary: ConstraintVocabulary
    private let whitespace: JSONWhitespace
    private let capacity: Int
    private let entries = Locked(Entries())

    /// A cache of at most `capacity` constraints.
    public init(_ vocabulary: ConstraintVocabulary, whitespace: JSONWhitespace = .flexible, capacity: Int = 32) {
        self.vocabulary = vocabulary
        self.whitespace = whitespace
        self.capacity = max(capacity, 1)
    }

    /// The constraint of a schema, compiled where it is not known. Two threads that ask for the same new schema at once may
    /// both compile it.
    /// - Throws: ``JSONSchemaError``.
    public func constraint(for schema: JSONValue) throws(JSONSchemaError) -> JSONConstraint {
        let key = schema.serialized()
        let known: JSONConstraint? = entries.withLock { entries in
            entries.uses += 1
            entries.known[key]?.lastUse = entries.uses
            return entries.known[key]?.constraint
        }
        if let known { return known }
        let made = try JSONConstraint(schema: schema, vocabulary: vocabulary, whitespace: whitespace)
        entries.withLock { entries in
            if entries.known.count >= capacity,
                let oldest = entries.known.min(by: { $0.value.lastUse < $1.value.lastUse })
            {
                entries.known[oldest.key] = nil
            }
            entries.known[key] = Entry(constraint: made, lastUse: entries.uses)
        }
        return made
    }
}
