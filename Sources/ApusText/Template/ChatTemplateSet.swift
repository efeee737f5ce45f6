/// The templates that a model's files hold: usually one, sometimes one more for tools or for documents.
///
/// ```swift
/// let templates = try ChatTemplateSet(tokenizerConfig: config, templateFile: nil)
/// let template = try templates.template(forTools: true)
/// ```
public struct ChatTemplateSet: Sendable {
    /// The sources by name, in the order of the file; the one that is meant when nothing is said is "default".
    public let sources: [(name: String, source: String)]

    /// A set of named sources.
    public init(sources: [(name: String, source: String)]) {
        self.sources = sources
    }

    /// A set with one template, as GGUF files hold it.
    public init(source: String) {
        self.init(sources: [("default", source)])
    }

    /// Reads the templates of a Hugging Face directory.
    /// - Parameters:
    ///   - tokenizerConfig: tokenizer_config.json, whose `chat_template` is a string or an array of objects with
    ///     `name` and `template`; nil where there is no such file.
    ///   - templateFile: the text of chat_template.jinja, which comes before the configuration's default.
    ///   - additionalFiles: the texts of additional_chat_templates/NAME.jinja by NAME.
    /// - Throws: `TemplateError.form` where `chat_template` has another form.
    public init(
        tokenizerConfig: JSONNode?, templateFile: String? = nil, additionalFiles: [String: String] = [:]
    ) throws(TemplateError) {
        var sources: [(name: String, source: String)] = []
        do throws(JSONError) {
            if let node = try tokenizerConfig?.optional("chat_template") {
                switch node.value {
                case .string(let source): sources = [("default", source)]
                case .array:
                    for element in try node.elements() {
                        sources.append((try element.string("name"), try element.string("template")))
                    }
                default: throw node.error(expected: "a string or an array of named templates")
                }
            }
        } catch {
            throw .form(error)
        }
        if let templateFile {
            sources.removeAll { $0.name == "default" }
            sources.insert(("default", templateFile), at: 0)
        }
        for (name, source) in additionalFiles.sorted(by: { $0.key < $1.key }) {
            sources.removeAll { $0.name == name }
            sources.append((name, source))
        }
        self.init(sources: sources)
    }

    /// The template named `name`; without a name "tool_use" where tools are given and there is one, else "default".
    /// - Throws: `TemplateError.noTemplate`, or what parsing throws.
    public func template(named name: String? = nil, forTools: Bool = false) throws(TemplateError) -> ChatTemplate {
        let fallback = forTools && sources.contains { $0.name == "tool_use" } ? "tool_use" : "default"
        let wanted = name ?? fallback
        guard let source = sources.first(where: { $0.name == wanted })?.source else {
            throw .noTemplate(name: wanted, available: sources.map(\.name))
        }
        return try ChatTemplate(source: source)
    }

    /// The variables for special tokens that transformers defines: `bos_token`, `eos_token`, `unk_token` and others,
    /// as far as tokenizer_config.json sets them, as a string or as an object with `content`.
    public static func specialTokens(of tokenizerConfig: JSONNode) throws(JSONError) -> [String: JSONValue] {
        var tokens: [String: JSONValue] = [:]
        for name in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"] {
            guard let node = try tokenizerConfig.optional("\(name)_token") else { continue }
            let token = try node.value.objectValue == nil ? node.string() : node.string("content")
            tokens["\(name)_token"] = .string(token)
        }
        return tokens
    }
}
