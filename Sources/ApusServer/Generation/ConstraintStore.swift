import ApusEngine
import ApusText
import Synchronization

/// Makes constraints for requests, and keeps those of the schemas that come again and again.
final class ConstraintStore: Sendable {
    private struct Contents {
        var vocabulary: ConstraintVocabulary?
        /// By schema; the one used last at the end.
        var constraints: [(schema: String, constraint: JSONConstraint)] = []
    }

    private static let limit = 16

    private let model: LanguageModel
    private let contents = Mutex(Contents())

    init(_ model: LanguageModel) { self.model = model }

    /// The constraint for what a response has to be; nil where it may be anything. A schema is compiled away from the event
    /// loop.
    /// - Throws: 400 for a schema that cannot be followed.
    func constraint(_ format: ResponseFormat) async throws -> JSONConstraint? {
        let schema: JSONValue
        switch format {
        case .text: return nil
        case .jsonObject: schema = ["type": "object"]
        case .jsonSchema(let given): schema = given
        }
        return try await Task.detached { try self.constraint(schema: schema) }.value
    }

    private func constraint(schema: JSONValue) throws(APIError) -> JSONConstraint {
        let name = schema.serialized()
        let known = contents.withLock { contents in
            guard let place = contents.constraints.firstIndex(where: { $0.schema == name }) else {
                return nil as JSONConstraint?
            }
            contents.constraints.append(contents.constraints.remove(at: place))
            return contents.constraints.last?.constraint
        }
        if let known { return known }
        let field = "response_format"
        let made: JSONConstraint
        let vocabulary = try vocabulary()
        do {
            made = try JSONConstraint(schema: schema, vocabulary: vocabulary)
        } catch {
            throw .invalid("\(field): \(error)", parameter: field, code: "invalid_schema")
        }
        contents.withLock { contents in
            contents.constraints.append((name, made))
            if contents.constraints.count > Self.limit { contents.constraints.removeFirst() }
        }
        return made
    }

    private func vocabulary() throws(APIError) -> ConstraintVocabulary {
        if let known = contents.withLock({ $0.vocabulary }) { return known }
        do {
            let made = try ConstraintVocabulary(model)
            return contents.withLock { contents in
                contents.vocabulary = contents.vocabulary ?? made
                return contents.vocabulary!
            }
        } catch {
            throw .invalid("response_format: not possible with this model: \(error)", parameter: "response_format")
        }
    }
}
