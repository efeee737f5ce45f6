import ApusAttention
import ApusModels
import ApusText
import Testing

/// Rotary frequencies against those that transformers derives from the same configuration (`Tests/Fixtures/rotary.py`).
@Suite struct ConfigurationRotaryTests {
    static let cases = 0..<7

    @Test(arguments: cases)
    func frequenciesEqualTransformers(_ number: Int) throws {
        let root = JSONNode(try JSONValue(parsing: try Fixtures.bytes("formats/rotary.json")), name: "rotary.json")
        let all = try root.elements()
        #expect(all.count == Self.cases.count)
        let entry = all[number]
        // The newer spelling, then the older one.
        let newer = try entry.child("config").object()
        var older = newer
        older["rope_scaling"] = newer["rope_parameters"]
        older["rope_theta"] = newer["rope_parameters"]?["rope_theta"]
        older["rope_parameters"] = nil
        for config in [newer, older] {
            let configuration = try DecoderConfiguration(
                json: JSONNode(.object(config), name: "config.json"), file: "config.json")
            let embedding = configuration.rotary.embedding
            let expected = try entry.child("frequencies").elements().map { try $0.double() }
            #expect(embedding.inverseFrequencies.count == expected.count)
            for (found, wanted) in zip(embedding.inverseFrequencies, expected) {
                #expect(abs(found / wanted - 1) < 1e-5, "\(found) \(wanted)")
            }
            #expect(abs(embedding.magnitude - (try entry.double("magnitude"))) < 1e-6)
        }
    }

    @Test func layersWithAWindowMayRotateDifferently() throws {
        let text = """
            {"model_type": "qwen3", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 3, "head_dim": 4,
             "num_attention_heads": 2, "intermediate_size": 8, "use_sliding_window": true, "sliding_window": 4,
             "layer_types": ["full_attention", "sliding_attention", "full_attention"],
             "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4, "rope_theta": 1e6},
                                 "sliding_attention": {"rope_theta": 500}}}
            """
        let configuration = try DecoderConfiguration(
            json: MappedFile(copying: Array(text.utf8), name: "config.json"))
        #expect(configuration.windows == [nil, 4, nil])
        #expect(
            configuration.rotary(layer: 0) == RotaryConfiguration(width: 4, theta: 1e6, scaling: .linear(factor: 4)))
        #expect(configuration.rotary(layer: 1) == RotaryConfiguration(width: 4, theta: 500))
        #expect(configuration.rotary(layer: 2) == configuration.rotary(layer: 0))
    }
}
