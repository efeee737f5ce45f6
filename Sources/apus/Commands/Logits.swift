import ApusEngine
import ApusModels
import ApusText
import ArgumentParser

/// `apus logits`: what the model says after each token, for people who port models.
struct Logits: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print the logits after each token of a sequence.",
        discussion: """
            Needs no tokenizer: only config.json and safetensors, or a GGUF. A model with a score head prints its scores \
            after the last token.

            EXAMPLES:
              apus logits ./model --tokens 1,2,3 --json
              apus logits model.gguf --tokens 1,2,3 --precision float32
            """)

    @OptionGroup var model: ModelOptions
    @Option(help: "Token ids, separated by commas.") var tokens: TokenList
    @Flag(help: "Print an array of positions x vocabulary; otherwise the five largest logits of each position.")
    var json =
        false
    @OptionGroup var ranks: RankOptions

    func run() throws { try ranks.run(print) }

    private func print(_ context: RankContext) throws {
        let decoder = try model.loadDecoder(context)
        let rows = try decoder.logits(of: tokens.ids, cacheType: try model.cacheDType())
        if json {
            let values = rows.map { row in
                JSONValue.array(row.map { $0.isFinite ? .double(Double($0)) : .string("\($0)") })
            }
            try context.out(JSONValue.array(values).serialized() + "\n")
            return
        }
        for (position, row) in rows.enumerated() {
            let top = row.indices.sorted { row[$0] > row[$1] }.prefix(5)
            let text = top.map { "\($0): \(row[$0])" }.joined(separator: "  ")
            try context.out("\(position)  \(text)\n")
        }
    }
}
