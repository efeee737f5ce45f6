/// What a name in `tokenizer.ggml.pre` stands for.
struct GGUFPreTokenizer {
    var steps: [PreTokenizer.Step]
    /// Whether a word that is a token is that token, whatever the merges say.
    var ignoresMerges = false
    /// Whether the model expects its first token unless the file says otherwise.
    var addsBOS = false

    /// The pre-tokenizer of a name; a missing name means GPT-2's.
    /// - Throws: `TokenizerError.unsupported` for names that are not known.
    init(name: String?) throws(TokenizerError) {
        switch name ?? "default" {
        case "default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling",
            "modern-bert", "mellum", "gigachat", "roberta-bpe", "jina-v2-code":
            steps = [.scan(.gpt2)]
        case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b":
            // Each number character by itself, then GPT-2's pattern on what is between them.
            steps = [.split(.characters(.number), .isolated, isInverted: false), .scan(.gpt2)]
        case "llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2":
            steps = [.scan(.llama3(digits: 3))]
            ignoresMerges = true
            addsBOS = true
        case "dbrx", "smaug-bpe", "chatglm-bpe", "glm4": steps = [.scan(.llama3(digits: 3))]
        case "qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open":
            steps = [.scan(.llama3(digits: 1))]
        case "deepseek-llm":
            steps = try Self.regexes([
                "[\r\n]", #"\s?[\p{L}]+"#, #"\s?[\p{P}]+"#, #"[一-龥ࠀ-一가-퟿]+"#, #"\p{N}+"#,
            ])
        case "deepseek-coder":
            steps = try Self.regexes(["[\r\n]", #"\s?\p{L}+"#, #"\s?\p{P}+"#, #"[一-龥ࠀ-一가-퟿]+"#, #"\p{N}"#])
        case "deepseek-v3":
            steps = try Self.regexes([
                #"\p{N}{1,3}"#, "[一-龥぀-ゟ゠-ヿ]+",
                ##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##
                    + #"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#,
            ])
        case "gpt-4o", "llama4": steps = try Self.regexes([Self.gpt4o])
        case "tekken":
            steps = try Self.regexes([Self.tekken])
            ignoresMerges = true
            addsBOS = true
        case let other: throw .unsupported(component: "pre-tokenizer \"\(other)\"", at: "tokenizer.ggml.pre")
        }
    }

    private static func regexes(_ patterns: [String]) throws(TokenizerError) -> [PreTokenizer.Step] {
        var steps: [PreTokenizer.Step] = []
        for pattern in patterns {
            do {
                steps.append(.split(.regex(try RegexProgram(pattern)), .isolated, isInverted: false))
            } catch {
                throw .pattern(pattern, reason: error.reason, at: "tokenizer.ggml.pre")
            }
        }
        return steps
    }

    private static let upper = #"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"#
    private static let lower = #"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"#
    private static let contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

    static let gpt4o =
        #"[^\r\n\p{L}\p{N}]?"# + upper + "*" + lower + "+" + contraction + #"|[^\r\n\p{L}\p{N}]?"# + upper + "+" + lower
        + "*"
        + contraction + #"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"#

    static let tekken =
        #"[^\r\n\p{L}\p{N}]?"# + upper + "*" + lower + #"+|[^\r\n\p{L}\p{N}]?"# + upper + "+" + lower
        + #"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
}
