import ApusText

/// How calls of tools are looked for in the answers to one request.
struct ToolUse: Sendable {
    let form: ToolCallForm
    let names: [String]
    /// Whether an answer may call several tools.
    let isParallel: Bool
    /// What answers are held to, where a call is required.
    let schema: JSONValue?

    /// Nil where the request lets no tool be called.
    init?(_ body: ChatRequest, template: ChatTemplate?) {
        switch body.toolChoice {
        case .none: return nil
        case .auto:
            form = .detected(template: template?.source)
            names = body.tools.map(\.name)
            isParallel = body.parallelToolCalls
            schema = nil
        case .required, .named:
            let allowed = body.tools.filter { body.toolChoice == .required || body.toolChoice == .named($0.name) }
            form = .json
            names = allowed.map(\.name)
            isParallel = body.parallelToolCalls && body.toolChoice == .required
            schema = ToolCallForm.schema(
                of: allowed.map { (name: $0.name, parameters: $0.parameters) }, isParallel: isParallel)
        }
    }

    /// A parser for one answer.
    func parser(isIncremental: Bool) -> ToolCallParser {
        ToolCallParser(form: form, tools: names, isIncremental: isIncremental)
    }

    /// The events that the request wants: those of the first call alone where it wants no more.
    func wanted(_ events: [ToolCallParser.Event]) -> [ToolCallParser.Event] {
        guard !isParallel else { return events }
        return events.filter { event in
            switch event {
            case .content: true
            case .call(let index, _, _), .arguments(let index, _): index == 0
            }
        }
    }
}
