import ApusText

/// A tool that the model may call.
struct ToolDefinition: Sendable, Equatable {
    let name: String
    /// The JSON schema of its arguments; nil where it takes none.
    let parameters: JSONValue?
    /// The whole definition, as chat templates take it.
    let json: JSONValue

    /// Most tools of one request.
    static let limit = 128

    static func list(_ fields: RequestFields) throws(APIError) -> [ToolDefinition] {
        guard let node = try fields.optional("tools") else { return [] }
        do throws(JSONError) {
            let elements = try node.elements()
            guard elements.count <= limit else { throw node.error(expected: "at most \(limit) tools") }
            var result: [ToolDefinition] = []
            for element in elements {
                let type = try element.child("type", expected: "function")
                guard try type.string() == "function" else { throw type.error(expected: "function") }
                let function = try element.child("function", expected: "an object with a name")
                let parameters = try function.optional("parameters")
                if let parameters { _ = try parameters.object() }
                let name = try function.child("name", expected: "a non-empty string")
                guard try !name.string().isEmpty else { throw name.error(expected: "a non-empty string") }
                result.append(
                    ToolDefinition(
                        name: try name.string(), parameters: parameters?.value, json: element.value))
            }
            return result
        } catch { throw APIError(error) }
    }
}

/// Whether the model may, must, or must not call tools.
enum ToolChoice: Sendable, Equatable {
    case none
    case auto
    case required
    case named(String)

    init(_ fields: RequestFields, tools: [ToolDefinition]) throws(APIError) {
        guard let node = try fields.optional("tool_choice") else {
            self = tools.isEmpty ? .none : .auto
            return
        }
        do throws(JSONError) {
            let expected = "none, auto, required or an object that names a function"
            switch node.value {
            case .string("none"): self = .none
            case .string("auto"): self = tools.isEmpty ? .none : .auto
            case .string("required"): self = .required
            case .object:
                let name = try node.child("function", expected: "an object with a name").child("name")
                let wanted = try name.string()
                guard tools.contains(where: { $0.name == wanted }) else {
                    throw name.error(expected: "the name of one of the tools")
                }
                self = .named(wanted)
            default: throw node.error(expected: expected)
            }
        } catch { throw APIError(error) }
        if self == .required && tools.isEmpty {
            throw .invalid("tool_choice: required, but tools is empty", parameter: "tool_choice")
        }
    }
}
