import ApusText

/// How a model writes the calls of tools.
package enum ToolCallForm: String, Sendable, CaseIterable {
    /// `<tool_call>{"name": ..., "arguments": ...}</tool_call>`, anywhere in the answer: Hermes, Qwen, SmolLM2. A list of
    /// calls may stand between the tags.
    case hermes
    /// The whole answer is `{"name": ..., "parameters": ...}`, several divided by `;`, perhaps behind `<|python_tag|>`:
    /// Llama 3.
    case llama3
    /// The whole answer is one call or a list of calls as plain JSON: what a constraint by ``schema(of:isParallel:)``
    /// makes a model of any family write.
    case json
    /// Calls are not looked for.
    case none

    /// The form that a chat template tells a model to write, or by which it writes calls of earlier turns.
    /// - Parameter template: the template's source, where there is one.
    package static func detected(template: String?) -> ToolCallForm {
        guard let template else { return .hermes }
        if template.contains("<tool_call>") { return .hermes }
        if template.contains("<|python_tag|>") || template.contains("\"parameters\": dictionary") {
            return .llama3
        }
        return .hermes
    }

    /// What opens calls within text.
    var opener: [UInt8] {
        switch self {
        case .hermes: Array("<tool_call>".utf8)
        case .llama3: Array("<|python_tag|>".utf8)
        case .json, .none: []
        }
    }

    /// What closes them, where anything does.
    var closer: [UInt8] { self == .hermes ? Array("</tool_call>".utf8) : [] }

    /// Whether an answer may begin with a call without an opener.
    var isBare: Bool { self == .llama3 || self == .json }

    /// A JSON schema for answers in the form `json`: a call of one of the tools, or a list of at least one.
    /// - Parameters:
    ///   - tools: names and the schemas of their parameters; nil allows any object.
    ///   - isParallel: whether several calls are allowed.
    package static func schema(of tools: [(name: String, parameters: JSONValue?)], isParallel: Bool)
        -> JSONValue
    {
        var definitions = JSONObject()
        var choices: [JSONValue] = []
        for (index, tool) in tools.enumerated() {
            // References within a tool's schema are relative to it, so each keeps its own definitions beside it.
            definitions["tool\(index)"] =
                tool.parameters.map { moved($0, below: "#/$defs/tool\(index)") } ?? ["type": "object"]
            choices.append([
                "type": "object",
                "properties": [
                    "name": ["const": .string(tool.name)],
                    "arguments": ["$ref": .string("#/$defs/tool\(index)")],
                ],
                "required": ["name", "arguments"], "additionalProperties": false,
            ])
        }
        let call: JSONValue = ["anyOf": .array(choices)]
        var schema =
            isParallel
            ? ["type": "array", "items": call, "minItems": 1] as JSONObject : ["anyOf": .array(choices)]
        schema["$defs"] = .object(definitions)
        return .object(schema)
    }

    /// A schema whose references to its own root are made references below another place.
    private static func moved(_ schema: JSONValue, below place: String) -> JSONValue {
        switch schema {
        case .object(let object):
            .object(
                JSONObject(
                    object.map { member in
                        if member.key == "$ref", let reference = member.value.stringValue,
                            reference.hasPrefix("#")
                        {
                            return (member.key, .string(place + reference.dropFirst()))
                        }
                        return (member.key, moved(member.value, below: place))
                    }))
        case .array(let elements): .array(elements.map { moved($0, below: place) })
        default: schema
        }
    }
}
