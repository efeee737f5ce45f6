import ApusText

/// What the output must be: OpenAI's `response_format`.
enum ResponseFormat: Sendable, Equatable {
    /// Anything.
    case text
    /// A JSON object.
    case jsonObject
    /// JSON that a schema describes.
    case jsonSchema(JSONValue)

    init(_ fields: RequestFields) throws(APIError) {
        self = .text
        guard let node = try fields.optional("response_format") else { return }
        do throws(JSONError) {
            let type = try node.child("type", expected: "text, json_object or json_schema")
            switch try type.string() {
            case "text": self = .text
            case "json_object": self = .jsonObject
            case "json_schema":
                let description = try node.child("json_schema", expected: "an object with name and schema")
                let schema = try description.child("schema", expected: "a JSON schema")
                switch schema.value {
                case .object, .bool: self = .jsonSchema(schema.value)
                default: throw schema.error(expected: "a JSON schema")
                }
            default: throw type.error(expected: "text, json_object or json_schema")
            }
        } catch { throw APIError(error) }
    }
}
