import ApusModels
import ApusText
import Testing

/// Configurations that no model has. Each must be an error that names the key, never a crash.
@Suite struct MalformedConfigurationTests {
    private func read(_ text: [UInt8]) throws -> DecoderConfiguration {
        try DecoderConfiguration(json: MappedFile(copying: text, name: "config.json"))
    }

    private func fixture(_ name: String) throws -> JSONObject {
        try #require(try JSONValue(parsing: try Fixtures.bytes("models/\(name)/config.json")).objectValue)
    }

    private func read(_ object: JSONObject) throws -> DecoderConfiguration {
        try read(Array(JSONValue.object(object).serialized().utf8))
    }

    @Test(arguments: ["llama3", "gptneox"])
    func truncationAnywhereIsAnError(_ name: String) throws {
        var bytes = try Fixtures.bytes("models/\(name)/config.json")
        while bytes.last != UInt8(ascii: "}") { bytes.removeLast() }
        for length in 0..<bytes.count {
            #expect(throws: (any Error).self, "\(length) bytes") { try read(Array(bytes[..<length])) }
        }
        #expect(throws: Never.self) { try read(bytes) }
    }

    @Test(arguments: ["llama3", "qwen3", "gptneox", "llama-reward"])
    func bitFlipsAnywhereNeverCrash(_ name: String) throws {
        var bytes = try Fixtures.bytes("models/\(name)/config.json")
        var refused = 0
        for position in bytes.indices {
            for bit in 0..<8 {
                bytes[position] ^= 1 << bit
                do { _ = try read(bytes).tensorRoles } catch { refused += 1 }
                bytes[position] ^= 1 << bit
            }
        }
        #expect(refused > bytes.count)
    }

    static let sizes = [
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "intermediate_size", "max_position_embeddings",
    ]

    @Test(arguments: sizes)
    func sizesThatNoModelHasAreNamed(_ key: String) throws {
        let bad: [JSONValue] = [0, -1, 2.5, "8", .array([]), .integer(.max), .integer(.min), 1e300, .bool(true)]
        for value in bad {
            var object = try fixture("llama3")
            object[key] = value
            let error = #expect(throws: (any Error).self, "\(key) \(value)") { try read(object) }
            #expect("\(try #require(error))".contains("config.json"))
        }
    }

    @Test(arguments: ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
    func missingSizesAreNamed(_ key: String) throws {
        for name in ["llama3", "gptneox"] {
            var object = try fixture(name)
            object[key] = nil
            let error = #expect(throws: (any Error).self) { try read(object) }
            #expect("\(try #require(error))".contains(key))
        }
    }

    @Test func numbersThatDoNotFitTogetherAreErrors() throws {
        let cases: [(String, String, JSONValue)] = [
            ("llama3", "num_key_value_heads", 3), ("llama3", "num_key_value_heads", 5), ("llama3", "head_dim", 7),
            ("gptneox", "num_attention_heads", 3), ("llama3", "rms_norm_eps", -1), ("llama3", "rms_norm_eps", 1e9),
            ("mistral-window", "sliding_window", 0), ("mistral-window", "sliding_window", -5),
            ("qwen3", "head_dim", 1_099_511_627_776),
            ("llama3", "rope_parameters", ["rope_theta": 0, "rope_type": "default"]),
            ("llama3", "rope_parameters", ["rope_theta": -5.0]),
            ("llama3", "rope_parameters", ["rope_type": "linear"]),
            ("llama3", "rope_parameters", ["rope_type": "linear", "factor": 0]),
            ("llama3", "rope_parameters", ["rope_type": "llama3", "factor": 8]),
            ("llama3", "rope_parameters", ["rope_type": "yarn", "factor": -1]),
            ("llama3", "rope_parameters", ["rope_type": "longrope"]),
            ("llama3", "rope_parameters", ["rope_type": "longrope", "short_factor": [1], "long_factor": [1]]),
            ("llama3", "rope_parameters", "default"), ("llama3", "rope_dim", 8), ("llama3", "rope_dim", 3),
            ("llama3", "qk_rope_dim", 5), ("llama3", "qk_rope_dim", 0),
            ("llama3", "rope_parameters", ["partial_rotary_factor": 2]),
            ("gptneox", "rope_parameters", ["partial_rotary_factor": 0.2]),
            ("llama-reward", "num_labels", 0), ("llama-reward", "id2label", .object([:])),
            ("llama3", "eos_token_id", "two"), ("llama3", "tie_word_embeddings", 1),
        ]
        for (name, key, value) in cases {
            var object = try fixture(name)
            object[key] = value
            #expect(throws: (any Error).self, "\(name) \(key) \(value)") { try read(object) }
        }
    }

    @Test func whatIsNotSupportedIsNamedWithWhatIs() throws {
        func message(_ name: String, _ key: String, _ value: JSONValue) throws -> String {
            var object = try fixture(name)
            object[key] = value
            return "\(try #require(#expect(throws: ModelFileError.self) { try read(object) }))"
        }
        let architecture = try message("llama3", "model_type", "mamba")
        #expect(architecture.contains("mamba"))
        for family in DecoderConfiguration.Architecture.allCases { #expect(architecture.contains(family.rawValue)) }
        #expect(try message("llama3", "architectures", ["LlamaForTokenClassification"]).contains("LlamaForCausalLM"))
        #expect(try message("llama3", "hidden_act", "relu6").contains("relu6"))
        #expect(try message("llama3", "rope_parameters", ["rope_type": "dynamic"]).contains("dynamic"))
        #expect(try message("llama3", "quantization_config", ["quant_method": "gptq"]).contains("gptq"))
        var sliding = try fixture("qwen3")
        sliding["use_sliding_window"] = true
        sliding["sliding_window"] = 16
        sliding["layer_types"] = ["full_attention", "linear_attention"]
        #expect(throws: ModelFileError.self) { try read(sliding) }
        sliding["layer_types"] = ["full_attention"]
        #expect(throws: ModelFileError.self) { try read(sliding) }
        sliding["layer_types"] = ["full_attention", "sliding_attention"]
        #expect(try read(sliding).windows == [nil, 16])
    }

    @Test func foreignTokensAreLeftOut() throws {
        var object = try fixture("llama2")
        object["eos_token_id"] = [2, 99999, -1, 5]
        object["pad_token_id"] = -1
        object["bos_token_id"] = 67
        let configuration = try read(object)
        #expect(configuration.eosTokens == [2, 5])
        #expect(configuration.padToken == nil && configuration.bosToken == nil)
    }

    @Test func foldersWithoutTheirPartsAreErrors() throws {
        let folder = try TestFolder()
        let error = #expect(throws: ModelFileError.self) { try Checkpoints.open(folder.path) }
        #expect("\(try #require(error))".contains("model.safetensors"))
        try folder.write(try Fixtures.bytes("models/llama2/model.safetensors"), "model.safetensors")
        let second = #expect(throws: ModelFileError.self) { try Checkpoints.open(folder.path) }
        #expect("\(try #require(second))".contains("config.json"))
        try folder.write(try Fixtures.bytes("models/llama2/config.json"), "config.json")
        #expect(throws: Never.self) { try Checkpoints.open(folder.path("model.safetensors")) }
        try folder.write("{", "generation_config.json")
        #expect(throws: (any Error).self) { try Checkpoints.open(folder.path) }
        try folder.write(#"{"temperature": -1}"#, "generation_config.json")
        #expect(throws: (any Error).self) { try Checkpoints.open(folder.path) }
        #expect(throws: ModelFileError.self) { try Checkpoints.open(folder.path("absent")) }
    }

    @Test func ggufKeysThatLieAreErrors() throws {
        let original = try GGUFFile(path: Fixtures.path("models/llama3/model.gguf"))
        func read(_ key: String, _ value: GGUFValue) throws -> DecoderConfiguration {
            let folder = try TestFolder()
            var writer = GGUFWriter()
            for (key, value) in original.metadata.entries { writer.set(key, value) }
            writer.set(key, value)
            for info in original.tensors { writer.add(info.name, shape: .init(info.extents), dtype: .f32) }
            try writer.write(to: folder.path("m")) { try original.tensor(named: $0) }
            return try DecoderConfiguration(gguf: GGUFFile(path: folder.path("m")))
        }
        let bad: [(String, GGUFValue)] = [
            ("general.architecture", .string("rwkv")), ("general.architecture", .uint32(1)),
            ("llama.block_count", .uint64(.max)), ("llama.block_count", .uint32(0)),
            ("llama.block_count", .string("2")),
            ("llama.block_count", .uint32(.max)), ("llama.embedding_length", .int32(-32)),
            ("llama.attention.head_count", .uint32(0)),
            ("llama.attention.head_count", .array(GGUFArray([4, 2] as [Int32]))),
            ("llama.attention.head_count", .array(GGUFArray([] as [Int32]))),
            ("llama.attention.head_count_kv", .uint32(3)), ("llama.attention.head_count_kv", .uint32(0)),
            ("llama.attention.key_length", .uint32(9)), ("llama.attention.value_length", .uint32(16)),
            ("llama.attention.layer_norm_rms_epsilon", .float32(.nan)), ("llama.rope.freq_base", .float32(.infinity)),
            ("llama.rope.freq_base", .float32(0)), ("llama.rope.dimension_count", .uint32(7)),
            ("llama.rope.dimension_count", .uint32(4)), ("llama.context_length", .uint64(.max)),
            ("llama.context_length", .uint32(0)), ("llama.expert_count", .uint32(8)),
            ("tokenizer.ggml.eos_token_id", .string("x")),
        ]
        for (key, value) in bad {
            #expect(throws: ModelFileError.self, "\(key) \(value)") { try read(key, value) }
        }
        #expect(try read("llama.attention.head_count", .array(GGUFArray([4, 4] as [Int32]))).queryHeads == 4)
        #expect(try read("tokenizer.ggml.eos_token_id", .uint32(5)).eosTokens == [5])
        #expect(try read("tokenizer.ggml.eos_token_id", .uint32(500)).eosTokens == [])
        #expect(try read("llama.attention.sliding_window", .uint32(64)).windows == [64, 64])
    }
}
