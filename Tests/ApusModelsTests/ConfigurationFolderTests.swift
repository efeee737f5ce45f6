import ApusModels
import ApusText
import Testing

/// What lies beside a model's weights: chat template, generation defaults, tokenizer.
@Suite struct ConfigurationFolderTests {
    private func folder(_ files: [String: String]) throws -> TestFolder {
        let folder = try TestFolder()
        for name in ["config.json", "model.safetensors"] {
            try folder.write(try Fixtures.bytes("models/llama2/\(name)"), name)
        }
        for (name, text) in files { try folder.write(text, name) }
        return folder
    }

    @Test func chatTemplatesAreFoundWhereTheyStand() throws {
        func template(_ files: [String: String]) throws -> String? {
            let folder = try folder(files)
            return try Checkpoints.open(folder.path).chatTemplate()
        }
        #expect(try template([:]) == nil)
        #expect(try template(["tokenizer_config.json": "{}"]) == nil)
        #expect(try template(["tokenizer_config.json": #"{"chat_template": "a"}"#]) == "a")
        let named = #"{"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}"#
        #expect(try template(["tokenizer_config.json": named]) == "d")
        #expect(try template(["tokenizer_config.json": named, "chat_template.jinja": "j"]) == "j")
        #expect(throws: (any Error).self) { try template(["tokenizer_config.json": "{"]) }
        #expect(throws: (any Error).self) { try template(["tokenizer_config.json": #"{"chat_template": 1}"#]) }
        #expect(try Checkpoints.open(Fixtures.path("formats/tiny.gguf")).chatTemplate() == "{{ messages }}")
        #expect(try Checkpoints.open(Fixtures.path("models/llama2/model.gguf")).chatTemplate() == nil)
    }

    @Test func generationDefaultsAreReadAndTheirEndsHold() throws {
        let text = """
            {"eos_token_id": [2, 7], "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
             "repetition_penalty": 1.1, "max_new_tokens": 128, "transformers_version": "4.0"}
            """
        let with = try folder(["generation_config.json": text])
        let without = try folder([:])
        let checkpoint = try Checkpoints.open(with.path)
        var expected = GenerationDefaults()
        expected.eosTokens = [2, 7]
        expected.samples = true
        (expected.temperature, expected.topP, expected.minP) = (0.6, 0.9, 0.05)
        (expected.topK, expected.repetitionPenalty, expected.maxNewTokens) = (40, 1.1, 128)
        #expect(checkpoint.generationDefaults == expected)
        #expect(checkpoint.configuration.eosTokens == [2, 7])
        #expect(try Checkpoints.open(without.path).configuration.eosTokens == [2])
    }

    @Test func tokenizersAreFoundWhereTheyStand() throws {
        func source(_ path: String) throws -> String {
            switch try Checkpoints.open(path).tokenizer {
            case .none: "none"
            case .file(let path): path
            case .gguf(let metadata): metadata["tokenizer.ggml.model"]?.string ?? ""
            case .text(let text, _): text
            }
        }
        #expect(try source(Fixtures.path("models/llama2")) == "none")
        #expect(try source(Fixtures.path("models/llama2/model.gguf")) == "none")
        #expect(try source(Fixtures.path("formats/tiny.gguf")) == "llama")
        let folder = try folder(["tokenizer.json": "{}"])
        #expect(try source(folder.path) == folder.path("tokenizer.json"))
    }

    @Test func aFileInsideTheFolderOpensTheModelToo() throws {
        let folder = try Checkpoints.open(Fixtures.path("models/llama2"))
        for file in ["model.safetensors", "config.json"] {
            let checkpoint = try Checkpoints.open(Fixtures.path("models/llama2/\(file)"))
            #expect(checkpoint.configuration == folder.configuration)
            #expect(checkpoint.tensorNames == folder.tensorNames)
        }
        let sharded = try Checkpoints.open(Fixtures.path("models/llama-sharded/model.safetensors.index.json"))
        #expect(sharded.tensorNames.count == 21)
    }

    @Test func theVocabularyOfAGGUFFileComesAsBytes() throws {
        let file = try GGUFFile(path: Fixtures.path("formats/tiny.gguf"))
        let tokens = try #require(try file.metadata.array("tokenizer.ggml.tokens", of: .string))
        var lengths: [Int] = []
        tokens.forEachString { lengths.append($0.count) }
        #expect(lengths == [5, 3, 4, 4, 1])
        #expect(tokens.strings == ["<unk>", "<s>", "</s>", "\u{2581}a", "b"])
    }
}
